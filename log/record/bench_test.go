package record

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"io"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// The benchmarks on a statement have two baselines beside them, on the same
// bytes: the JSON library's own scan for tokens, which parsing can't go below,
// and the one SHA-512 that REPORTDATA costs.

func benchStatement(b *testing.B, f func(b *testing.B, payload []byte)) {
	compact := vector(b, "statements/session.json")
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, compact, "", "  "); err != nil {
		b.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		payload []byte
	}{{"compact", compact}, {"indented", pretty.Bytes()}} {
		b.Run(tt.name, func(b *testing.B) {
			b.SetBytes(int64(len(tt.payload)))
			b.ReportAllocs()
			f(b, tt.payload)
		})
	}
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
			d.Reset(bytes.NewBuffer(payload), jsontext.AllowDuplicateNames(true))
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

// BenchmarkParseEnvelope is an entry but for its statement.
func BenchmarkParseEnvelope(b *testing.B) {
	entry := vector(b, "entries/session.bin")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseEnvelope(entry); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseLeaf is all that a reader of the log does to a leaf before it verifies it.
func BenchmarkParseLeaf(b *testing.B) {
	leaf := vector(b, "leaves/session.bin")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseLeaf(leaf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseEntryJSON(b *testing.B) {
	entry := vector(b, "entries/session.json")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEntryJSON(entry); err != nil {
			b.Fatal(err)
		}
	}
}
