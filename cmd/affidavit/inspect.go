package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func inspectCommand() *command {
	return &command{
		name:  "inspect",
		usage: []string{"[--json] FILE..."},
		short: "decode any file of ours, without judging it",
		about: `Says what is in a file, whatever it is: a TDX quote (raw, hexadecimal, base64),
collateral, a statement, a DSSE envelope, an entry (binary or JSON), a leaf, a
.tlog-proof, an .affidavit bundle, a checkpoint, a log policy, an appraisal policy, the
private file of a session's owner, an action disclosure, a content of one, a certificate,
or a key. Of private keys it shows the public half.

Nothing is verified: a forged file looks the same. To know whether it is true, use
"affidavit verify" or "affidavit appraise".`,
		trusts: `Nothing, and nothing that it prints should be trusted.`,
		examples: `  affidavit inspect session.affidavit
  affidavit inspect --json final.entry | jq .statement
`,
		exits:   map[int]string{exitGood: "every file was decoded"},
		minArgs: 1, maxArgs: many,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			asJSON := jsonFlag(fs)
			return func(c *console, args []string) (int, error) {
				status := exitGood
				for i, name := range args {
					kind, size, f, err := inspectFile(c, name)
					switch {
					case err != nil:
						c.complain("affidavit inspect: %v", err)
						status = exitError
					case *asJSON:
						err := c.printJSON(append(fields{{"file", name}, {"kind", kind}, {"verified", false}}, f...))
						if err != nil {
							return 0, err
						}
					default:
						if i > 0 {
							fmt.Fprintln(c.stdout)
						}
						fmt.Fprintf(c.stdout, "%s: %s, %d bytes. Decoded only: NOTHING WAS VERIFIED.\n", clean(name), kinds[kind], size)
						f.print(c.stdout, "  ")
					}
				}
				return status, nil
			}
		},
	}
}

// inspectFile decodes a file. Only session files are so large that they aren't
// read as a whole.
func inspectFile(c *console, name string) (kind string, size int64, f fields, err error) {
	in, err := c.open(name)
	if err != nil {
		return "", 0, nil, err
	}
	defer in.Close()
	r := bufio.NewReader(in)
	if begin, _ := r.Peek(len(sessionMagic)); string(begin) == sessionMagic {
		counted := &counter{r: r}
		if f, err = sessionFields(counted); err != nil {
			err = fmt.Errorf("looks like %s, but: %w", kinds["session-file"], err)
		}
		kind, size = "session-file", counted.n
	} else {
		var b []byte
		if b, err = readAll(name, r, in.size); err != nil {
			return "", 0, nil, err
		}
		kind, f, err = decode(b)
		size = int64(len(b))
	}
	if err != nil {
		return "", 0, nil, fmt.Errorf("%s: %w", name, err)
	}
	return kind, size, f, nil
}

// counter counts what is read from r.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// fields is what was decoded, in order: an object for scripts, lines for people.
type fields []field

// A field's value is a string, an integer, a bool, a time, fields, or a slice of
// strings or fields; or JSON as it came.
type field struct {
	name  string
	value any
}

// MarshalJSON keeps the order.
func (f fields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, field := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(field.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := e.Encode(field.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (f fields) print(w io.Writer, indent string) {
	width := 0
	for _, field := range f {
		width = max(width, len(field.name))
	}
	for _, field := range f {
		lead := fmt.Sprintf("%s%-*s  ", indent, width, field.name)
		switch v := field.value.(type) {
		case fields:
			fmt.Fprintf(w, "%s%s\n", indent, field.name)
			v.print(w, indent+"  ")
		case []fields:
			for i, item := range v {
				fmt.Fprintf(w, "%s%s %d\n", indent, field.name, i)
				item.print(w, indent+"  ")
			}
		case []string:
			for _, s := range v {
				hang(w, lead, clean(s))
				lead = strings.Repeat(" ", len(lead))
			}
		case json.RawMessage:
			var b bytes.Buffer
			if json.Indent(&b, v, "", "  ") != nil {
				b.Write(v)
			}
			fmt.Fprintf(w, "%s%s\n", indent, field.name)
			for line := range strings.Lines(b.String()) {
				fmt.Fprintf(w, "%s  %s\n", indent, clean(strings.TrimSuffix(line, "\n")))
			}
		case time.Time:
			hang(w, lead, stamp(v))
		default:
			hang(w, lead, clean(fmt.Sprint(v)))
		}
	}
}

// kinds are the words for what a file is, which are stable, with what people call
// it.
var kinds = map[string]string{
	"quote":            "a TDX quote",
	"collateral":       "collateral",
	"statement":        "a statement",
	"envelope":         "a DSSE envelope",
	"entry":            "an entry",
	"leaf":             "a leaf of a log",
	"proof":            "a tlog-proof",
	"bundle":           "an .affidavit bundle",
	"checkpoint":       "a signed checkpoint",
	"session-file":     "the private file of a session's owner",
	"disclosure":       "an action disclosure",
	"content":          "a content of a disclosed action",
	"log-policy":       "a log policy",
	"appraisal-policy": "an appraisal policy",
	"certificates":     "certificates",
	"crl":              "a certificate revocation list",
	"vkey":             "a public key of a log or witness (vkey)",
	"public-key":       "an Ed25519 public key",
	"signing-key":      "a private key of a log or witness (the public half is shown)",
	"private-key":      "a private release or session key (the public half is shown)",
}

var errUnknownFile = errors.New("not a file that this command knows: no quote, entry, leaf, proof, bundle, checkpoint, collateral, statement, envelope, session file, disclosure, policy, certificate or key")

// decode tells files apart by what they begin with, and then parses strictly: a
// damaged bundle is reported as that, and not as something unknown.
func decode(b []byte) (kind string, f fields, err error) {
	text := bytes.TrimSpace(b)
	begins := func(prefix string) bool { return bytes.HasPrefix(text, []byte(prefix)) }
	named := func(kind string, f fields, err error) (string, fields, error) {
		if err != nil {
			return "", nil, fmt.Errorf("looks like %s, but: %w", kinds[kind], err)
		}
		return kind, f, nil
	}
	switch {
	case len(b) == 0:
		return "", nil, errors.New("is empty")
	case bytes.HasPrefix(b, []byte("PK\x03\x04")):
		f, err := inspectBundle(b)
		return named("bundle", f, err)
	case bytes.HasPrefix(b, []byte(sessionMagic)):
		f, err := sessionFields(bytes.NewReader(b))
		return named("session-file", f, err)
	case begins("c2sp.org/tlog-proof@"):
		f, err := inspectProof(b)
		return named("proof", f, err)
	case begins("PRIVATE+KEY+"):
		k, err := checkpoint.ParseSigningKey(string(text))
		if err != nil {
			return named("signing-key", nil, err)
		}
		return named("signing-key", vkeyFields(k.Verifier()), nil)
	case keys.Encrypted(b):
		return "", nil, errors.New("is encrypted with a passphrase (age-encryption.org/v1), as private keys can be: nothing of it can be shown")
	case begins("-----BEGIN "):
		return inspectPEM(b)
	case holdsPrivateKey(b):
		return "", nil, errors.New("holds a private key, but isn't a key file")
	case begins("{"):
		return inspectJSON(b)
	}
	// A time leaf holds a whole note, but doesn't begin like text.
	if isText(b) || b[0] >= ' ' && isNote(b) {
		return inspectText(b, named)
	}
	if len(b) > 2 && (b[0] == 4 || b[0] == 5) && b[1] == 0 {
		f, err := inspectQuote(b)
		return named("quote", f, err)
	}
	if e, err := record.ParseEntry(b); err == nil {
		return "entry", entryFields(e), nil
	}
	if l, err := record.ParseLeaf(b); err == nil {
		return "leaf", leafFields(l), nil
	}
	if certs, err := x509.ParseCertificates(b); err == nil && len(certs) > 0 {
		return "certificates", fields{{"certificates", certFields(certs)}}, nil
	}
	if crl, err := x509.ParseRevocationList(b); err == nil {
		return "crl", crlFields(crl), nil
	}
	if b[0] == 1 && len(b) > 1 {
		// Entries begin with the length of a profile's name, leaves with a kind.
		if b[1] > 8 {
			_, err := record.ParseEntry(b)
			return named("entry", nil, err)
		}
		_, err := record.ParseLeaf(b)
		return named("leaf", nil, err)
	}
	return "", nil, errUnknownFile
}

// isNote reports whether b has what begins the signatures of a signed note.
func isNote(b []byte) bool { return bytes.Contains(b, []byte("\n\n\u2014 ")) }

// inspectText decodes what is text, and neither JSON nor PEM.
func inspectText(b []byte, named func(string, fields, error) (string, fields, error)) (string, fields, error) {
	text := strings.TrimSpace(string(b))
	if isNote(b) {
		f, err := noteFields(b)
		return named("checkpoint", f, err)
	}
	if k, err := checkpoint.ParseVKey(text); err == nil {
		return "vkey", vkeyFields(k), nil
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
		if pub, err := record.ParseSPKI(raw); err == nil {
			return "public-key", spkiFields(pub), nil
		}
	}
	p, logErr := checkpoint.ParsePolicy(b)
	if logErr == nil {
		return "log-policy", policyFields(p), nil
	}
	a, yamlErr := verifier.ParsePolicy(b)
	if yamlErr == nil {
		return "appraisal-policy", fields{
			{"namesMeasurement", a.NamesMeasurement()}, {"requiredAppraisers", append([]string{}, a.Appraisers()...)}, {"rules", ruleFields(a)},
		}, nil
	}
	for line := range strings.Lines(string(b)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case word == "log" || word == "witness" || word == "group" || word == "quorum":
			return named("log-policy", nil, logErr)
		case strings.HasSuffix(word, ":"):
			return named("appraisal-policy", nil, yamlErr)
		}
	}
	// Any words without punctuation could be base64, so this comes last.
	if raw, err := decodeText(text); err == nil && len(raw) > 2 {
		if (raw[0] == 4 || raw[0] == 5) && raw[1] == 0 {
			f, err := inspectQuote(b)
			return named("quote", f, err)
		}
		if len(raw) > 100 {
			return "", nil, errors.New("hexadecimal or base64 text that is not a TDX quote: decode it first")
		}
	}
	return "", nil, errUnknownFile
}

// inspectJSON decodes what is a JSON object, by its members' names.
func inspectJSON(b []byte) (string, fields, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return "", nil, fmt.Errorf("looks like JSON, but: %w", err)
	}
	has := func(names ...string) bool {
		for _, name := range names {
			if _, ok := members[name]; !ok {
				return false
			}
		}
		return true
	}
	named := func(kind string, f func() (fields, error)) (string, fields, error) {
		v, err := f()
		if err != nil {
			return "", nil, fmt.Errorf("looks like %s, but: %w", kinds[kind], err)
		}
		return kind, v, nil
	}
	switch {
	case has("tcb_info"):
		return named("collateral", func() (fields, error) { return collateralFields(b) })
	case has("_type"):
		return named("statement", func() (fields, error) {
			st, err := record.ParseStatement(b)
			if err != nil {
				return nil, err
			}
			return append(statementFields(st, b), field{"statement", json.RawMessage(b)}), nil
		})
	case has("envelope"):
		return named("entry", func() (fields, error) {
			e, err := record.ParseEntryJSON(b)
			if err != nil {
				return nil, err
			}
			return entryFields(e), nil
		})
	case has("payload", "signatures"):
		return named("envelope", func() (fields, error) { return envelopeFields(b) })
	case has("content"):
		return named("content", func() (fields, error) { return contentFields(b) })
	case has("disclosure"):
		return named("disclosure", func() (fields, error) { return disclosureFields(b) })
	}
	return "", nil, fmt.Errorf("JSON with the members %s: %w", clean(strings.Join(slices.Sorted(maps.Keys(members)), ", ")), errUnknownFile)
}

func inspectPEM(b []byte) (string, fields, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return "", nil, errors.New("looks like PEM, but isn't well-formed")
	}
	switch block.Type {
	case "PRIVATE KEY":
		k, err := keys.ParseEd25519(b)
		if err != nil {
			return "", nil, fmt.Errorf("looks like a private key, but: %w", err)
		}
		return "private-key", spkiFields(k.Public().(ed25519.PublicKey)), nil
	case "PUBLIC KEY":
		pub, err := record.ParseSPKI(block.Bytes)
		if err != nil {
			return "", nil, fmt.Errorf("looks like a public key, but: %w", err)
		}
		return "public-key", spkiFields(pub), nil
	case "CERTIFICATE":
		certs, err := parseChain(b)
		if err != nil {
			return "", nil, fmt.Errorf("looks like certificates, but: %w", err)
		}
		return "certificates", fields{{"certificates", certFields(certs)}}, nil
	}
	return "", nil, fmt.Errorf("a PEM block of type %q: %w", clean(block.Type), errUnknownFile)
}

func hexed(b []byte) string { return hex.EncodeToString(b) }

func digestOf(b []byte) string {
	d := sha256.Sum256(b)
	return hexed(d[:])
}

func inspectQuote(b []byte) (fields, error) {
	raw, q, err := decodeQuote(b)
	if err != nil {
		return nil, tdx.Cause(err)
	}
	return append(fields{{"sha256", digestOf(raw)}, {"size", len(raw)}}, quoteFieldList(q)...), nil
}

// quoteFieldList is the JSON of an appraisal's quote, in order.
func quoteFieldList(q *tdx.Quote) fields {
	v := fieldsOf(q)
	f := fields{
		{"quoteVersion", v.QuoteVersion}, {"bodyType", v.BodyType}, {"fmspc", v.FMSPC}, {"pceid", v.PCEID},
		{"mrtd", v.MRTD}, {"rtmr", v.RTMR[:]}, {"reportData", v.ReportData},
		{"tdAttributes", v.TDAttributes}, {"tdAttributeWords", attributeWords(q.Body.TDAttributes)}, {"xfam", v.XFAM},
		{"mrConfigId", v.MRConfigID}, {"mrOwner", v.MROwner}, {"mrOwnerConfig", v.MROwnerConfig},
		{"mrServiceTd", v.MRServiceTD}, {"mrSeam", v.MRSEAM}, {"teeTcbSvn", v.TEETCBSVN},
	}
	if certs, err := parseChain(q.PCKChain); err == nil {
		f = append(f, field{"certificates", certFields(certs)})
	}
	return f
}

func statementFields(st *record.Statement, payload []byte) fields {
	digest := record.StatementDigest(record.PayloadType, payload)
	f := fields{{"predicateType", st.PredicateType}, {"statementDigest", hexed(digest[:])}, {"vendor", st.Vendor}}
	if id, ok := st.SessionID(); ok {
		f = append(f, field{"session", id.String()})
	}
	return f
}

func entryFields(e *record.Entry) fields {
	f := fields{{"profile", string(e.Profile)}}
	f = append(f, statementFields(e.Statement(), e.Payload)...)
	f = append(f, field{"keyid", e.KeyID})
	var evidence []fields
	for _, ev := range e.Evidence {
		switch ev.Type {
		case record.EvidenceTDXQuote:
			item := fields{{"type", "tdx-quote"}, {"sha256", digestOf(ev.Data)}, {"size", len(ev.Data)}}
			if q, err := tdx.ParseQuote(ev.Data); err == nil {
				item = append(item, quoteFieldList(q)...)
			} else {
				item = append(item, field{"malformed", tdx.Cause(err).Error()})
			}
			evidence = append(evidence, item)
		default:
			item := fields{{"type", "digest"}}
			if ref, err := ev.Ref(); err == nil {
				item = append(item, field{"sha256", hexed(ref.SHA256[:])}, field{"size", ref.Size}, field{"mediaType", ref.MediaType})
			}
			evidence = append(evidence, item)
		}
	}
	if evidence != nil {
		f = append(f, field{"evidence", evidence})
	}
	return append(f, field{"statement", json.RawMessage(e.Payload)})
}

func leafFields(l record.Leaf) fields {
	b := l.Bytes()
	hash := record.LeafHash(b)
	f := fields{{"leafKind", l.Kind().String()}, {"leafHash", hexed(hash[:])}}
	ms := func(t int64) time.Time { return time.UnixMilli(t).UTC() }
	switch l := l.(type) {
	case *record.RecordLeaf:
		f = append(f, field{"ruleset", l.Ruleset}, field{"admittedAt", ms(l.AdmittedAt)}, field{"judgedAt", ms(l.JudgedAt)},
			field{"collateral", hexed(l.Collateral[:])}, field{"entry", entryFields(l.Entry)})
	case *record.TimeLeaf:
		f = append(f, field{"loggedAt", ms(l.LoggedAt)}, field{"noteDigest", digestOf(l.Note)})
		if note, err := noteFields(l.Note); err == nil {
			f = append(f, field{"checkpoint", note})
		}
	case *record.CollateralLeaf:
		id := l.ID()
		f = append(f, field{"collateral", hexed(id[:])})
		names := [7]string{"tcbInfo", "tcbInfoChain", "qeIdentity", "qeIdentityChain", "rootCrl", "pckCrl", "pckCrlChain"}
		for i, d := range l.Components {
			f = append(f, field{names[i], hexed(d[:])})
		}
	case *record.VendorLeaf:
		f = append(f, field{"admittedAt", ms(l.AdmittedAt)}, field{"entry", entryFields(l.Entry)})
	}
	return f
}

func noteFields(b []byte) (fields, error) {
	n, err := checkpoint.ParseNote(b)
	if err != nil {
		return nil, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	f := fields{{"origin", cp.Origin}, {"size", cp.Size}, {"root", base64.StdEncoding.EncodeToString(cp.Root[:])}}
	if len(cp.Extensions) > 0 {
		f = append(f, field{"extensions", cp.Extensions})
	}
	var sigs []fields
	for _, s := range n.Signatures {
		item := fields{{"name", s.Name}, {"keyId", fmt.Sprintf("%08x", s.KeyID)}}
		// Without the key only the length tells what kind of signature this is
		// (c2sp.org/tlog-cosignature): 8 bytes of time, then the signature.
		switch len(s.Sig) {
		case ed25519.SignatureSize:
			item = append(item, field{"looksLike", "Ed25519 signature of a log"})
		case 8 + ed25519.SignatureSize:
			item = append(item, field{"looksLike", "Ed25519 cosignature"}, cosignedAt(s.Sig))
		case 8 + 2420:
			item = append(item, field{"looksLike", "ML-DSA-44 cosignature"}, cosignedAt(s.Sig))
		default:
			item = append(item, field{"looksLike", fmt.Sprintf("signature of %d bytes", len(s.Sig))})
		}
		sigs = append(sigs, item)
	}
	return append(f, field{"signatures", sigs}), nil
}

func cosignedAt(sig []byte) field {
	t := binary.BigEndian.Uint64(sig)
	if t == 0 {
		return field{"time", "none stated"}
	}
	return field{"time", time.Unix(int64(min(t, 253402300799)), 0).UTC()}
}

func inspectProof(b []byte) (fields, error) {
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		return nil, err
	}
	note, err := noteFields(p.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f := fields{{"index", p.Index}, {"hashes", len(p.Hashes)}, {"checkpoint", note}}
	if l, err := record.ParseLeaf(p.Extra); err == nil {
		return append(f, field{"leaf", leafFields(l)}), nil
	}
	if p.Extra == nil {
		return f, nil
	}
	return append(f, field{"extra", fmt.Sprintf("%d bytes that are not a leaf of ours", len(p.Extra))}), nil
}

func inspectBundle(b []byte) (fields, error) {
	bun, err := bundle.Parse(b)
	if err != nil {
		return nil, err
	}
	note, err := noteFields(bun.Proofs[0].Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	f := fields{{"subject", bun.Subject}, {"checkpoint", note}}
	var leaves []fields
	for _, p := range bun.Proofs {
		item := fields{{"index", p.Index}}
		l, err := record.ParseLeaf(p.Extra)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w", p.Index, err)
		}
		leaves = append(leaves, append(item, leafFields(l)...))
	}
	var blobs []string
	for _, d := range slices.SortedFunc(maps.Keys(bun.Blobs), func(x, y record.Digest) int { return bytes.Compare(x[:], y[:]) }) {
		blobs = append(blobs, hexed(d[:]))
	}
	return append(f, field{"leaves", leaves}, field{"blobs", append([]string{}, blobs...)}), nil
}

func envelopeFields(b []byte) (fields, error) {
	e, err := record.ParseEnvelope(b)
	if err != nil {
		return nil, err
	}
	f := fields{{"payloadType", e.PayloadType}, {"keyid", e.KeyID}}
	if st, err := record.ParseStatement(e.Payload); err == nil {
		return append(append(f, statementFields(st, e.Payload)...), field{"statement", json.RawMessage(e.Payload)}), nil
	}
	return append(f, field{"payload", fmt.Sprintf("%d bytes that are not a statement of ours", len(e.Payload))}), nil
}

func disclosureFields(b []byte) (fields, error) {
	d, err := record.ParseDisclosure(b)
	if err != nil {
		return nil, err
	}
	return fields{
		{"index", d.Index}, {"treeSize", d.Tree.Size}, {"treeRoot", base64.StdEncoding.EncodeToString(d.Tree.Root[:])},
		{"action", json.RawMessage(d.Bytes)},
	}, nil
}

func contentFields(b []byte) (fields, error) {
	r, err := parseRevealed(b)
	if err != nil {
		return nil, err
	}
	digest := session.ContentDigest(r.Salt, r.Bytes)
	f := fields{{"session", r.Session.String()}, {"action", r.Action}, {"name", r.Name}, {"saltedDigest", hexed(digest[:])}, {"size", len(r.Bytes)}}
	if utf8.Valid(r.Bytes) {
		return append(f, field{"text", strings.Split(strings.TrimSuffix(string(r.Bytes), "\n"), "\n")}), nil
	}
	return append(f, field{"base64", base64.StdEncoding.EncodeToString(r.Bytes)}), nil
}

// sessionMagic is how session files begin.
const sessionMagic = "affidavit-session/v1\n"

// sessionFields reads a session file to its end. It shows how many actions there
// are of which kind, and not what they say: "affidavit disclose --list" is for that.
func sessionFields(in io.Reader) (fields, error) {
	r, err := session.NewReader(in)
	if err != nil {
		return nil, err
	}
	operations, outcomes := make(map[string]uint64), make(map[string]uint64)
	var contents, kept uint64
	for {
		d, a, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		operation, _ := a.Attributes[record.AttrOperationName].(string)
		operations[operation]++
		outcomes[a.Outcome]++
		for _, c := range d.Contents {
			contents++
			if c.Bytes != nil {
				kept++
			}
		}
	}
	h := r.Header()
	for h.Served.Size > 0 {
		if _, err := r.NextServed(); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	f := fields{{"about", h.Kind}}
	if h.Session != nil {
		f = append(f, field{"session", h.Session.String()})
	}
	for _, l := range []struct {
		name string
		ref  *record.StatementRef
	}{{"start", h.Start}, {"end", h.End}} {
		if l.ref == nil {
			f = append(f, field{l.name, "not logged when this was written"})
			continue
		}
		f = append(f, field{l.name, fields{{"origin", l.ref.Origin}, {"index", l.ref.Index}, {"statement", hexed(l.ref.Statement[:])}}})
	}
	if h.Commit != "" {
		f = append(f, field{"commit", h.Commit})
	}
	tally := func(m map[string]uint64) fields {
		f := fields{}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			f = append(f, field{name, m[name]})
		}
		return f
	}
	f = append(f, field{"actions", h.Documents.Size}, field{"actionsRoot", base64.StdEncoding.EncodeToString(h.Documents.Root[:])},
		field{"operations", tally(operations)}, field{"outcomes", tally(outcomes)}, field{"contents", contents}, field{"contentsKept", kept})
	if h.Kind == session.FileModelRun {
		f = append(f, field{"served", h.Served.Size}, field{"servedRoot", base64.StdEncoding.EncodeToString(h.Served.Root[:])})
	}
	return f, nil
}

func policyFields(p *checkpoint.Policy) fields {
	l := lint("", p)
	key := func(k keyLine) fields {
		return fields{{"name", k.Name}, {"vkey", k.VKey}, {"kind", k.Kind}, {"url", k.URL}}
	}
	var logs, witnesses []fields
	for _, k := range l.Logs {
		logs = append(logs, key(k))
	}
	for _, k := range l.Witnesses {
		witnesses = append(witnesses, key(k))
	}
	return fields{{"logs", logs}, {"witnesses", witnesses}, {"quorum", l.Quorum}, {"policy", strings.Split(strings.TrimSpace(p.String()), "\n")}}
}

func vkeyFields(k *checkpoint.VerifierKey) fields {
	return fields{{"name", k.Name()}, {"keyId", fmt.Sprintf("%08x", k.KeyID())}, {"type", k.Kind().String()}, {"vkey", k.String()}}
}

// ruleFields are all rules of an appraisal policy that are in force, whether it mentions them or not.
func ruleFields(p *verifier.Policy) (f fields) {
	for _, r := range p.Rules() {
		value := r.Value
		if r.Default {
			value += " (default)"
		}
		f = append(f, field{r.Key, value})
	}
	return f
}

func spkiFields(pub ed25519.PublicKey) fields {
	spki := record.SPKI(pub)
	return fields{{"type", "Ed25519"}, {"keyid", record.KeyID(spki)}, {"publicKey", base64.StdEncoding.EncodeToString(spki)}}
}

// parseChain parses PEM certificates. What Intel's quoting enclave puts in a
// quote ends in a zero byte.
func parseChain(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return certs, nil
}

func certFields(certs []*x509.Certificate) []fields {
	var all []fields
	for _, c := range certs {
		all = append(all, fields{
			{"subject", c.Subject.CommonName}, {"issuer", c.Issuer.CommonName}, {"serial", c.SerialNumber.Text(16)},
			{"notBefore", c.NotBefore.UTC()}, {"notAfter", c.NotAfter.UTC()},
			{"key", keyName(c.PublicKey)}, {"sha256", digestOf(c.Raw)},
		})
	}
	return all
}

func keyName(pub crypto.PublicKey) string {
	if _, ok := pub.(ed25519.PublicKey); ok {
		return "Ed25519"
	}
	if k, ok := pub.(*ecdsa.PublicKey); ok {
		return "ECDSA " + k.Curve.Params().Name
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", pub), "*")
}

func crlFields(l *x509.RevocationList) fields {
	return fields{
		{"issuer", l.Issuer.CommonName}, {"thisUpdate", l.ThisUpdate.UTC()}, {"nextUpdate", l.NextUpdate.UTC()},
		{"revoked", len(l.RevokedCertificateEntries)},
	}
}

func collateralFields(b []byte) (fields, error) {
	c, err := tdx.ParseCollateralJSON(b)
	if err != nil {
		return nil, tdx.Cause(err)
	}
	// Only what identifies a set is shown; whoever wants every level can read
	// Intel's JSON.
	type body struct {
		ID         string `json:"id"`
		FMSPC      string `json:"fmspc"`
		PCEID      string `json:"pceId"`
		Issued     string `json:"issueDate"`
		NextUpdate string `json:"nextUpdate"`
		Evaluation uint32 `json:"tcbEvaluationDataNumber"`
		Levels     []struct {
			Status string `json:"tcbStatus"`
			Date   string `json:"tcbDate"`
		} `json:"tcbLevels"`
	}
	show := func(v body) fields {
		f := fields{{"id", v.ID}}
		if v.FMSPC != "" {
			f = append(f, field{"fmspc", strings.ToLower(v.FMSPC)}, field{"pceid", strings.ToLower(v.PCEID)})
		}
		f = append(f, field{"issueDate", v.Issued}, field{"nextUpdate", v.NextUpdate}, field{"tcbEvaluationDataNumber", v.Evaluation})
		var levels []string
		for _, l := range v.Levels {
			levels = append(levels, l.Date+" "+l.Status)
		}
		return append(f, field{"levels", append([]string{}, levels...)})
	}
	var tcb struct {
		TCBInfo body `json:"tcbInfo"`
	}
	var qe struct {
		Identity body `json:"enclaveIdentity"`
	}
	if err := json.Unmarshal(c.TCBInfo, &tcb); err != nil {
		return nil, fmt.Errorf("TCB info: %w", err)
	}
	if err := json.Unmarshal(c.QEIdentity, &qe); err != nil {
		return nil, fmt.Errorf("QE identity: %w", err)
	}
	f := fields{{"tcbInfo", show(tcb.TCBInfo)}, {"qeIdentity", show(qe.Identity)}}
	for _, l := range []struct {
		name string
		der  []byte
	}{{"rootCrl", c.RootCRL}, {"pckCrl", c.PCKCRL}} {
		crl, err := x509.ParseRevocationList(l.der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		f = append(f, field{l.name, crlFields(crl)})
	}
	for _, l := range []struct {
		name string
		pem  []byte
	}{{"tcbInfoChain", c.TCBInfoChain}, {"qeIdentityChain", c.QEIdentityChain}, {"pckCrlChain", c.PCKCRLChain}} {
		certs, err := parseChain(l.pem)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		var names []string
		for _, c := range certs {
			names = append(names, c.Subject.CommonName)
		}
		f = append(f, field{l.name, names})
	}
	return f, nil
}
