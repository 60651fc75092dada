package bundle_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// formBundle returns a small bundle that is well-formed and proves nothing.
func formBundle(tb testing.TB) *bundle.Bundle {
	l := bundletest.NewLog(tb, bundletest.LogOptions{Witnesses: 1})
	for i := range 20 {
		l.Append(fmt.Appendf(nil, "leaf %d", i))
	}
	b := l.Bundle(13, l.Publish(bundletest.Epoch), 2, 13, 17)
	b.Consistency[7] = l.Consistency(7, b.Proofs[0].Checkpoint)
	for _, blob := range []string{"one", "two", ""} {
		b.Blobs[sha256.Sum256([]byte(blob))] = []byte(blob)
	}
	return b
}

func mustBytes(tb testing.TB, b *bundle.Bundle) []byte {
	tb.Helper()
	file, err := b.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	return file
}

// members unpacks a file with Go's own reader of ZIP files.
func members(tb testing.TB, file []byte) (names []string, data map[string][]byte) {
	tb.Helper()
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		tb.Fatal(err)
	}
	data = make(map[string][]byte)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			tb.Fatal(err)
		}
		b, err := io.ReadAll(r) // checks the CRC
		if err != nil {
			tb.Fatal(err)
		}
		names = append(names, f.Name)
		data[f.Name] = b
	}
	return names, data
}

// pack makes a file with Go's own writer, with the header fields that the format demands.
func pack(tb testing.TB, names []string, data map[string][]byte, edit func(*zip.FileHeader)) []byte {
	tb.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, name := range names {
		h := &zip.FileHeader{
			Name: name, CreatorVersion: 10, ReaderVersion: 10, Method: zip.Store,
			//lint:ignore SA1019 CreateRaw doesn't look at Modified, which is meant to replace it
			ModifiedDate: 1<<5 | 1,
			CRC32:        crc32.ChecksumIEEE(data[name]), CompressedSize64: uint64(len(data[name])), UncompressedSize64: uint64(len(data[name])),
		}
		if edit != nil {
			edit(h)
		}
		w, err := z.CreateRaw(h)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data[name]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// TestCodec fails if the bytes are anything but what Go's independent writer of ZIP files makes of the same members, or
// if Parse loses or changes something.
func TestCodec(t *testing.T) {
	b := formBundle(t)
	file := mustBytes(t, b)
	got, err := bundle.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if again := mustBytes(t, got); !bytes.Equal(again, file) {
		t.Error("parsed and encoded again, the file differs")
	}
	if got.Subject != 13 || len(got.Proofs) != 3 || len(got.Blobs) != 3 || len(got.Consistency) != 1 {
		t.Errorf("got %d, %d proofs, %d blobs, %d consistency proofs", got.Subject, len(got.Proofs), len(got.Blobs), len(got.Consistency))
	}
	names, data := members(t, file)
	want := []string{
		"README.txt",
		"blobs/" + hexOf("two"), "blobs/" + hexOf("one"), "blobs/" + hexOf(""),
		"bundle",
		"consistency/00000000000000000007",
		"proofs/00000000000000000002.tlog-proof", "proofs/00000000000000000013.tlog-proof", "proofs/00000000000000000017.tlog-proof",
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("members are %q, want %q", names, want)
	}
	if got := string(data["bundle"]); got != "affidavit-bundle/v1\nsubject 13\n" {
		t.Errorf("member bundle is %q", got)
	}
	if !bytes.Equal(pack(t, names, data, nil), file) {
		t.Error("archive/zip makes other bytes of the same members")
	}
}

func hexOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// TestUnzip checks that people can look into the file with what they have.
func TestUnzip(t *testing.T) {
	unzip, err := exec.LookPath("unzip")
	if err != nil {
		t.Skip("no unzip on this machine")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "b.affidavit")
	if err := os.WriteFile(file, mustBytes(t, formBundle(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(unzip, "-t", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Fatalf("unzip -t: %v\n%s", err, out)
	}
	if out, err := exec.Command(unzip, "-d", filepath.Join(dir, "out"), file).CombinedOutput(); err != nil {
		t.Fatalf("unzip: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out", "bundle"))
	if err != nil || string(b) != "affidavit-bundle/v1\nsubject 13\n" {
		t.Errorf("unpacked %q, %v", b, err)
	}
}

// TestParseRefuses starts from a good file and changes one thing in it.
func TestParseRefuses(t *testing.T) {
	good := mustBytes(t, formBundle(t))
	if _, err := bundle.Parse(good); err != nil {
		t.Fatal(err)
	}
	names, data := members(t, good)
	blob := "blobs/" + hexOf("one")
	proof := "proofs/00000000000000000013.tlog-proof"

	// repack changes members and packs them in the one way, so that only the contents are wrong.
	repack := func(edit func(names []string, data map[string][]byte) []string) []byte {
		d := make(map[string][]byte)
		for name, b := range data {
			d[name] = slices.Clone(b)
		}
		n := edit(slices.Clone(names), d)
		return pack(t, n, d, nil)
	}
	rename := func(from, to string) []byte {
		return repack(func(n []string, d map[string][]byte) []string {
			d[to] = d[from]
			n[slices.Index(n, from)] = to
			slices.Sort(n)
			return n
		})
	}
	replace := func(name, text string) []byte {
		return repack(func(n []string, d map[string][]byte) []string { d[name] = []byte(text); return n })
	}
	add := func(name, text string) []byte {
		return repack(func(n []string, d map[string][]byte) []string {
			d[name] = []byte(text)
			n = append(n, name)
			slices.Sort(n)
			return n
		})
	}
	remove := func(name string) []byte {
		return repack(func(n []string, d map[string][]byte) []string {
			return slices.DeleteFunc(n, func(s string) bool { return s == name })
		})
	}
	header := func(edit func(*zip.FileHeader)) []byte { return pack(t, names, data, edit) }
	otherNote := func() string {
		p, err := checkpoint.ParseProof(data[proof])
		if err != nil {
			t.Fatal(err)
		}
		n, err := checkpoint.ParseNote(p.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		k := bundletest.Key(t, checkpoint.Ed25519, "somebody.example")
		line, err := k.Sign(n.Text, bundletest.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		p.Checkpoint = append(slices.Clone(p.Checkpoint), line...)
		return string(p.Bytes())
	}

	for _, tt := range []struct {
		name string
		file []byte
	}{
		{"empty", nil},
		{"not a ZIP file", []byte("c2sp.org/tlog-proof@v1\n")},
		{"an empty ZIP file", pack(t, nil, nil, nil)},
		{"truncated", good[:len(good)-1]},
		{"a byte appended", append(slices.Clone(good), 0)},
		{"a byte in front", append([]byte{0}, good...)},
		{"no directory", good[:bytes.Index(good, []byte("PK\x01\x02"))]},
		{"twice", append(slices.Clone(good), good...)},
		{"reordered", repack(func(n []string, _ map[string][]byte) []string { slices.Reverse(n); return n })},
		{"a member twice", repack(func(n []string, _ map[string][]byte) []string { return append(n, n[len(n)-1]) })},

		//lint:ignore SA1019 see pack
		{"another date", header(func(h *zip.FileHeader) { h.ModifiedDate++ })},
		//lint:ignore SA1019 see pack
		{"another time", header(func(h *zip.FileHeader) { h.ModifiedTime++ })},
		{"made by Unix", header(func(h *zip.FileHeader) { h.CreatorVersion |= 3 << 8 })},
		{"a later version needed", header(func(h *zip.FileHeader) { h.ReaderVersion = 20 })},
		{"flag for UTF-8", header(func(h *zip.FileHeader) { h.Flags |= 1 << 11 })},
		{"an extra field", header(func(h *zip.FileHeader) { h.Extra = []byte{0xca, 0xfe, 0, 0} })},
		{"a comment of a member", header(func(h *zip.FileHeader) { h.Comment = "x" })},
		{"permissions", header(func(h *zip.FileHeader) { h.ExternalAttrs = 0o100644 << 16 })},
		{"a wrong CRC", header(func(h *zip.FileHeader) { h.CRC32++ })},
		{"data descriptors", func() []byte {
			var buf bytes.Buffer
			z := zip.NewWriter(&buf)
			for _, name := range names {
				w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
				if err != nil {
					t.Fatal(err)
				}
				w.Write(data[name])
			}
			z.Close()
			return buf.Bytes()
		}()},
		{"compressed", func() []byte {
			var buf bytes.Buffer
			z := zip.NewWriter(&buf)
			for _, name := range names {
				w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
				if err != nil {
					t.Fatal(err)
				}
				w.Write(data[name])
			}
			z.Close()
			return buf.Bytes()
		}()},
		{"a comment", func() []byte {
			b := slices.Clone(good)
			b[len(b)-2] = 1
			return append(b, 'x')
		}()},

		{"no README", remove("README.txt")},
		{"another README", replace("README.txt", "This is an Affidavit bundle.\n")},
		{"no subject", remove("bundle")},
		{"a later version", replace("bundle", "affidavit-bundle/v2\nsubject 13\n")},
		{"subject without newline", replace("bundle", "affidavit-bundle/v1\nsubject 13")},
		{"subject with two newlines", replace("bundle", "affidavit-bundle/v1\nsubject 13\n\n")},
		{"subject with a sign", replace("bundle", "affidavit-bundle/v1\nsubject +13\n")},
		{"subject with a zero", replace("bundle", "affidavit-bundle/v1\nsubject 013\n")},
		{"subject that isn't there", replace("bundle", "affidavit-bundle/v1\nsubject 14\n")},
		{"subject beyond 64 bits", replace("bundle", "affidavit-bundle/v1\nsubject 18446744073709551629\n")},

		{"a blob under another's name", rename(blob, "blobs/"+hexOf("three"))},
		{"a blob in upper case", rename(blob, "blobs/"+strings.ToUpper(hexOf("one")))},
		{"a blob with a short name", rename(blob, blob[:len(blob)-1])},
		{"a blob with a long name", rename(blob, blob+"0")},
		{"a changed blob", replace(blob, "One")},
		{"a member of its own", add("notes.txt", "hello")},
		{"a path that climbs", add("../../etc/passwd", "x")},
		{"an absolute path", add("/etc/passwd", "x")},
		{"a directory", add("proofs/", "")},
		{"an empty name", add("", "x")},
		{"a very long name", add("proofs/"+strings.Repeat("0", 1000), "x")},

		{"a proof under another index", rename(proof, "proofs/00000000000000000014.tlog-proof")},
		{"a proof without padding", rename(proof, "proofs/13.tlog-proof")},
		{"a proof that isn't one", replace(proof, "c2sp.org/tlog-proof@v1\nindex 13\n")},
		{"a proof without a leaf", func() []byte {
			p, err := checkpoint.ParseProof(data[proof])
			if err != nil {
				t.Fatal(err)
			}
			p.Extra = nil
			return replace(proof, string(p.Bytes()))
		}()},
		{"a proof with another checkpoint", replace(proof, otherNote())},
		{"no proofs", repack(func(n []string, _ map[string][]byte) []string {
			return slices.DeleteFunc(n, func(s string) bool { return strings.HasPrefix(s, "proofs/") })
		})},

		{"consistency from size 0", add("consistency/00000000000000000000", "")},
		{"consistency without hashes", replace("consistency/00000000000000000007", "")},
		{"consistency without padding", rename("consistency/00000000000000000007", "consistency/7")},
		{"consistency with a short hash", replace("consistency/00000000000000000007", "AAAA\n")},
		{"consistency with spare bits", replace("consistency/00000000000000000007", strings.Repeat("A", 42)+"B=\n")},
		{"consistency without a newline", replace("consistency/00000000000000000007", strings.Repeat("A", 43)+"=")},
		{"consistency with CRLF", replace("consistency/00000000000000000007", strings.Repeat("A", 43)+"=\r\n")},
		{"consistency with 65 hashes", replace("consistency/00000000000000000007", strings.Repeat(strings.Repeat("A", 43)+"=\n", 65))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := bundle.Parse(tt.file); !errors.Is(err, bundle.ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", b, err)
			}
		})
	}
}

// TestBytesRefuses starts from a good value and changes one thing in it.
func TestBytesRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(b *bundle.Bundle)
	}{
		{"no proofs", func(b *bundle.Bundle) { b.Proofs = nil }},
		{"a nil proof", func(b *bundle.Bundle) { b.Proofs[1] = nil }},
		{"no proof for the subject", func(b *bundle.Bundle) { b.Subject = 3 }},
		{"out of order", func(b *bundle.Bundle) { slices.Reverse(b.Proofs) }},
		{"a proof twice", func(b *bundle.Bundle) { b.Proofs = append(b.Proofs, b.Proofs[2]) }},
		{"another checkpoint", func(b *bundle.Bundle) {
			p := *b.Proofs[2]
			p.Checkpoint = append(slices.Clone(p.Checkpoint), '\n')
			b.Proofs[2] = &p
		}},
		{"no leaf", func(b *bundle.Bundle) { b.Proofs[2].Extra = nil }},
		{"a blob under a wrong digest", func(b *bundle.Bundle) { b.Blobs[record.Digest{1}] = []byte("x") }},
		{"consistency from size 0", func(b *bundle.Bundle) { b.Consistency[0] = make([][32]byte, 1) }},
		{"consistency without hashes", func(b *bundle.Bundle) { b.Consistency[9] = nil }},
		{"consistency with 65 hashes", func(b *bundle.Bundle) { b.Consistency[9] = make([][32]byte, 65) }},
		{"too many consistency proofs", func(b *bundle.Bundle) {
			for i := range uint64(bundle.MaxConsistency) {
				b.Consistency[100+i] = make([][32]byte, 1)
			}
		}},
		{"too many blobs", func(b *bundle.Bundle) {
			for i := range bundle.MaxBlobs {
				blob := fmt.Append(nil, i)
				b.Blobs[sha256.Sum256(blob)] = blob
			}
		}},
		{"too many proofs", func(b *bundle.Bundle) {
			for i := range uint64(bundle.MaxProofs) {
				p := *b.Proofs[2]
				p.Index += 1 + i
				b.Proofs = append(b.Proofs, &p)
			}
		}},
		{"too large", func(b *bundle.Bundle) {
			blob := make([]byte, bundle.MaxSize)
			b.Blobs[sha256.Sum256(blob)] = blob
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := formBundle(t)
			mustBytes(t, b)
			tt.edit(b)
			if _, err := b.Bytes(); !errors.Is(err, bundle.ErrMalformed) {
				t.Errorf("got %v, want ErrMalformed", err)
			}
		})
	}
	if _, err := bundle.Parse(make([]byte, bundle.MaxSize+1)); !errors.Is(err, bundle.ErrMalformed) {
		t.Errorf("a file beyond the limit: got %v, want ErrMalformed", err)
	}
}

// TestManyMembers: what is hostile for sure is not looked at any further.
func TestManyMembers(t *testing.T) {
	data := make(map[string][]byte)
	var names []string
	for i := range 100_000 {
		name := fmt.Sprintf("consistency/%020d", 1+i)
		names, data[name] = append(names, name), nil
	}
	if _, err := bundle.Parse(pack(t, names, data, nil)); err == nil || !strings.Contains(err.Error(), "more than 387 members") {
		t.Errorf("got %v, want an error about the number of members", err)
	}
}

// TestEveryBitOfTheForm flips every bit of a small file: none may be accepted. Bits of what is signed by keys that
// nobody knows, and of README.txt, are no exception: checksums and the comparison of checkpoints cover all.
func TestEveryBitOfTheForm(t *testing.T) {
	file := mustBytes(t, formBundle(t))
	for i := range file {
		for bit := range 8 {
			file[i] ^= 1 << bit
			if _, err := bundle.Parse(file); !errors.Is(err, bundle.ErrMalformed) {
				t.Fatalf("bit %d of byte %d flipped: got %v, want ErrMalformed", bit, i, err)
			}
			file[i] ^= 1 << bit
		}
	}
}

// FuzzParseBundle: what Parse accepts has exactly one encoding.
func FuzzParseBundle(f *testing.F) {
	file := mustBytes(f, formBundle(f))
	f.Add(file)
	f.Add(file[:len(file)/2])
	r := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		b := slices.Clone(file)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := bundle.Parse(b)
		if err != nil {
			if !errors.Is(err, bundle.ErrMalformed) {
				t.Errorf("error %v does not wrap ErrMalformed", err)
			}
			return
		}
		if again, err := got.Bytes(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted two encodings, %v:\n%x\n%x", err, b, again)
		}
	})
}

// FuzzMembers packs arbitrary contents in the one way, which FuzzParseBundle rarely gets to, because of the checksums.
func FuzzMembers(f *testing.F) {
	names, data := members(f, mustBytes(f, formBundle(f)))
	for _, name := range names {
		f.Add(name, name, data[name])
	}
	f.Fuzz(func(t *testing.T, old, name string, b []byte) {
		d := make(map[string][]byte)
		n := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == old || s == name })
		for _, s := range n {
			d[s] = data[s]
		}
		if len(name) > 1<<15 || strings.HasSuffix(name, "/") {
			return // the writer of archives refuses to give a directory contents
		}
		d[name] = b
		n = append(n, name)
		slices.Sort(n)
		file := pack(t, n, d, nil)
		got, err := bundle.Parse(file)
		if err != nil {
			return
		}
		if again, err := got.Bytes(); err != nil || !bytes.Equal(again, file) {
			t.Errorf("accepted two encodings, %v:\n%x\n%x", err, file, again)
		}
	})
}

// TestReadme keeps the text from changing by accident: that would make every older file unreadable.
func TestReadme(t *testing.T) {
	_, data := members(t, mustBytes(t, formBundle(t)))
	const want = "56f85a6ea18546e166ff1f5a301957b37218e779e8acc13dcd490116b1fc57a5"
	if got := hexOf(string(data["README.txt"])); got != want {
		t.Errorf("SHA-256 of README.txt is %s, want %s: a changed text is a new version of the format", got, want)
	}
	for _, line := range strings.Split(string(data["README.txt"]), "\n") {
		if len(line) > 120 || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("line %q is long or not ASCII", line)
		}
	}
}
