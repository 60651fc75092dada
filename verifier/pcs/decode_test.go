package pcs

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	guesttesting "github.com/google/go-tdx-guest/testing"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// component escapes as encodeURIComponent does.
func component(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// barePlus escapes as a proxy does that leaves what a path may hold.
func barePlus(s string) string { return strings.ReplaceAll(component(s), "%2B", "+") }

// plusChain returns a chain that has a '+', a '/' and an '=' in base64, so that
// tests don't pass for lack of them.
func plusChain(t testing.TB) string {
	pki := tdxsim.NewPKI([]byte("plus"), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	for i := range 100 {
		chain := string(pki.NewPlatform(tdxsim.PlatformOptions{Name: string(rune('a' + i))}).PCKChain())
		if strings.Contains(chain, "+") && strings.Contains(chain, "/") && strings.Contains(chain, "=\n") {
			return chain
		}
	}
	t.Fatal("no chain with '+', '/' and '='")
	return ""
}

func TestDecodeChain(t *testing.T) {
	chain := plusChain(t)
	first := chain[:strings.Index(chain, "-----END")+len("-----END CERTIFICATE-----\n")]
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}}))
	intels, err := url.PathUnescape(guesttesting.PckCrlHeader["Sgx-Pck-Crl-Issuer-Chain"][0])
	if err != nil {
		t.Fatal(err)
	}
	withHeader := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"A": "b"}, Bytes: []byte{1}}))
	for _, tt := range []struct {
		name, in, want string
	}{
		{"as Intel's", component(chain), chain},
		{"one certificate", component(first), first},
		{"bare plus", barePlus(chain), chain},
		{"plus for spaces", url.QueryEscape(chain), chain},
		{"as it is, without newlines escaped as such", strings.ReplaceAll(chain, "\n", "%0A"), chain},
		{"lowercase escapes", strings.ReplaceAll(strings.ReplaceAll(component(chain), "%0A", "%0a"), "%2B", "%2b"), chain},
		{"CRLF", component(strings.ReplaceAll(chain, "\n", "\r\n")), chain},
		{"no final newline", component(strings.TrimSuffix(chain, "\n")), chain},
		{"space around", component("\n" + chain + "\n "), chain},

		{"Intel's own", guesttesting.PckCrlHeader["Sgx-Pck-Crl-Issuer-Chain"][0], intels},

		{"empty", "", ""},
		{"space", "%20", ""},
		{"truncated escape", component(chain) + "%2", ""},
		{"bad escape", component(chain) + "%zz", ""},
		{"escaped twice", component(component(chain)), ""},
		{"text before", component("x" + chain), ""},
		{"text after", component(chain + "x"), ""},
		{"text between", component(first + "x\n" + first), ""},
		{"a broken block before", component("-----BEGIN CERTIFICATE-----\nAA\n" + chain), ""},
		{"cut short", component(chain[:len(chain)-40]), ""},
		{"lost plus", component(strings.Replace(chain, "+", " ", 1)), ""},
		{"not base64", component(strings.Replace(chain, "MII", "M!I", 1)), ""},
		{"another block", component(chain + key), ""},
		{"PEM headers", component(withHeader), ""},
		{"zero byte", component(chain) + "%00", ""},
		{"too long", component(strings.Repeat(chain, 20)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeChain(tt.in)
			if string(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %d bytes, %v; want %d bytes\n%s", len(got), err, len(tt.want), got)
			}
		})
	}
}

// FuzzDecodeChain checks that there is one form of what is accepted, whichever
// way it was escaped, and that it is certificates only.
func FuzzDecodeChain(f *testing.F) {
	// The certificates' contents don't matter, and whole ones make the fuzzer
	// spend its time on making them smaller: these are in TestDecodeChain.
	short := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0xfb, 0xef, 0xbe, 0xff, 0xff}}))
	for _, chain := range []string{short, short + short} {
		for _, s := range []string{chain, component(chain), barePlus(chain), url.QueryEscape(chain)} {
			if got, err := decodeChain(s); err != nil || string(got) != chain {
				f.Fatalf("seed: %q, %v", got, err)
			}
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		chain, err := decodeChain(s)
		if err != nil {
			return
		}
		for rest := chain; len(rest) > 0; {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil || b.Type != "CERTIFICATE" || len(b.Headers) > 0 {
				t.Fatalf("not certificates only: %q", chain)
			}
		}
		for name, escape := range map[string]func(string) string{
			"component": component, "bare plus": barePlus, "query": url.QueryEscape,
		} {
			e := escape(string(chain))
			if len(e) > maxChain {
				continue
			}
			if again, err := decodeChain(e); err != nil || !bytes.Equal(again, chain) {
				t.Errorf("%s: got %q, %v; want %q", name, again, err, chain)
			}
		}
	})
}

func crls(t testing.TB) [][]byte {
	pki := tdxsim.NewPKI([]byte("crl"), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	c, err := pki.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	responses := guesttesting.TestGetter.Responses
	return [][]byte{c.RootCRL, c.PCKCRL, responses[intelRootCRL].Body, responses[IntelURL+crlPath+"?ca=platform&encoding=der"].Body}
}

func TestDecodeCRL(t *testing.T) {
	for _, der := range crls(t) {
		asPEM := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
		for name, b := range map[string][]byte{
			"DER": der, "hex": hex.AppendEncode(nil, der), "HEX": bytes.ToUpper(hex.AppendEncode(nil, der)),
			"hex and newline": append(hex.AppendEncode(nil, der), '\n'), "PEM": asPEM,
		} {
			if got, err := decodeCRL(b); err != nil || !bytes.Equal(got, der) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		for name, b := range map[string][]byte{
			"empty": nil, "space": []byte(" "), "odd hex": hex.AppendEncode(nil, der)[1:], "quoted hex": []byte(`"` + hex.EncodeToString(der) + `"`),
			"text": []byte("not found"), "two PEM": append(bytes.Clone(asPEM), asPEM...), "cut PEM": asPEM[:len(asPEM)/2],
			"certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "hex of something else": []byte("00112233"),
		} {
			if got, err := decodeCRL(b); err == nil {
				t.Errorf("%s: accepted, %d bytes", name, len(got))
			}
		}
	}
}

// FuzzDecodeCRL checks that the encodings of what is accepted are told apart.
func FuzzDecodeCRL(f *testing.F) {
	for _, der := range crls(f) {
		f.Add(der)
		f.Add(hex.AppendEncode(nil, der))
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL"})) // was accepted once
	f.Fuzz(func(t *testing.T, b []byte) {
		der, err := decodeCRL(b)
		if err != nil {
			return
		}
		if again, err := decodeCRL(hex.AppendEncode(nil, der)); err != nil || !bytes.Equal(again, der) {
			t.Errorf("hex of %x: %x, %v", der, again, err)
		}
	})
}

// FuzzCacheFile checks that a file that is accepted is the file of a set that
// verifies, and that writing the set gives a file of the same set.
func FuzzCacheFile(f *testing.F) {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	pki := tdxsim.NewPKI([]byte("fuzz"), at)
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		f.Fatal(err)
	}
	for _, ca := range []string{PlatformCA, ProcessorCA} {
		c, err := pki.Collateral(tdxsim.CollateralOptions{CA: ca})
		if err != nil {
			f.Fatal(err)
		}
		b, err := c.JSON()
		if err != nil {
			f.Fatal(err)
		}
		if _, err := parseFile(b, root); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(bytes.ReplaceAll(b, []byte(`,"`), []byte(",\n  \"")))
		f.Add(bytes.Replace(b, []byte("OutOfDate"), []byte("UpToDate"), 1))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := parseFile(b, root)
		if err != nil {
			return
		}
		again, err := set.Collateral().JSON()
		if err != nil {
			t.Fatalf("accepted, but can't be written: %v", err)
		}
		set2, err := parseFile(again, root)
		if err != nil {
			t.Fatalf("accepted, but not what was written: %v", err)
		}
		if !sameBytes(set, set2) || setKey(set) != setKey(set2) {
			t.Error("another set after writing")
		}
		if _, err := newKey(setKey(set).fmspc, setKey(set).ca); err != nil {
			t.Error(err)
		}
	})
}
