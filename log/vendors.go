package sessionlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
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
	id      string
	token   [sha256.Size]byte // SHA-256 of its bearer token
	keys    map[string]ed25519.PublicKey
	quota   quota
	limiter *rate.Limiter
}

type quota struct {
	rate  float64 // submissions a second
	burst int
}

// defaultQuota is that of vendors who have none in the file.
var defaultQuota = quota{100, 200}

// vendors holds who may submit, replaced as a whole when the file changes.
type vendors struct {
	path string
	now  atomic.Pointer[[]*vendor]

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
		for _, n := range list {
			for _, o := range *old {
				if n.id == o.id && n.quota == o.quota {
					n.limiter = o.limiter
				}
			}
		}
	}
	v.now.Store(&list)
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

// authenticate returns the vendor with the given bearer token, or nil. How long it takes doesn't depend on the token.
func (v *vendors) authenticate(token string) *vendor {
	sum := sha256.Sum256([]byte(token))
	var found *vendor
	for _, x := range *v.now.Load() {
		if subtle.ConstantTimeCompare(sum[:], x.token[:]) == 1 {
			found = x
		}
	}
	return found
}

// listed returns a key that the operator lists for a vendor.
func (v *vendors) listed(id, keyid string) (ed25519.PublicKey, bool) {
	for _, x := range *v.now.Load() {
		if x.id == id {
			k, ok := x.keys[keyid]
			return k, ok
		}
	}
	return nil, false
}

// vendorsFile is the vendors file:
//
//	vendors:
//	  - id: https://vendor.example             # what statements call the vendor
//	    token-sha256: 0f3c…                    # SHA-256 of the bearer token, in hexadecimal
//	    release-keys: [MCowBQYDK2VwAyEA…]      # Ed25519 public keys, SPKI in base64; optional
//	    quota: {rate: 100, burst: 200}         # submissions a second; optional
//
// Unknown and duplicate keys are errors, so that a misspelled quota isn't none.
type vendorsFile struct {
	Vendors []struct {
		ID          string   `yaml:"id"`
		TokenSHA256 string   `yaml:"token-sha256"`
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
func parseVendors(b []byte) ([]*vendor, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f vendorsFile
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("vendors file: %s", goTypes.ReplaceAllString(err.Error(), ""))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("vendors file: more than one YAML document")
	}
	list := make([]*vendor, 0, len(f.Vendors))
	ids, tokens, keys := map[string]bool{}, map[[sha256.Size]byte]string{}, map[string]string{}
	for i, e := range f.Vendors {
		if err := record.CheckVendorID(e.ID); err != nil {
			return nil, fmt.Errorf("vendor %d: %w", i+1, err)
		}
		if ids[e.ID] {
			return nil, fmt.Errorf("vendor %s is there twice", e.ID)
		}
		ids[e.ID] = true
		v := &vendor{id: e.ID, keys: map[string]ed25519.PublicKey{}, quota: defaultQuota}
		token, err := hex.DecodeString(e.TokenSHA256)
		if err != nil || len(token) != sha256.Size {
			return nil, fmt.Errorf("vendor %s: token-sha256 %.80q is not a SHA-256 in hexadecimal", e.ID, e.TokenSHA256)
		}
		v.token = [sha256.Size]byte(token)
		if v.token == sha256.Sum256(nil) {
			return nil, fmt.Errorf("vendor %s: token-sha256 is that of an empty token", e.ID)
		}
		if other, ok := tokens[v.token]; ok {
			return nil, fmt.Errorf("vendors %s and %s have the same token", other, e.ID)
		}
		tokens[v.token] = e.ID
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
		list = append(list, v)
	}
	return list, nil
}

// vendorsPoll is how often the vendors file is looked at. It is small; reading it is cheaper than being told of changes
// by every kind of file system that it could be mounted from.
const vendorsPoll = time.Second

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
			l.logger.Info("vendors file read", "vendors", len(*l.vendors.now.Load()))
			l.metrics.vendorsReloads.WithLabelValues("ok").Inc()
		}
	}
}
