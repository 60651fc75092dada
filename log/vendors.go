package sessionlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/log/record"
)

// maxVendorsFile bounds the vendors file, which has about 300 bytes for each vendor.
const maxVendorsFile = 16 << 20

// A vendor may submit.
type vendor struct {
	id string
	// What identifies it: a bearer token, a client certificate's key, or if both are given, both.
	token      [sha256.Size]byte // SHA-256 of the token; zero if there is none
	clientKeys [][sha256.Size]byte
	keys       map[string]ed25519.PublicKey
	quota      quota
	limiter    *rate.Limiter
}

type quota struct {
	rate  float64 // submissions a second
	burst int
}

// defaultQuota is that of vendors who have none in the file.
var defaultQuota = quota{100, 200}

// A roster is who may submit. It isn't modified.
type roster struct {
	byID        map[string]*vendor
	byToken     map[[sha256.Size]byte]*vendor // by the SHA-256 of the token
	byClientKey map[[sha256.Size]byte]*vendor // by the SHA-256 of the public key
}

// vendors holds who may submit, replaced as a whole when the file changes.
type vendors struct {
	path string
	now  atomic.Pointer[roster]

	seen   [sha256.Size]byte // of the file's bytes when last looked at; owned by whoever calls reload
	failed bool              // the file can't be used since
}

func newVendors(path string) (*vendors, error) {
	v := &vendors{path: path}
	if _, err := v.reload(); err != nil {
		return nil, err
	}
	return v, nil
}

// reload reads the file again, and reports whether it has changed. If it can't be used, what was read before stays.
func (v *vendors) reload() (changed bool, err error) {
	b, err := readLimited(v.path, maxVendorsFile)
	if err != nil {
		changed = !v.failed
		v.failed = true
		return changed, err
	}
	sum := sha256.Sum256(b)
	if sum == v.seen && !v.failed {
		return false, nil
	}
	changed = sum != v.seen
	v.seen = sum
	list, err := parseVendors(b)
	if v.failed = err != nil; err != nil {
		return changed, fmt.Errorf("%s: %w", v.path, err)
	}
	if old := v.now.Load(); old != nil {
		// A vendor keeps its limiter as long as the quota is the same: reloading must not give a new burst.
		for id, n := range list.byID {
			if o := old.byID[id]; o != nil && n.quota == o.quota {
				n.limiter = o.limiter
			}
		}
	}
	v.now.Store(list)
	return true, nil
}

// readLimited reads the file at path, whose contents must not be longer than limit.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, nil
}

// maxToken is the length in bytes of the longest token that is looked at, so that a stranger's costs nothing.
const maxToken = 4096

// authenticate returns the vendor with the given bearer token, the client certificate of a connection, or both, as it is
// listed; nil if there is none. Tokens are looked up by their SHA-256: how long that takes tells something about digests,
// which nobody can choose, and nothing about tokens.
func (v *vendors) authenticate(token string, conn *tls.ConnectionState) *vendor {
	now := v.now.Load()
	var key *[sha256.Size]byte
	if conn != nil && len(conn.PeerCertificates) > 0 && len(now.byClientKey) > 0 {
		// The handshake has proven that the client has the key. What else the certificate says is for others: whose key
		// it is, and for how long, the file says.
		sum := sha256.Sum256(conn.PeerCertificates[0].RawSubjectPublicKeyInfo)
		key = &sum
	}
	var x *vendor
	switch {
	case len(token) > maxToken:
		return nil
	case token != "":
		x = now.byToken[sha256.Sum256([]byte(token))]
	case key != nil:
		if x = now.byClientKey[*key]; x != nil && x.token != [sha256.Size]byte{} {
			return nil // has a token, too
		}
	}
	if x != nil && len(x.clientKeys) > 0 && (key == nil || !slices.Contains(x.clientKeys, *key)) {
		return nil
	}
	return x
}

// AsksForCertificates reports whether the vendors file lists keys of client certificates, so that servers should ask for
// them.
func (l *Log) AsksForCertificates() bool {
	return l.vendors != nil && len(l.vendors.now.Load().byClientKey) > 0
}

// listed returns a key that the operator lists for a vendor.
func (v *vendors) listed(id, keyid string) (ed25519.PublicKey, bool) {
	if x := v.now.Load().byID[id]; x != nil {
		k, ok := x.keys[keyid]
		return k, ok
	}
	return nil, false
}

// vendorsFile is the vendors file:
//
//	vendors:
//	  - id: https://vendor.example             # what statements call the vendor
//	    token-sha256: 0f3c…                    # SHA-256 of the bearer token, in hexadecimal
//	    client-key-sha256: [7a91…]             # SHA-256 of the SPKIs of TLS client certificates; with or instead of a token
//	    release-keys: [MCowBQYDK2VwAyEA…]      # Ed25519 public keys, SPKI in base64; optional
//	    quota: {rate: 100, burst: 200}         # submissions a second; optional
//
// Unknown and duplicate keys are errors, so that a misspelled quota isn't none.
type vendorsFile struct {
	Vendors []struct {
		ID          string   `yaml:"id"`
		TokenSHA256 string   `yaml:"token-sha256"`
		ClientKeys  []string `yaml:"client-key-sha256"`
		ReleaseKeys []string `yaml:"release-keys"`
		Quota       *struct {
			Rate  float64 `yaml:"rate"`
			Burst int     `yaml:"burst"`
		} `yaml:"quota"`
	} `yaml:"vendors"`
}

// goTypes matches what package yaml's messages say of Go's types, which are nothing to whoever writes the file.
var goTypes = regexp.MustCompile(`(?m) (in type|into) .*$`)

// parseVendors parses a vendors file.
func parseVendors(b []byte) (*roster, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f vendorsFile
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("vendors file: %s", goTypes.ReplaceAllString(err.Error(), ""))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("vendors file: more than one YAML document")
	}
	list := &roster{map[string]*vendor{}, map[[sha256.Size]byte]*vendor{}, map[[sha256.Size]byte]*vendor{}}
	keys := map[string]string{}
	for i, e := range f.Vendors {
		err := record.CheckVendorID(e.ID)
		if err != nil {
			return nil, fmt.Errorf("vendor %d: %w", i+1, err)
		}
		if list.byID[e.ID] != nil {
			return nil, fmt.Errorf("vendor %s is there twice", e.ID)
		}
		v := &vendor{id: e.ID, keys: map[string]ed25519.PublicKey{}, quota: defaultQuota}
		list.byID[e.ID] = v
		if e.TokenSHA256 == "" && len(e.ClientKeys) == 0 {
			return nil, fmt.Errorf("vendor %s: neither token-sha256 nor client-key-sha256: nobody could submit as it", e.ID)
		}
		if e.TokenSHA256 != "" {
			if v.token, err = parseSum(e.TokenSHA256); err != nil {
				return nil, fmt.Errorf("vendor %s: token-sha256 %w", e.ID, err)
			}
			if v.token == sha256.Sum256(nil) || v.token == [sha256.Size]byte{} {
				return nil, fmt.Errorf("vendor %s: token-sha256 is that of an empty token", e.ID)
			}
			if other := list.byToken[v.token]; other != nil {
				return nil, fmt.Errorf("vendors %s and %s have the same token", other.id, e.ID)
			}
			list.byToken[v.token] = v
		}
		for _, k := range e.ClientKeys {
			sum, err := parseSum(k)
			if err != nil {
				return nil, fmt.Errorf("vendor %s: client-key-sha256 %w", e.ID, err)
			}
			if other := list.byClientKey[sum]; other != nil {
				return nil, fmt.Errorf("client key %s is there twice, for %s and %s", k, other.id, e.ID)
			}
			list.byClientKey[sum] = v
			v.clientKeys = append(v.clientKeys, sum)
		}
		for _, k := range e.ReleaseKeys {
			spki, err := base64.StdEncoding.Strict().DecodeString(k)
			if err != nil {
				return nil, fmt.Errorf("vendor %s: release key %.80q: %w", e.ID, k, err)
			}
			pub, err := record.ParseSPKI(spki)
			if err != nil {
				return nil, fmt.Errorf("vendor %s: release key %.80q: %w", e.ID, k, err)
			}
			id := record.KeyID(spki)
			if other, ok := keys[id]; ok {
				return nil, fmt.Errorf("release key %s is there twice, for %s and %s", id, other, e.ID)
			}
			keys[id] = e.ID
			v.keys[id] = pub
		}
		if q := e.Quota; q != nil {
			if !(q.Rate > 0) || math.IsInf(q.Rate, 0) || q.Burst < 1 {
				return nil, fmt.Errorf("vendor %s: quota of rate %v and burst %d, where both must be positive", e.ID, q.Rate, q.Burst)
			}
			v.quota = quota{q.Rate, q.Burst}
		}
		v.limiter = rate.NewLimiter(rate.Limit(v.quota.rate), v.quota.burst)
	}
	return list, nil
}

// parseSum parses a SHA-256 in hexadecimal.
func parseSum(s string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("%.80q is not a SHA-256 in hexadecimal", s)
	}
	return [sha256.Size]byte(b), nil
}

// vendorsPoll is how often the vendors file is looked at, so that a vendor that is taken out of it is refused within a
// second. It is small; reading it is cheaper than being told of changes by every kind of file system that it could be
// mounted from.
const vendorsPoll = 500 * time.Millisecond

// watchVendors reads the vendors file again when it changes, until ctx is done.
func (l *Log) watchVendors(ctx context.Context) {
	t := time.NewTicker(l.cfg.poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		changed, err := l.vendors.reload()
		switch {
		case err != nil && changed:
			l.logger.Error("vendors file can't be used; what it said before still holds", "err", err)
			l.metrics.vendorsReloads.WithLabelValues("failed").Inc()
		case err == nil && changed:
			l.logger.Info("vendors file read", "vendors", len(l.vendors.now.Load().byID))
			l.metrics.vendorsReloads.WithLabelValues("ok").Inc()
		}
	}
}
