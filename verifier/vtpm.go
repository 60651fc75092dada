package verifier

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/go-json-experiment/json"
	"golang.org/x/crypto/cryptobyte"

	"github.com/affidavit-log/affidavit/log/record"
)

// Constants of TPM 2.0 (Trusted Platform Module Library, Part 2: Structures).
const (
	tpmGenerated     = 0xff544347 // TPM_GENERATED_VALUE
	tpmQuote         = 0x8018     // TPM_ST_ATTEST_QUOTE
	tpmAlgRSASSA     = 0x0014
	tpmAlgSHA256     = 0x000b
	tpmMaxSelections = 16 // TPML_PCR_SELECTION: HASH_COUNT
)

// akID names the attestation key of the paravisor's virtual TPM in its runtime data.
const akID = "HCLAkPub"

// A vtpmQuote is what a quote of a virtual TPM says.
type vtpmQuote struct {
	key       record.Digest // SHA-256 of the modulus of the key that signed it
	extra     []byte        // what the caller passed
	selection string        // which PCRs, such as "sha256:0-7,14"
	digest    []byte        // of their values
}

// parseVTPM verifies the quote of a virtual TPM under the key that runtime data
// names. That a quote of the hardware commits to the runtime data is the caller's
// to check.
func parseVTPM(b *record.VTPMBinding) (*vtpmQuote, error) {
	key, err := runtimeKey(b.RuntimeData)
	if err != nil {
		return nil, fmt.Errorf("the paravisor's runtime data: %w", err)
	}
	sig := cryptobyte.String(b.Signature)
	var alg, hash uint16
	var raw cryptobyte.String
	if !sig.ReadUint16(&alg) || !sig.ReadUint16(&hash) || !sig.ReadUint16LengthPrefixed(&raw) || !sig.Empty() {
		return nil, errors.New("the virtual TPM's signature is truncated or has trailing data")
	}
	if alg != tpmAlgRSASSA || hash != tpmAlgSHA256 {
		return nil, fmt.Errorf("the virtual TPM's signature is of algorithms %#04x and %#04x, want RSASSA with SHA-256", alg, hash)
	}
	sum := sha256.Sum256(b.Quoted)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], raw); err != nil {
		return nil, errors.New("the virtual TPM's signature does not verify under the key in the paravisor's runtime data")
	}
	q, err := parseAttest(b.Quoted)
	if err != nil {
		return nil, fmt.Errorf("the virtual TPM's quote: %w", err)
	}
	q.key = sha256.Sum256(key.N.Bytes())
	return q, nil
}

// parseAttest parses a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE.
func parseAttest(b []byte) (*vtpmQuote, error) {
	s := cryptobyte.String(b)
	var magic uint32
	var typ uint16
	var signer, extra, digest cryptobyte.String
	if !s.ReadUint32(&magic) || !s.ReadUint16(&typ) {
		return nil, errors.New("truncated")
	}
	if magic != tpmGenerated || typ != tpmQuote {
		return nil, fmt.Errorf("magic %#08x and type %#04x, want a quote", magic, typ)
	}
	// The clock and the firmware's version say nothing: the paravisor's, unmeasured.
	var count uint32
	if !s.ReadUint16LengthPrefixed(&signer) || !s.ReadUint16LengthPrefixed(&extra) || !s.Skip(17+8) || !s.ReadUint32(&count) {
		return nil, errors.New("truncated")
	}
	if count > tpmMaxSelections {
		return nil, fmt.Errorf("%d selections of PCRs", count)
	}
	var selection []byte
	for range count {
		var hash uint16
		var bits cryptobyte.String
		if !s.ReadUint16(&hash) || !s.ReadUint8LengthPrefixed(&bits) {
			return nil, errors.New("truncated")
		}
		if selection != nil {
			selection = append(selection, ' ')
		}
		selection = fmt.Appendf(selection, "algorithm %#04x, PCRs %s", hash, pcrs(bits))
	}
	if !s.ReadUint16LengthPrefixed(&digest) || !s.Empty() {
		return nil, errors.New("truncated, or trailing data")
	}
	return &vtpmQuote{extra: extra, selection: string(selection), digest: digest}, nil
}

// pcrs lists what a bitmap selects.
func pcrs(bits []byte) string {
	var b bytes.Buffer
	for i := range len(bits) * 8 {
		if bits[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, i)
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// runtimeKey finds the attestation key in the paravisor's runtime data, a JSON Web
// Key among others.
func runtimeKey(data []byte) (*rsa.PublicKey, error) {
	var v struct {
		Keys []struct {
			ID       string `json:"kid"`
			Type     string `json:"kty"`
			Modulus  string `json:"n"`
			Exponent string `json:"e"`
		} `json:"keys"`
	}
	// Azure ends its JSON with zero bytes at times, which the hash covers.
	if err := json.Unmarshal(bytes.TrimRight(data, "\x00"), &v); err != nil {
		return nil, errors.New("not JSON with a list of keys")
	}
	var found *rsa.PublicKey
	for _, k := range v.Keys {
		if k.ID != akID {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("two keys %s", akID)
		}
		n, err1 := base64.RawURLEncoding.Strict().DecodeString(k.Modulus)
		e, err2 := base64.RawURLEncoding.Strict().DecodeString(k.Exponent)
		if k.Type != "RSA" || err1 != nil || err2 != nil || len(e) > 4 {
			return nil, fmt.Errorf("key %s is no RSA key", akID)
		}
		exponent := int(binary.BigEndian.Uint32(append(make([]byte, 4-len(e), 4), e...)))
		found = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: exponent}
		if bits := found.N.BitLen(); bits < 2048 || bits > 4096 || exponent < 3 || exponent%2 == 0 {
			return nil, fmt.Errorf("key %s has %d bits and exponent %d", akID, bits, exponent)
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no key %s", akID)
	}
	return found, nil
}
