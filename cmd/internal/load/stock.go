// Package load puts a log under load: it makes entries beforehand on made-up platforms, submits them in a closed or an open
// loop, and reports what every one of them was answered and when, and what the operating system says that the server used.
package load

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mrand "math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A Kind says what the log should make of an entry.
type Kind uint8

const (
	Fresh     Kind = iota // a record that the log doesn't have: admitted
	Duplicate             // the very bytes of an earlier entry of the stock: admitted, at the same index
	Invalid               // a quote whose signature is wrong in one bit: refused
)

// A Recipe says what a stock is made of. Shares are of all entries, from 0 to 1.
type Recipe struct {
	Entries      int
	Platforms    int     // that appear again and again; at least 1
	NewPlatforms float64 // share of entries whose platform appears once
	Duplicates   float64
	Invalid      float64
	Size         int      // aimed at, in bytes of an entry; what statement and quote need at least is the lower bound
	Vendors      []string // ids; entries are dealt out to them in turn
	Freshness    record.Freshness
	Seed         uint64 // which entries are of which kind; keys and sessions are random anyway
}

// An Item is one entry of a stock.
type Item struct {
	Entry  []byte
	Vendor int // index in Recipe.Vendors
	Kind   Kind
	Of     int // of a Duplicate: the item that it repeats
}

// A Stock is what is to be submitted, in this order.
type Stock struct {
	Items []Item
	Bytes int64 // of all fresh entries
}

func (r Recipe) check() error {
	switch {
	case r.Entries < 1:
		return fmt.Errorf("%d entries: want at least 1", r.Entries)
	case r.Platforms < 1:
		return fmt.Errorf("%d platforms: want at least 1", r.Platforms)
	case len(r.Vendors) == 0:
		return fmt.Errorf("no vendors")
	}
	for name, share := range map[string]float64{"new platforms": r.NewPlatforms, "duplicates": r.Duplicates, "invalid entries": r.Invalid} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("share of %s is %v: want 0 to 1", name, share)
		}
	}
	if r.Duplicates+r.Invalid > 1 {
		return fmt.Errorf("shares of duplicates and invalid entries are %v together: want at most 1", r.Duplicates+r.Invalid)
	}
	return nil
}

// Make makes a stock, on all processors. It calls progress, if not nil, from time to time with the number of entries made.
func Make(pki *tdxsim.PKI, r Recipe, progress func(made int)) (*Stock, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	s := &Stock{Items: make([]Item, r.Entries)}
	rng := mrand.New(mrand.NewPCG(r.Seed, 0))
	fresh := make([]int, 0, r.Entries) // items that a duplicate can be of
	platform := make([]string, r.Entries)
	for i := range s.Items {
		it := &s.Items[i]
		it.Vendor = i % len(r.Vendors)
		platform[i] = "load-" + strconv.Itoa(rng.IntN(r.Platforms))
		if rng.Float64() < r.NewPlatforms {
			platform[i] = "once-" + strconv.Itoa(i)
		}
		switch x := rng.Float64(); {
		case x < r.Duplicates && len(fresh) > 0:
			it.Kind, it.Of = Duplicate, fresh[rng.IntN(len(fresh))]
			it.Vendor = s.Items[it.Of].Vendor
		case x >= r.Duplicates && x < r.Duplicates+r.Invalid:
			it.Kind = Invalid
		default:
			fresh = append(fresh, i)
		}
	}

	m := &maker{pki: pki, r: r, platforms: map[string]*tdxsim.Platform{}}
	var next, made atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, runtime.GOMAXPROCS(0))
	for range cap(errs) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < r.Entries; i = int(next.Add(1)) - 1 {
				if s.Items[i].Kind != Duplicate {
					entry, err := m.entry(platform[i], r.Vendors[s.Items[i].Vendor], s.Items[i].Kind)
					if err != nil {
						errs <- err
						next.Store(int64(r.Entries))
						return
					}
					s.Items[i].Entry = entry
				}
				if n := made.Add(1); progress != nil && n%1024 == 0 {
					progress(int(n))
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	for i := range s.Items {
		switch it := &s.Items[i]; it.Kind {
		case Duplicate:
			it.Entry = s.Items[it.Of].Entry
		case Fresh:
			s.Bytes += int64(len(it.Entry))
		}
	}
	return s, nil
}

// A maker makes entries. It can be used concurrently.
type maker struct {
	pki *tdxsim.PKI
	r   Recipe

	mu        sync.Mutex // guards platforms
	platforms map[string]*tdxsim.Platform
}

// platform returns a platform by its name. Those that appear once aren't kept.
func (m *maker) platform(name string) *tdxsim.Platform {
	if name[0] == 'o' {
		return m.pki.NewPlatform(tdxsim.PlatformOptions{Name: name})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.platforms[name]
	if p == nil {
		p = m.pki.NewPlatform(tdxsim.PlatformOptions{Name: name})
		m.platforms[name] = p
	}
	return p
}

// image is the release that the sessions under load run.
var image = record.Image{Name: "pkg:oci/affidavit-load", SHA256: sha256.Sum256([]byte("affidavit-load"))}

// entry returns the start record of a session.
func (m *maker) entry(platform, vendor string, kind Kind) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	start := &record.SessionStart{
		SessionInfo: record.SessionInfo{
			Kind: record.KindCodingSession, TenantEpoch: now.Format("2006-01"), Sequence: 1,
			StartedOn: now.Truncate(time.Second), IsolationScope: record.IsolationSession,
		},
		SessionKey:  record.NewSessionKey(key.Public().(ed25519.PublicKey)),
		Freshness:   m.r.Freshness,
		Environment: record.Environment{Release: image, PersistentStorage: record.StorageNone},
		Channels:    []record.Channel{{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256(key)}},
	}
	rand.Read(start.ID[:])
	rand.Read(start.Tenant[:])
	for {
		st := &record.Statement{
			PredicateType: record.PredicateSessionStart, Vendor: vendor, Start: start,
			Subjects: []record.Subject{{Name: record.SubjectSession, SHA256: start.ID.Digest()}},
		}
		payload, err := st.Marshal()
		if err != nil {
			return nil, err
		}
		// On real platforms, no two quotes have the signature of the quoting enclave's report in common.
		q, err := m.platform(platform).Quote(tdxsim.QuoteOptions{ReportData: record.ReportData(record.PayloadType, payload), FreshQE: true})
		if err != nil {
			return nil, err
		}
		if kind == Invalid {
			parsed, err := tdx.ParseQuote(q)
			if err != nil {
				return nil, err
			}
			parsed.Signature[8] ^= 1 // a byte of q; parsed isn't used any more
		}
		e, err := record.SignEntry(record.ProfileStatement, payload, key, record.NewQuoteEvidence(q))
		if err != nil {
			return nil, err
		}
		// Sessions with more keys have longer records.
		if missing := m.r.Size - len(e.Bytes()); missing > channelSize && len(start.Channels) < maxChannels {
			for range min(missing/channelSize, maxChannels-len(start.Channels)) {
				c := record.Channel{Type: record.ChannelHPKEKey}
				rand.Read(c.SHA256[:])
				start.Channels = append(start.Channels, c)
			}
			continue
		}
		return bytes.Clone(e.Bytes()), nil
	}
}

// A channel takes so many bytes of a statement, which has at most so many (FORMAT.md).
const (
	channelSize = 110
	maxChannels = 16
)
