package main

import (
	"bytes"
	"compress/gzip"

	"github.com/affidavit-log/affidavit/client/webui/verifypage"
)

// standInModule stands in for the WebAssembly module, which is there only if "make build" was run.
func standInModule() (*verifypage.Module, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte("\x00asm\x01\x00\x00\x00")); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &verifypage.Module{WASM: b.Bytes(), Exec: []byte("// runs it\n")}, nil
}

// withModule is main with a module.
func withModule(m *verifypage.Module, err error) func() {
	return func() {
		pageModule = func() (*verifypage.Module, error) { return m, err }
		main()
	}
}
