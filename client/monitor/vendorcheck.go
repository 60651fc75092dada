package monitor

import (
	"context"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
)

// unpairedAge is how old a start without an end must be for a vendor check to count it as unpaired rather than open.
const unpairedAge = 24 * time.Hour

// VendorCheck answers what a buyer asks about a vendor, from the records of the log alone.
func (m *Monitor) VendorCheck(ctx context.Context, q monitorapi.VendorCheckQuery) (*monitorapi.VendorCheck, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.vendorCheck(ctx, q)
}

// What a vendor check knows of a session.
const (
	sessionStart     = 1 << iota // has a hardware-bound start
	sessionFinal                 // has a hardware-bound final
	sessionAbandoned             // was abandoned
	sessionWeak                  // has a record that isn't hardware-bound
)

func (r *reader) vendorCheck(ctx context.Context, q monitorapi.VendorCheckQuery) (*monitorapi.VendorCheck, error) {
	if err := q.Normalize(); err != nil {
		return nil, err
	}
	c := &monitorapi.VendorCheck{
		State: r.state, Vendor: q.Vendor, Since: q.Since, Until: q.Until,
		Models: map[string]monitorapi.Share{}, TCBStatuses: map[string]monitorapi.Share{},
		Advisories: map[string]monitorapi.Share{}, Retention: map[string]monitorapi.Share{},
	}
	newest, err := r.newest()
	if err != nil {
		return nil, err
	}
	var (
		sessions  = make(map[[16]byte]uint8)
		platforms = make(map[string]struct{})
		tenants   = make(map[Hash]struct{})
		images    = make(map[Hash]struct{})
		widths    []float64

		finals, models, evidence, hardware uint64
	)
	count := func(m map[string]monitorapi.Share, key string) { s := m[key]; s.N++; m[key] = s }
	_, err = r.search(ctx, Query{Vendor: q.Vendor, Since: q.Since, Until: q.Until}, 0, func(rec *Record) bool {
		c.Records.Of++
		if rec.Genuine {
			c.Records.N++
		}
		if rec.Role == bundle.RoleImport {
			c.Imports.N++
		}
		if rec.Session != (Hash{}) {
			flags := uint8(0)
			switch {
			case !rec.HardwareBound && rec.Role != bundle.RoleAbandoned:
				flags = sessionWeak
			case rec.Role == bundle.RoleStart:
				flags = sessionStart
			case rec.Role == bundle.RoleFinal:
				flags = sessionFinal
			}
			if rec.Role == bundle.RoleAbandoned && rec.Genuine {
				flags |= sessionAbandoned
			}
			sessions[[16]byte(rec.Session[:16])] |= flags
		}
		if rec.Tenant != (Hash{}) {
			tenants[rec.Tenant] = struct{}{}
		}
		if !rec.Genuine {
			return true // nothing that it says counts
		}
		switch rec.Role {
		case bundle.RoleStart:
			c.Unpaired.Of++
			if rec.Ended == nil {
				if newest.Sub(rec.AdmittedAt) > unpairedAge {
					c.Unpaired.N++
				} else {
					c.Open.N++
				}
			}
		case bundle.RoleFinal:
			finals++
			count(c.Retention, rec.Retention+", "+rec.Enforcement)
			if rec.Enforcement == record.EnforcementTechnical {
				c.Technical.N++
			}
			for _, m := range rec.Models {
				models++
				count(c.Models, m.Execution)
				if m.Execution == record.ExecutionTEE {
					c.ModelRuns.Of++
					if m.Record {
						c.ModelRuns.N++
					}
				}
			}
		}
		if rec.HardwareBound && rec.Release != (Hash{}) {
			images[rec.Release] = struct{}{}
		}
		if rec.EvidenceClass != (Hash{}) {
			evidence++
			platforms[rec.Platform] = struct{}{}
			count(c.TCBStatuses, rec.TCBStatus)
			for _, a := range rec.Advisories {
				count(c.Advisories, a)
			}
		}
		if rec.HardwareBound {
			hardware++
			if !rec.NotBefore.IsZero() && !rec.NotAfter.IsZero() {
				widths = append(widths, rec.NotAfter.Sub(rec.NotBefore).Seconds())
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}

	total := uint64(len(sessions))
	c.Imports.Of, c.Open.Of = c.Records.Of, c.Unpaired.Of
	c.HardwareBound.Of, c.Completed.Of, c.Abandoned.Of, c.Technical.Of = total, total, total, finals
	for _, flags := range sessions {
		if flags&sessionStart != 0 && flags&sessionWeak == 0 {
			c.HardwareBound.N++
		}
		if flags&sessionStart != 0 && flags&sessionFinal != 0 {
			c.Completed.N++
		}
		if flags&sessionAbandoned != 0 {
			c.Abandoned.N++
		}
	}
	for m, of := range map[*map[string]monitorapi.Share]uint64{
		&c.Models: models, &c.TCBStatuses: evidence, &c.Advisories: evidence, &c.Retention: finals,
	} {
		for key, s := range *m {
			s.Of = of
			(*m)[key] = s
		}
	}
	c.Intervals = intervalWidths(widths, hardware)
	c.Platforms, c.Tenants = uint64(len(platforms)), uint64(len(tenants))
	c.Releases.Of, c.Withdrawn.Of = uint64(len(images)), uint64(len(images))
	for image := range images {
		logged, withdrawn, err := r.releases(q.Vendor, image)
		if err != nil {
			return nil, err
		}
		if logged {
			c.Releases.N++
		}
		if withdrawn {
			c.Withdrawn.N++
		}
	}
	return c, nil
}

// newest returns when the log admitted the newest record: the log's clock, so that the answer is the same whoever asks
// when.
func (r *reader) newest() (time.Time, error) {
	if !r.records.Last() {
		return time.Time{}, r.records.Error()
	}
	rec, err := decodeRecord(r.at(), r.records.Value())
	if err != nil {
		return time.Time{}, err
	}
	return rec.AdmittedAt, nil
}

// releases reports whether a vendor's genuine release of an image is logged, and whether one was withdrawn.
func (r *reader) releases(vendor string, image Hash) (logged, withdrawn bool, err error) {
	// genuine returns the records of a role in a list, as far as they are the vendor's.
	genuine := func(p postings, role bundle.Role, f func(*Record) error) error {
		return r.scan(p, 0, func(i uint64) (bool, error) {
			v, err := r.value(i)
			if err != nil || v == nil {
				return true, err
			}
			rec, err := decodeRecord(i, v)
			if err != nil || !rec.Genuine || rec.Role != role || rec.Vendor != vendor || rec.Release != image {
				return true, err
			}
			return true, f(rec)
		})
	}
	err = genuine(imagePostings(vendor, record.Digest(image)), bundle.RoleRelease, func(release *Record) error {
		logged = true
		return genuine(hashPostings(keyWithdrawn, release.Statement), bundle.RoleWithdrawal, func(*Record) error {
			withdrawn = true
			return nil
		})
	})
	return logged, withdrawn, err
}

func intervalWidths(widths []float64, hardware uint64) (w monitorapi.IntervalWidths) {
	n := uint64(len(widths))
	w.Proven = monitorapi.Share{N: n, Of: hardware}
	for _, s := range []*monitorapi.Share{&w.Minute, &w.TenMinutes, &w.Hour, &w.Wider} {
		s.Of = n
	}
	if n == 0 {
		return w
	}
	slices.Sort(widths)
	for _, x := range widths {
		switch {
		case x <= 60:
			w.Minute.N++
		case x <= 600:
			w.TenMinutes.N++
		case x <= 3600:
			w.Hour.N++
		default:
			w.Wider.N++
		}
	}
	w.Median, w.P95, w.Max = widths[n/2], widths[(n*95)/100], widths[n-1]
	return w
}
