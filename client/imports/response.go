package imports

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/sha3"

	"github.com/affidavit-log/affidavit/log/record"
)

// Names of attributes of the action document that a signed response becomes
// (FORMAT.md, 4.2).
const (
	AttrText       = "affidavit.response.text"
	AttrSignature  = "affidavit.response.signature"
	attrModel      = "gen_ai.request.model"
	attrProvider   = "gen_ai.provider.name"
	attrResponseID = "gen_ai.response.id"
)

// maxSignatureFile is more than an answer of a signature interface has.
const maxSignatureFile = 64 << 10

// A Response is a signed response, as signature interfaces of dstack's proxies
// answer it.
type Response struct {
	ID        string // of the completion, empty if it isn't known
	Text      string // what is signed
	Signature []byte
	KeyType   record.KeyType
	Key       []byte // which the answer says has signed; see Verify

	// What Text says.
	Model                     string // empty if it doesn't say
	RequestHash, ResponseHash record.Digest
}

// ParseResponse parses the answer of GET /v1/signature/{id}. Members that it
// doesn't know are ignored.
func ParseResponse(b []byte) (*Response, error) {
	if len(b) > maxSignatureFile {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), maxSignatureFile)
	}
	var v struct {
		ID        string `json:"id"`
		ChatID    string `json:"chat_id"`
		Text      string `json:"text"`
		Signature string `json:"signature"`
		Address   string `json:"signing_address"`
		Algorithm string `json:"signing_algo"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, errors.New("not the JSON of a signature: want text, signature, signing_address, signing_algo")
	}
	r := &Response{ID: v.ID, Text: v.Text}
	if r.ID == "" {
		r.ID = v.ChatID
	}
	if len(r.ID) > 512 {
		return nil, fmt.Errorf("completion id of %d bytes", len(r.ID))
	}
	var err error
	if r.KeyType, r.Key, err = parseKey(v.Algorithm, v.Address); err != nil {
		return nil, err
	}
	if r.Signature, err = unhex(v.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if err := r.parseText(); err != nil {
		return nil, err
	}
	return r, nil
}

// parseText reads request_hash:response_hash, or model:request_hash:response_hash.
func (r *Response) parseText() error {
	if len(r.Text) > 1024 || !utf8.ValidString(r.Text) {
		return fmt.Errorf("signed text of %d bytes", len(r.Text))
	}
	rest, response, ok := cutLast(r.Text)
	request := rest
	if ok {
		if model, hash, has := cutLast(rest); has {
			r.Model, request = model, hash
		}
	}
	if !ok || !digestOf(&r.RequestHash, request) || !digestOf(&r.ResponseHash, response) || r.Model == "" && strings.Contains(rest, ":") {
		return fmt.Errorf("signed text %.200q: want [model:]request_hash:response_hash", r.Text)
	}
	return nil
}

// cutLast cuts s at its last colon: models have colons in their names.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func digestOf(d *record.Digest, s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == len(d) && copy(d[:], b) > 0
}

// parseKey reads what interfaces say of the key that signs.
func parseKey(algorithm, address string) (record.KeyType, []byte, error) {
	key, err := unhex(address)
	if err != nil {
		return 0, nil, fmt.Errorf("signing address: %w", err)
	}
	var typ record.KeyType
	switch algorithm {
	case "ecdsa":
		typ = record.KeySecp256k1
	case "ed25519":
		typ = record.KeyEd25519
	case "":
		// Older proxies sign with ECDSA only, and don't say so.
		if typ = record.KeySecp256k1; len(key) == ed25519.PublicKeySize {
			typ = record.KeyEd25519
		}
	default:
		return 0, nil, fmt.Errorf("signing algorithm %.40q: want ecdsa or ed25519", algorithm)
	}
	if want := map[record.KeyType]int{record.KeySecp256k1: 20, record.KeyEd25519: 32}[typ]; len(key) != want {
		return 0, nil, fmt.Errorf("signing address of %d bytes, want %d for %s", len(key), want, typ)
	}
	return typ, key, nil
}

// unhex decodes hexadecimal, with or without 0x before it.
func unhex(s string) ([]byte, error) {
	digits := s
	if len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		digits = s[2:]
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%.80q is not hexadecimal", s)
	}
	return b, nil
}

// VerifyText checks that a key signed a text. Keys of type ecdsa are named by
// their Ethereum addresses, and sign as EIP-191 has it, version 0x45.
func VerifyText(typ record.KeyType, key []byte, text string, signature []byte) error {
	switch typ {
	case record.KeyEd25519:
		if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, []byte(text), signature) {
			return errors.New("the Ed25519 signature does not verify")
		}
		return nil
	case record.KeySecp256k1:
		address, err := recoverAddress(text, signature)
		if err != nil {
			return err
		}
		if !bytes.Equal(address, key) {
			return fmt.Errorf("signed by address 0x%x, not by 0x%x", address, key)
		}
		return nil
	}
	return fmt.Errorf("key type %s", typ)
}

// recoverAddress returns the Ethereum address of whoever signed text.
func recoverAddress(text string, signature []byte) ([]byte, error) {
	if len(signature) != 65 {
		return nil, fmt.Errorf("ECDSA signature of %d bytes, want 65", len(signature))
	}
	v := signature[64]
	if v == 27 || v == 28 {
		v -= 27
	}
	if v > 1 {
		return nil, fmt.Errorf("ECDSA signature with recovery id %d, want 0, 1, 27 or 28", signature[64])
	}
	hash := keccak256([]byte("\x19Ethereum Signed Message:\n" + strconv.Itoa(len(text)) + text))
	// The library wants the recovery id first: 27, and 4 more for a compressed key.
	pub, _, err := ecdsa.RecoverCompact(append([]byte{27 + v}, signature[:64]...), hash)
	if err != nil {
		return nil, errors.New("the ECDSA signature is of no key")
	}
	return addressOf(pub.SerializeUncompressed()), nil
}

// addressOf is the Ethereum address of an uncompressed public key.
func addressOf(uncompressed []byte) []byte { return keccak256(uncompressed[1:])[12:] }

func keccak256(b []byte) []byte {
	h := sha3.NewLegacyKeccak256()
	h.Write(b)
	return h.Sum(nil)
}

// Signed checks that an action which was disclosed from a run's calls is a response that the
// run's attested key signed. It returns false if the run, or the action, has nothing to
// do with signatures.
func Signed(run *record.Entry, a *record.Action) (bool, error) {
	b, ok := run.Binding().(*record.DstackBinding)
	if !ok {
		return false, nil
	}
	text, ok1 := a.Attributes[AttrText].(string)
	sig, ok2 := a.Attributes[AttrSignature].(string)
	if !ok1 || !ok2 {
		return false, nil
	}
	raw, err := unhex(sig)
	if err != nil {
		return true, err
	}
	return true, VerifyText(b.KeyType, b.Key, text, raw)
}
