package record

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// The benchmarks on a statement have two baselines beside them, on the same
// bytes: the JSON library's own scan for tokens, which parsing can't go below,
// and the one SHA-512 that REPORTDATA costs.

func benchStatement(b *testing.B, f func(b *testing.B, payload []byte)) {
	pretty, err := os.ReadFile(filepath.Join("..", "..", "testdata", "record", "statements", "session.json"))
	if err != nil {
		b.Fatal(err)
	}
	if pretty, err = indent(pretty); err != nil {
		b.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, pretty); err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		payload []byte
	}{{"compact", compact.Bytes()}, {"indented", pretty}} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(len(tt.payload)))
			b.ReportAllocs()
			f(b, tt.payload)
		})
	}
}

func indent(b []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Indent(&out, b, "", "  ")
	return out.Bytes(), err
}

func BenchmarkParseStatement(b *testing.B) {
	benchStatement(b, func(b *testing.B, payload []byte) {
		for b.Loop() {
			if _, err := ParseStatement(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBaselineTokens(b *testing.B) {
	var d jsontext.Decoder
	benchStatement(b, func(b *testing.B, payload []byte) {
		for b.Loop() {
			d.Reset(bytes.NewBuffer(payload), decoderOptions)
			for {
				if _, err := d.ReadToken(); err == io.EOF {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkBaselineSHA512(b *testing.B) {
	benchStatement(b, func(b *testing.B, payload []byte) {
		for b.Loop() {
			sha512.Sum512(payload)
		}
	})
}

func BenchmarkStatementDigest(b *testing.B) {
	benchStatement(b, func(b *testing.B, payload []byte) {
		for b.Loop() {
			StatementDigest(PayloadType, payload)
		}
	})
}
