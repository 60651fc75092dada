//go:build js && wasm

// Command wasm is the module inside the Verify page: package check, callable from JavaScript.
//
// It defines one function, affidavitCheck(rules, files), which returns a check.Reply in JSON. rules has the members
// logPolicy, appraisalPolicy, root (strings) and allowQuorumNone (boolean); files is an array of objects with the members
// name (a string) and bytes (a Uint8Array).
package main

import (
	"runtime/debug"
	"syscall/js"

	"github.com/affidavit-log/affidavit/client/webui/verifypage/check"
)

func main() {
	debug.SetGCPercent(400) // a check allocates some megabytes, and is over soon
	c := new(check.Checker)
	js.Global().Set("affidavitCheck", js.FuncOf(func(_ js.Value, args []js.Value) (reply any) {
		// A panic would end the module, and leave a page that never answers.
		defer func() {
			if r := recover(); r != nil {
				c = new(check.Checker)
				reply = string(check.Failed(r))
			}
		}()
		rules, list := args[0], args[1]
		files := make([]check.File, list.Length())
		for i := range files {
			f := list.Index(i)
			files[i] = check.File{Name: f.Get("name").String(), Bytes: make([]byte, f.Get("bytes").Length())}
			js.CopyBytesToGo(files[i].Bytes, f.Get("bytes"))
		}
		return string(c.Check(check.Rules{
			LogPolicy: rules.Get("logPolicy").String(), AppraisalPolicy: rules.Get("appraisalPolicy").String(),
			Root: rules.Get("root").String(), AllowQuorumNone: rules.Get("allowQuorumNone").Bool(),
		}, files).JSON())
	}))
	select {} // the function must stay callable
}
