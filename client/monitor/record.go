package monitor

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Types of package monitorapi, which clients use without linking the monitor.
type (
	Record = monitorapi.Record
	Model  = monitorapi.Model
	Result = monitorapi.Result
	Query  = monitorapi.Query
	Hash   = monitorapi.Hash
)

// A judged leaf is one whose entry the audit has verified, with what it found out. It is what the index is made of.
type judged struct {
	index uint64
	hash  record.Digest // leaf hash
	leaf  record.Leaf   // one with an entry
	// statement is the digest of the entry's statement.
	statement record.Digest

	// One of these is set: the verdict on a genuine entry, or why it isn't one. A verdict under any appraisal policy
	// will do, since only the platform is read from it.
	verdict *verifier.Verdict
	err     error

	// notBefore is the proven time of the note that the statement commits to, zero if there is none.
	notBefore time.Time
}

// newRecord returns the summary of a leaf.
func newRecord(j *judged) *Record {
	e := entryOf(j.leaf)
	st := e.Statement()
	r := &Record{
		Index: j.index, LeafHash: Hash(j.hash), Statement: Hash(j.statement),
		Role: roleOf(st), Profile: e.Profile, Vendor: st.Vendor, NotBefore: utc(j.notBefore),
	}
	switch l := j.leaf.(type) {
	case *record.RecordLeaf:
		r.AdmittedAt, r.JudgedAt, r.Collateral = fromMillis(l.AdmittedAt), fromMillis(l.JudgedAt), Hash(l.Collateral)
	case *record.VendorLeaf:
		r.AdmittedAt = fromMillis(l.AdmittedAt)
	}
	if id, ok := st.SessionID(); ok {
		r.Session = Hash(id.Digest())
	}
	if env := st.Environment(); env != nil {
		r.Release, r.ReleaseName = Hash(env.Release.SHA256), env.Release.Name
	}
	info := func(i *record.SessionInfo) {
		r.Kind, r.Tenant, r.TenantEpoch, r.Sequence, r.StartedOn = i.Kind, Hash(i.Tenant), i.TenantEpoch, i.Sequence, utc(i.StartedOn)
	}
	switch {
	case st.Start != nil:
		info(&st.Start.SessionInfo)
	case st.Session != nil:
		info(&st.Session.SessionInfo)
		r.Start = Hash(st.Session.Start.Statement)
		r.Retention, r.Enforcement = st.Session.Retention.Claim, st.Session.Retention.Enforcement
		for _, m := range st.Session.Models {
			r.Models = append(r.Models, Model{
				Provider: m.Provider, Name: m.RequestModel, ResponseModel: m.ResponseModel,
				Execution: m.Execution, Record: m.ModelRun != nil,
			})
		}
	case st.Abandoned != nil:
		r.Start, r.Sequence = Hash(st.Abandoned.Start.Statement), st.Abandoned.Sequence
	case st.ModelRun != nil:
		m := st.ModelRun
		r.Models = []Model{{Provider: m.Provider, Name: m.RequestModel, ResponseModel: m.ResponseModel, Record: true}}
		if m.Session != nil {
			r.Start = Hash(m.Session.Statement)
		}
	case st.Release != nil:
		r.Release, r.ReleaseName = Hash(st.Release.Image.SHA256), st.Release.Image.Name
	case st.Withdrawn != nil:
		r.Release, r.ReleaseName = Hash(st.Withdrawn.Image.SHA256), st.Withdrawn.Image.Name
	}

	v := j.verdict
	if v == nil {
		r.Reason = reasonOf(j.err)
		return r
	}
	r.Genuine = true
	r.HardwareBound = e.Profile == record.ProfileStatement
	if res := v.TDX; res != nil {
		r.FMSPC, r.Platform = res.FMSPC, res.PPID
		r.TCBStatus, r.TCBDate = string(res.Status), utc(res.Platform.Date)
		r.Advisories = advisoryIDs(res)
		r.EvidenceClass = evidenceClass(v.Quote, res.PCKChain)
	}
	return r
}

// advisoryIDs returns the ids of all advisories in a result, sorted, none twice.
func advisoryIDs(res *tdx.Result) (ids []string) {
	for _, a := range res.Advisories {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// reasonOf returns the verifier's word for why an entry isn't genuine.
func reasonOf(err error) string {
	if e := new(verifier.NotGenuine); errors.As(err, &e) {
		return e.Reason
	}
	return "not-judged"
}

// entryOf returns the entry in a leaf, or nil if it has none.
func entryOf(leaf record.Leaf) *record.Entry {
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		return l.Entry
	case *record.VendorLeaf:
		return l.Entry
	}
	return nil
}

// roleOf returns what an entry is in bundles.
func roleOf(st *record.Statement) bundle.Role {
	switch {
	case st.Start != nil:
		return bundle.RoleStart
	case st.Session != nil:
		return bundle.RoleFinal
	case st.Abandoned != nil:
		return bundle.RoleAbandoned
	case st.ModelRun != nil:
		return bundle.RoleModelRun
	case st.Evidence != nil:
		return bundle.RoleImport
	case st.Release != nil:
		return bundle.RoleRelease
	case st.Withdrawn != nil:
		return bundle.RoleWithdrawal
	}
	return bundle.RoleVendorKey
}

// evidenceClass is the digest of everything in a quote that Intel's rules look at beside its signatures: quotes of one
// class get the same judgement by the same collateral at the same time, once their signatures have verified (package tdx:
// Verifier.Verify). That is: the PCK certificate chain with the platform's SVNs; of the TD's body what describes the
// platform and the TDX module; and the quoting enclave's report but for its report data, which only ties the
// attestation key to the report.
// pckChain is the SHA-256 of the chain's DER, which a Result has.
func evidenceClass(q *tdx.Quote, pckChain [32]byte) Hash {
	const reportData = 320 // offset in the report; it is the last field
	b := append(make([]byte, 0, 640), "affidavit/evidence-class/v1\x00"...)
	part := func(v []byte) { // lengths keep parts from running into each other
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(v))), v...)
	}
	part([]byte{byte(q.Version >> 8), byte(q.Version), byte(q.BodyType >> 8), byte(q.BodyType)})
	part(pckChain[:])
	part(q.Body.TEETCBSVN)
	part(q.Body.TEETCBSVN2)
	part(q.Body.MRSignerSEAM)
	part(q.Body.SEAMAttributes)
	part(q.QEReport[:reportData])
	return Hash(sha256.Sum256(b))
}

// utc returns t in UTC, and the zero time for the zero time.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// recordVersion is the first byte of an encoded record.
const recordVersion = 1

// Flags of an encoded record.
const (
	flagGenuine = 1 << iota
	flagHardwareBound
)

// words that occur in most records are encoded as one byte: their place here, from 1. New ones go to the end.
var words = []string{
	string(bundle.RoleStart), string(bundle.RoleFinal), string(bundle.RoleAbandoned), string(bundle.RoleModelRun),
	string(bundle.RoleImport), string(bundle.RoleRelease), string(bundle.RoleWithdrawal), string(bundle.RoleVendorKey),
	string(record.ProfileStatement), string(record.ProfileVendorSigned), string(record.ProfileUnbound),
	string(tdx.StatusUpToDate), string(tdx.StatusSWHardeningNeeded), string(tdx.StatusConfigurationNeeded),
	string(tdx.StatusConfigurationAndSWHardeningNeeded), string(tdx.StatusOutOfDate),
	string(tdx.StatusOutOfDateConfigurationNeeded), string(tdx.StatusTDRelaunchAdvised),
	string(tdx.StatusTDRelaunchAdvisedConfigurationNeeded),
	record.KindCodingSession, record.KindModelRun,
	record.RetentionZero, record.RetentionLimited, record.RetentionNone,
	record.EnforcementTechnical, record.EnforcementPolicy,
	record.ExecutionTEE, record.ExecutionPolicyZDR, record.ExecutionUnattested,
}

var wordNumbers = func() map[string]byte {
	m := make(map[string]byte, len(words))
	for i, w := range words {
		m[w] = byte(i + 1)
	}
	return m
}()

// encodeRecord returns the stored form of r.
func encodeRecord(r *Record) []byte { return appendRecord(nil, r) }

// appendRecord appends the stored form of r: without Ended, NotAfter and Covering, which come from other leaves, and
// are looked up when a record is read. What recalls need comes first.
func appendRecord(b []byte, r *Record) []byte {
	flags := byte(0)
	if r.Genuine {
		flags |= flagGenuine
	}
	if r.HardwareBound {
		flags |= flagHardwareBound
	}
	b = append(b, recordVersion, flags)
	b = appendWord(b, string(r.Role))
	b = append(b, r.Session[:]...)
	b = append(b, r.EvidenceClass[:]...)
	b = appendWord(b, r.TCBStatus)
	b = binary.AppendUvarint(b, uint64(len(r.Advisories)))
	for _, a := range r.Advisories {
		b = appendString(b, a)
	}
	b = appendString(b, r.Vendor)
	b = append(b, r.Tenant[:]...)
	b = appendTime(b, r.AdmittedAt)
	b = appendTime(b, r.JudgedAt)
	b = appendTime(b, r.NotBefore)
	b = append(b, r.LeafHash[:]...)
	b = append(b, r.Statement[:]...)
	b = append(b, r.Start[:]...)
	b = append(b, r.Collateral[:]...)
	b = appendWord(b, string(r.Profile))
	b = appendWord(b, r.Kind)
	b = appendString(b, r.TenantEpoch)
	b = binary.AppendUvarint(b, r.Sequence)
	b = appendTime(b, r.StartedOn)
	b = append(b, r.Release[:]...)
	b = appendString(b, r.ReleaseName)
	b = appendWord(b, r.Retention)
	b = appendWord(b, r.Enforcement)
	b = appendWord(b, r.Reason)
	b = appendString(b, r.FMSPC)
	b = appendString(b, r.Platform)
	b = appendTime(b, r.TCBDate)
	b = binary.AppendUvarint(b, uint64(len(r.Models)))
	for _, m := range r.Models {
		b = appendString(b, m.Provider)
		b = appendString(b, m.Name)
		b = appendString(b, m.ResponseModel)
		b = appendWord(b, m.Execution)
		b = append(b, boolByte(m.Record))
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendWord appends a word of the list as its number, and others as zero and the string.
func appendWord(b []byte, s string) []byte {
	if n, ok := wordNumbers[s]; ok {
		return append(b, n)
	}
	return appendString(append(b, 0), s)
}

// appendTime appends milliseconds since 1970, zero for the zero time; the first millisecond of 1970 isn't a time that
// records have.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

// decodeRecord is the inverse of encodeRecord for the record at index.
func decodeRecord(index uint64, b []byte) (*Record, error) {
	d := &decoder{b: b}
	r := &Record{Index: index}
	d.head(r)
	if n := d.count(2); n > 0 {
		r.Advisories = make([]string, n)
		for i := range r.Advisories {
			r.Advisories[i] = d.string()
		}
	}
	r.Vendor = d.string()
	d.hash(&r.Tenant)
	r.AdmittedAt, r.JudgedAt, r.NotBefore = d.time(), d.time(), d.time()
	d.hash(&r.LeafHash)
	d.hash(&r.Statement)
	d.hash(&r.Start)
	d.hash(&r.Collateral)
	r.Profile = record.Profile(d.word())
	r.Kind = d.word()
	r.TenantEpoch = d.string()
	r.Sequence = d.uvarint()
	r.StartedOn = d.time()
	d.hash(&r.Release)
	r.ReleaseName = d.string()
	r.Retention, r.Enforcement, r.Reason = d.word(), d.word(), d.word()
	r.FMSPC, r.Platform = d.string(), d.string()
	r.TCBDate = d.time()
	if n := d.count(5); n > 0 {
		r.Models = make([]Model, n)
		for i := range r.Models {
			m := &r.Models[i]
			m.Provider, m.Name, m.ResponseModel, m.Execution, m.Record = d.string(), d.string(), d.string(), d.word(), d.bool()
		}
	}
	if !d.bad && len(d.b) > 0 {
		d.bad = true
	}
	if d.bad {
		return nil, fmt.Errorf("stored record %d is damaged", index)
	}
	return r, nil
}

// decodeHead decodes only what comes first: what was flagged, role, session, evidence class and TCB status.
func decodeHead(r *Record, b []byte) error {
	d := &decoder{b: b}
	d.head(r)
	if d.bad {
		return fmt.Errorf("stored record %d is damaged", r.Index)
	}
	return nil
}

// decodeTimes decodes only when the log says that it admitted the record at index, and when that was made at the earliest.
func decodeTimes(index uint64, b []byte) (admittedAt, notBefore time.Time, err error) {
	d := &decoder{b: b}
	d.head(new(Record))
	for n := d.count(2); n > 0; n-- {
		d.take(d.uvarint())
	}
	d.take(d.uvarint()) // the vendor
	d.take(32)          // the tenant
	admittedAt = d.time()
	d.time()
	notBefore = d.time()
	if d.bad {
		return admittedAt, notBefore, fmt.Errorf("stored record %d is damaged", index)
	}
	return admittedAt, notBefore, nil
}

// A decoder reads a stored record. After something that encodeRecord doesn't write, bad is set, and all reads give zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) head(r *Record) {
	if d.byte() != recordVersion {
		d.bad = true
	}
	flags := d.byte()
	if flags&^(flagGenuine|flagHardwareBound) != 0 {
		d.bad = true
	}
	r.Genuine, r.HardwareBound = flags&flagGenuine != 0, flags&flagHardwareBound != 0
	r.Role = bundle.Role(d.word())
	d.hash(&r.Session)
	d.hash(&r.EvidenceClass)
	r.TCBStatus = d.word()
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.bad = true
	}
	return v == 1
}

func (d *decoder) hash(h *Hash) { copy(h[:], d.take(uint64(len(h)))) }

func (d *decoder) uvarint() uint64 {
	if d.bad {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	// A last byte of zero is a longer form of a shorter number.
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count is a number of things that take at least size bytes each, which bounds what a damaged one can allocate.
func (d *decoder) count(size uint64) uint64 {
	n := d.uvarint()
	if n > uint64(len(d.b))/size {
		d.bad = true
		return 0
	}
	return n
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

func (d *decoder) word() string {
	n := d.byte()
	if n > 0 {
		if int(n) > len(words) {
			d.bad = true
			return ""
		}
		return words[n-1]
	}
	s := d.string()
	if _, ok := wordNumbers[s]; ok {
		d.bad = true
	}
	return s
}

func (d *decoder) time() time.Time {
	if d.bad {
		return time.Time{}
	}
	ux, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.bad = true
		return time.Time{}
	}
	d.b = d.b[n:]
	if ux == 0 {
		return time.Time{}
	}
	x := int64(ux >> 1) // zigzag, as binary.Varint has it
	if ux&1 != 0 {
		x = ^x
	}
	return time.UnixMilli(x).UTC()
}
