package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// statementType is the only in-toto statement type of version 1.
const statementType = "https://in-toto.io/Statement/v1"

// Bounds of lists (FORMAT.md gives one for every member).
const (
	maxModels       = 64
	maxChannels     = 16
	maxAccelerators = 16
	maxUpstream     = 16
	maxMeasurements = 16
	maxBasis        = 16
	maxCounts       = 64
)

// ParseStatement parses the bytes of a statement, at most MaxPayload, and checks
// every rule of FORMAT.md that concerns one statement alone. It doesn't retain payload. The
// error wraps ErrMalformed, and is an *UnsupportedError for an unknown predicate type.
func ParseStatement(payload []byte) (*Statement, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %w: statement of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(payload), MaxPayload)
	}
	typ, found := findPredicateType(payload)
	p, ok := predicates[typ]
	if found && !ok {
		return nil, &UnsupportedError{What: "predicate type", Got: fmt.Sprintf("%.100q", typ)}
	}
	s := new(Statement)
	if found {
		p.init(s)
	}
	if err := readJSON(payload, false, typ, func(c *codec) { object(c, statementFields, s) }); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

// findPredicateType finds the predicate type before the predicate is read, which may
// come first. In a statement that will be accepted, strings contain no quotes, so that this
// text before a colon can only be a member's name, and no member further in
// has this name. Should it find something else, reading the statement fails.
func findPredicateType(payload []byte) (string, bool) {
	const name = `"predicateType"`
	const space = " \t\r\n"
	for {
		i := bytes.Index(payload, []byte(name[1:])) // a rare first byte is found faster
		if i < 0 {
			return "", false
		}
		start := payload[:i]
		payload = payload[i+len(name)-1:]
		if !bytes.HasSuffix(start, []byte(name[:1])) {
			continue
		}
		v, ok := bytes.CutPrefix(bytes.TrimLeft(payload, space), []byte(":"))
		if !ok {
			continue
		}
		v, ok = bytes.CutPrefix(bytes.TrimLeft(v, space), []byte(`"`))
		if end := bytes.IndexByte(v, '"'); ok && end >= 0 {
			return string(v[:end]), true
		}
		return "", false
	}
}

// predicates has what differs from type to type.
var predicates = map[string]struct {
	init   func(*Statement)
	fields []field[Statement]
}{
	PredicateSessionStart:     {func(s *Statement) { s.Start = new(SessionStart) }, startFields},
	PredicateSession:          {func(s *Statement) { s.Session = new(Session) }, sessionFields},
	PredicateSessionAbandoned: {func(s *Statement) { s.Abandoned = new(SessionAbandoned) }, abandonedFields},
	PredicateModelRun:         {func(s *Statement) { s.ModelRun = new(ModelRun) }, modelRunFields},
	PredicateRelease:          {func(s *Statement) { s.Release = new(Release) }, releaseFields},
	PredicateReleaseWithdrawn: {func(s *Statement) { s.Withdrawn = new(ReleaseWithdrawn) }, withdrawnFields},
	PredicateVendorKey:        {func(s *Statement) { s.VendorKey = new(VendorKey) }, vendorKeyFields},
	PredicateEvidence:         {func(s *Statement) { s.Evidence = new(ImportedEvidence) }, evidenceFields},
}

// Marshal returns a statement of s in a deterministic form without spaces.
// PredicateType, Subjects and the second form of keys (KeyID and SPKI beside PublicKey) may be left
// out: they follow from the rest. The error wraps ErrMalformed if ParseStatement would
// refuse the result.
func (s *Statement) Marshal() ([]byte, error) {
	t := *s
	if t.PredicateType == "" {
		t.PredicateType = s.impliedType()
	}
	if t.PredicateType == "" || t.impliedType() != t.PredicateType {
		return nil, fmt.Errorf("%w: statement with predicate type %.100q, and with the fields of %.100q", ErrMalformed, t.PredicateType, t.impliedType())
	}
	if t.Subjects == nil {
		t.Subjects = t.impliedSubjects()
	}
	var err error
	b := writeJSON(func(c *codec) {
		c.predicateType = t.PredicateType
		object(c, statementFields, &t)
		err = c.err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if _, err := ParseStatement(b); err != nil {
		return nil, err
	}
	return b, nil
}

// impliedType returns the predicate type of the one pointer that is set, or "".
func (s *Statement) impliedType() string {
	typ, n := "", 0
	for _, p := range []struct {
		set bool
		typ string
	}{
		{s.Start != nil, PredicateSessionStart},
		{s.Session != nil, PredicateSession},
		{s.Abandoned != nil, PredicateSessionAbandoned},
		{s.ModelRun != nil, PredicateModelRun},
		{s.Release != nil, PredicateRelease},
		{s.Withdrawn != nil, PredicateReleaseWithdrawn},
		{s.VendorKey != nil, PredicateVendorKey},
		{s.Evidence != nil, PredicateEvidence},
	} {
		if p.set {
			typ = p.typ
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return typ
}

// impliedSubjects returns the only subjects that a statement with this
// predicate can have. A release's image is in its subject alone, see check.
func (s *Statement) impliedSubjects() []Subject {
	switch {
	case s.Session != nil && s.Session.OutputCommit != nil:
		return []Subject{{SubjectSession, s.Session.ID.Digest()}, {SubjectOutputCommit, *s.Session.OutputCommit}}
	case s.ModelRun != nil && s.ModelRun.Session == nil && s.ModelRun.SessionsServed != nil:
		return []Subject{{SubjectSessionsServed, s.ModelRun.SessionsServed.Root}}
	case s.Release != nil:
		return []Subject{Subject(s.Release.Image)}
	case s.Withdrawn != nil:
		return []Subject{Subject(s.Withdrawn.Image)}
	case s.VendorKey != nil:
		return []Subject{{SubjectKey, sha256sum(s.VendorKey.Key.spki())}}
	case s.Evidence != nil:
		return []Subject{{SubjectEvidence, s.Evidence.SHA256}}
	}
	id, _ := s.SessionID()
	return []Subject{{SubjectSession, id.Digest()}}
}

// The tables of members, in the order in which they are written.

var statementFields = []field[Statement]{
	req("_type", func(c *codec, s *Statement) { c.constant(statementType) }),
	req("subject", func(c *codec, s *Statement) {
		list(c, &s.Subjects, 1, 2, func(c *codec, v *Subject) { object(c, subjectFields, v) })
	}),
	req("predicateType", func(c *codec, s *Statement) {
		c.constant(c.predicateType)
		s.PredicateType = c.predicateType
	}),
	req("predicate", func(c *codec, s *Statement) {
		if p, ok := predicates[c.predicateType]; ok {
			object(c, p.fields, s)
		} else {
			c.failf("predicate without a predicateType")
		}
	}),
}

var subjectFields = []field[Subject]{
	req("name", func(c *codec, v *Subject) { c.checked(&v.Name, checkName) }),
	req("digest", func(c *codec, v *Subject) { digestRef(c, &v.SHA256) }),
}

var imageFields = []field[Image]{
	req("name", func(c *codec, v *Image) { c.checked(&v.Name, checkName) }),
	req("digest", func(c *codec, v *Image) { digestRef(c, &v.SHA256) }),
}

var digestFields = []field[Digest]{req("sha256", (*codec).digest)}

// digestRef reads or writes {"sha256": …}.
func digestRef(c *codec, d *Digest) { object(c, digestFields, d) }

// optDigest is an optional member {"sha256": …}.
func optDigest[T any](name string, p func(*T) **Digest) field[T] {
	return opt(name, func(v *T) bool { return *p(v) != nil }, func(c *codec, v *T) {
		d := p(v)
		if !c.writing {
			*d = new(Digest)
		}
		digestRef(c, *d)
	})
}

var statementRefFields = []field[Digest]{req("statement", digestRef)}

// optStatement is an optional member {"statement": {"sha256": …}}.
func optStatement[T any](name string, p func(*T) **Digest) field[T] {
	return opt(name, func(v *T) bool { return *p(v) != nil }, func(c *codec, v *T) {
		d := p(v)
		if !c.writing {
			*d = new(Digest)
		}
		object(c, statementRefFields, *d)
	})
}

var vendorField = req("vendor", func(c *codec, s *Statement) { object(c, vendorFields, &s.Vendor) })

var vendorFields = []field[string]{
	req("id", func(c *codec, s *string) {
		c.checked(s, func(s string) error {
			err := CheckVendorID(s)
			if err != nil {
				return errors.New(strings.TrimPrefix(err.Error(), ErrMalformed.Error()+": "))
			}
			return nil
		})
	}),
}

func origin(c *codec, s *string) {
	c.checked(s, func(s string) error {
		if err := CheckOrigin(s); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), ErrMalformed.Error()+": "))
		}
		return nil
	})
}

func sessionID(c *codec, id *SessionID) { c.hex(id[:]) }

var keyFields = []field[SessionKey]{
	req("keyid", func(c *codec, k *SessionKey) {
		if c.writing {
			id := KeyID(k.spki())
			c.checked(&id, nil)
			return
		}
		c.checked(&k.KeyID, checkKeyID)
	}),
	req("publicKey", func(c *codec, k *SessionKey) {
		if c.writing {
			spki := k.spki()
			c.base64(&spki, 0, 0)
			return
		}
		c.base64(&k.SPKI, len(spkiPrefix)+32, len(spkiPrefix)+32)
		if c.err != nil {
			return
		}
		pub, err := ParseSPKI(k.SPKI)
		if err != nil {
			c.failf("not an Ed25519 SubjectPublicKeyInfo")
			return
		}
		k.PublicKey = pub
	}),
}

// spki returns the SPKI, which may have been left out for writing.
func (k *SessionKey) spki() []byte {
	if k.SPKI == nil && len(k.PublicKey) == 32 {
		return SPKI(k.PublicKey)
	}
	return k.SPKI
}

func checkKeyID(s string) error {
	var d Digest
	if !decodeHex(d[:], s) {
		return fmt.Errorf("key id %.80q is not 64 lowercase hexadecimal digits", s)
	}
	return nil
}

func key(c *codec, k *SessionKey) {
	object(c, keyFields, k)
	if !c.writing && c.err == nil && KeyID(k.SPKI) != k.KeyID {
		c.failf("keyid %s is not the SHA-256 of publicKey", k.KeyID)
	}
}

var freshnessFields = []field[Freshness]{
	req("checkpoint", func(c *codec, f *Freshness) { object(c, checkpointFields, f) }),
}

var checkpointFields = []field[Freshness]{
	req("origin", func(c *codec, f *Freshness) { origin(c, &f.Origin) }),
	req("size", func(c *codec, f *Freshness) { c.integer(&f.Size, 0, maxInt) }),
	req("rootHash", func(c *codec, f *Freshness) { c.base64Digest(&f.Root) }),
	req("note", func(c *codec, f *Freshness) { digestRef(c, &f.Note) }),
}

// emptyRoot is the root of a tree without leaves (RFC 6962, Section 2.1).
var emptyRoot = sha256sum(nil)

func freshness(c *codec, f *Freshness) {
	object(c, freshnessFields, f)
	if !c.writing && c.err == nil && f.Size == 0 && f.Root != emptyRoot {
		c.failf("checkpoint of size 0 with a root that is not SHA-256 of nothing")
	}
}

var channelFields = []field[Channel]{
	req("type", func(c *codec, v *Channel) { c.enum(&v.Type, ChannelTLSSPKI, ChannelHPKEKey) }),
	req("sha256", func(c *codec, v *Channel) { c.digest(&v.SHA256) }),
}

func channel(c *codec, v *Channel) { object(c, channelFields, v) }

func execution(c *codec, s *string) {
	c.enum(s, ExecutionTEE, ExecutionPolicyZDR, ExecutionUnattested)
}

var environmentFields = []field[Environment]{
	req("release", func(c *codec, e *Environment) { object(c, imageFields, &e.Release) }),
	opt("persistentStorage", func(e *Environment) bool { return e.PersistentStorage != "" }, func(c *codec, e *Environment) {
		c.enum(&e.PersistentStorage, StorageNone, StorageEncryptedEphemeral, StoragePersistent)
	}),
	optDigest("egressPolicy", func(e *Environment) **Digest { return &e.EgressPolicy }),
	optDigest("eventLog", func(e *Environment) **Digest { return &e.EventLog }),
	opt("accelerators", func(e *Environment) bool { return len(e.Accelerators) > 0 }, func(c *codec, e *Environment) {
		list(c, &e.Accelerators, 1, maxAccelerators, func(c *codec, a *Accelerator) { object(c, acceleratorFields, a) })
	}),
}

func environment(c *codec, e *Environment) { object(c, environmentFields, e) }

var acceleratorFields = []field[Accelerator]{
	req("type", func(c *codec, a *Accelerator) { c.enum(&a.Type, AcceleratorNVIDIA) }),
	req("count", func(c *codec, a *Accelerator) { c.integer(&a.Count, 1, 1<<16-1) }),
	req("binding", func(c *codec, a *Accelerator) { c.enum(&a.Binding, BindingNonceChained) }),
	req("nonce", func(c *codec, a *Accelerator) { c.digest(&a.Nonce) }),
	req("evidence", func(c *codec, a *Accelerator) { digestRef(c, &a.Evidence) }),
}

var startRefFields = []field[StatementRef]{
	req("origin", func(c *codec, r *StatementRef) { origin(c, &r.Origin) }),
	req("index", func(c *codec, r *StatementRef) { c.integer(&r.Index, 0, maxInt) }),
	req("statement", func(c *codec, r *StatementRef) { digestRef(c, &r.Statement) }),
}

// infoFields are the members of session that start and final share; info finds
// them in either.
func infoFields[T any](info func(*T) *SessionInfo) []field[T] {
	return []field[T]{
		req("id", func(c *codec, v *T) { sessionID(c, &info(v).ID) }),
		req("kind", func(c *codec, v *T) { c.enum(&info(v).Kind, KindCodingSession, KindModelRun) }),
		req("tenant", func(c *codec, v *T) { c.digest(&info(v).Tenant) }),
		req("tenantEpoch", func(c *codec, v *T) { c.checked(&info(v).TenantEpoch, checkMonth) }),
		opt("sequence", func(v *T) bool { return info(v).Sequence != 0 }, func(c *codec, v *T) {
			c.integer(&info(v).Sequence, 1, maxInt)
		}),
		req("startedOn", func(c *codec, v *T) { c.time(&info(v).StartedOn) }),
		req("isolationScope", func(c *codec, v *T) {
			c.enum(&info(v).IsolationScope, IsolationSession, IsolationWorktree, IsolationProject)
		}),
	}
}

var startInfoFields = infoFields(func(s *SessionStart) *SessionInfo { return &s.SessionInfo })

var startFields = []field[Statement]{
	vendorField,
	req("session", func(c *codec, s *Statement) { object(c, startInfoFields, s.Start) }),
	req("sessionKey", func(c *codec, s *Statement) { key(c, &s.Start.SessionKey) }),
	req("freshness", func(c *codec, s *Statement) { freshness(c, &s.Start.Freshness) }),
	req("environment", func(c *codec, s *Statement) { environment(c, &s.Start.Environment) }),
	req("channels", func(c *codec, s *Statement) { list(c, &s.Start.Channels, 0, maxChannels, channel) }),
	optDigest("challenge", func(s *Statement) **Digest { return &s.Start.Challenge }),
}

var finalInfoFields = append(infoFields(func(s *Session) *SessionInfo { return &s.SessionInfo }),
	req("finishedOn", func(c *codec, s *Session) { c.time(&s.FinishedOn) }),
	req("endReason", func(c *codec, s *Session) { c.enum(&s.EndReason, EndCompleted, EndAborted, EndTimeout) }),
	req("start", func(c *codec, s *Session) { object(c, startRefFields, &s.Start) }),
)

var sessionFields = []field[Statement]{
	vendorField,
	req("session", func(c *codec, s *Statement) { object(c, finalInfoFields, s.Session) }),
	req("sessionKey", func(c *codec, s *Statement) { key(c, &s.Session.SessionKey) }),
	req("freshness", func(c *codec, s *Statement) { freshness(c, &s.Session.Freshness) }),
	req("environment", func(c *codec, s *Statement) { environment(c, &s.Session.Environment) }),
	req("models", func(c *codec, s *Statement) {
		list(c, &s.Session.Models, 0, maxModels, func(c *codec, m *Model) { object(c, modelFields, m) })
	}),
	req("actions", func(c *codec, s *Statement) { object(c, actionsFields, &s.Session.Actions) }),
	req("retention", func(c *codec, s *Statement) { object(c, retentionFields, &s.Session.Retention) }),
	req("teardown", func(c *codec, s *Statement) { object(c, teardownFields, s.Session) }),
}

var modelFields = []field[Model]{
	req("provider", func(c *codec, m *Model) { c.checked(&m.Provider, checkName) }),
	req("requestModel", func(c *codec, m *Model) { c.checked(&m.RequestModel, checkName) }),
	opt("responseModel", func(m *Model) bool { return m.ResponseModel != "" }, func(c *codec, m *Model) {
		c.checked(&m.ResponseModel, checkName)
	}),
	req("calls", func(c *codec, m *Model) { c.integer(&m.Calls, 0, maxInt) }),
	req("execution", func(c *codec, m *Model) { execution(c, &m.Execution) }),
	req("channel", func(c *codec, m *Model) { channel(c, &m.Channel) }),
	optStatement("modelRun", func(m *Model) **Digest { return &m.ModelRun }),
}

func treeFields[T any](tree func(*T) *Tree) []field[T] {
	return []field[T]{
		req("treeSize", func(c *codec, v *T) { c.integer(&tree(v).Size, 0, maxInt) }),
		req("rootHash", func(c *codec, v *T) { c.base64Digest(&tree(v).Root) }),
	}
}

func schemeField[T any]() field[T] {
	return req("scheme", func(c *codec, v *T) { c.constant(SchemeSalted) })
}

var actionsFields = append(append([]field[Actions]{schemeField[Actions]()},
	treeFields(func(a *Actions) *Tree { return &a.Tree })...),
	opt("counts", func(a *Actions) bool { return a.Counts != nil }, func(c *codec, a *Actions) {
		mapping(c, &a.Counts, maxCounts, checkToken, count)
	}),
	opt("outcomes", func(a *Actions) bool { return a.Outcomes != nil }, func(c *codec, a *Actions) {
		mapping(c, &a.Outcomes, maxCounts, checkOutcome, count)
	}),
)

func count(c *codec, n *uint64) { c.integer(n, 0, maxInt) }

var outcomes = []string{OutcomeExecuted, OutcomeBlocked, OutcomeDenied, OutcomeErrored, OutcomeTimedOut}

func checkOutcome(s string) error {
	if !slices.Contains(outcomes, s) {
		return fmt.Errorf("%.80q is not one of %s", s, strings.Join(outcomes, ", "))
	}
	return nil
}

var retentionFields = []field[Retention]{
	req("claim", func(c *codec, r *Retention) { c.enum(&r.Claim, RetentionZero, RetentionLimited, RetentionNone) }),
	req("enforcement", func(c *codec, r *Retention) { c.enum(&r.Enforcement, EnforcementTechnical, EnforcementPolicy) }),
	req("basis", func(c *codec, r *Retention) {
		list(c, &r.Basis, 0, maxBasis, func(c *codec, s *string) { c.checked(s, checkToken) })
	}),
}

var teardownFields = []field[Session]{
	req("workspaceErased", func(c *codec, s *Session) { c.bool(&s.WorkspaceErased) }),
}

var abandonedFields = []field[Statement]{
	vendorField,
	req("session", func(c *codec, s *Statement) { object(c, abandonedInfoFields, s.Abandoned) }),
	req("reason", func(c *codec, s *Statement) {
		c.enum(&s.Abandoned.Reason, AbandonedUnused, AbandonedCrashed, AbandonedTerminated, AbandonedLost)
	}),
	req("abandonedOn", func(c *codec, s *Statement) { c.time(&s.Abandoned.AbandonedOn) }),
	opt("sessionKey", func(s *Statement) bool { return s.Abandoned.SessionKey != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.Abandoned.SessionKey = new(SessionKey)
		}
		key(c, s.Abandoned.SessionKey)
	}),
	opt("freshness", func(s *Statement) bool { return s.Abandoned.Freshness != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.Abandoned.Freshness = new(Freshness)
		}
		freshness(c, s.Abandoned.Freshness)
	}),
	opt("environment", func(s *Statement) bool { return s.Abandoned.Environment != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.Abandoned.Environment = new(Environment)
		}
		environment(c, s.Abandoned.Environment)
	}),
}

var abandonedInfoFields = []field[SessionAbandoned]{
	req("id", func(c *codec, a *SessionAbandoned) { sessionID(c, &a.ID) }),
	opt("sequence", func(a *SessionAbandoned) bool { return a.Sequence != 0 }, func(c *codec, a *SessionAbandoned) {
		c.integer(&a.Sequence, 1, maxInt)
	}),
	req("start", func(c *codec, a *SessionAbandoned) { object(c, startRefFields, &a.Start) }),
}

var modelRunFields = []field[Statement]{
	vendorField,
	req("model", func(c *codec, s *Statement) { object(c, modelRunModelFields, s.ModelRun) }),
	req("calls", func(c *codec, s *Statement) { modelRunCalls(c, &s.ModelRun.Calls) }),
	req("sessionKey", func(c *codec, s *Statement) { key(c, &s.ModelRun.SessionKey) }),
	req("freshness", func(c *codec, s *Statement) { freshness(c, &s.ModelRun.Freshness) }),
	req("environment", func(c *codec, s *Statement) { environment(c, &s.ModelRun.Environment) }),
	req("peer", func(c *codec, s *Statement) { object(c, peerFields, s.ModelRun) }),
	opt("session", func(s *Statement) bool { return s.ModelRun.Session != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.ModelRun.Session = new(ServedSession)
		}
		object(c, servedFields, s.ModelRun.Session)
	}),
	opt("sessionsServed", func(s *Statement) bool { return s.ModelRun.SessionsServed != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.ModelRun.SessionsServed = new(Tree)
		}
		object(c, sessionsServedFields, s.ModelRun.SessionsServed)
	}),
	req("upstream", func(c *codec, s *Statement) {
		list(c, &s.ModelRun.Upstream, 0, maxUpstream, func(c *codec, u *Upstream) { object(c, upstreamFields, u) })
	}),
}

var modelRunModelFields = []field[ModelRun]{
	req("provider", func(c *codec, m *ModelRun) { c.checked(&m.Provider, checkName) }),
	req("requestModel", func(c *codec, m *ModelRun) { c.checked(&m.RequestModel, checkName) }),
	opt("responseModel", func(m *ModelRun) bool { return m.ResponseModel != "" }, func(c *codec, m *ModelRun) {
		c.checked(&m.ResponseModel, checkName)
	}),
	opt("weights", func(m *ModelRun) bool { return m.Weights != nil }, func(c *codec, m *ModelRun) {
		if !c.writing {
			m.Weights = new(Digest)
		}
		object(c, weightsFields, m.Weights)
	}),
	optDocument("bom", func(m *ModelRun) **Document { return &m.BOM }),
}

var weightsFields = []field[Digest]{req("digest", digestRef)}

// optDocument is an optional member {"mediaType": …, "digest": {"sha256": …}}.
func optDocument[T any](name string, p func(*T) **Document) field[T] {
	return opt(name, func(v *T) bool { return *p(v) != nil }, func(c *codec, v *T) {
		d := p(v)
		if !c.writing {
			*d = new(Document)
		}
		object(c, documentFields, *d)
	})
}

var documentFields = []field[Document]{
	req("mediaType", func(c *codec, d *Document) { c.checked(&d.MediaType, checkMediaType) }),
	req("digest", func(c *codec, d *Document) { digestRef(c, &d.SHA256) }),
}

// calls has the number of calls twice, since each call is one leaf.
type calls struct {
	count uint64
	Tree
}

var callsFields = append([]field[calls]{
	req("count", func(c *codec, v *calls) { c.integer(&v.count, 0, maxInt) }),
}, treeFields(func(v *calls) *Tree { return &v.Tree })...)

func modelRunCalls(c *codec, t *Tree) {
	v := calls{count: t.Size, Tree: *t}
	object(c, callsFields, &v)
	if !c.writing && c.err == nil && v.count != v.Size {
		c.failf("count %d is not treeSize %d", v.count, v.Size)
	}
	*t = v.Tree
}

var peerFields = []field[ModelRun]{
	opt("sessionKeyid", func(m *ModelRun) bool { return m.PeerKeyID != "" }, func(c *codec, m *ModelRun) {
		c.checked(&m.PeerKeyID, checkKeyID)
	}),
	req("channelBinding", func(c *codec, m *ModelRun) { channel(c, &m.PeerChannel) }),
}

var servedFields = []field[ServedSession]{
	req("id", func(c *codec, v *ServedSession) { sessionID(c, &v.ID) }),
	req("statement", func(c *codec, v *ServedSession) { digestRef(c, &v.Statement) }),
}

var sessionsServedFields = append([]field[Tree]{schemeField[Tree]()},
	treeFields(func(t *Tree) *Tree { return t })...)

var upstreamFields = []field[Upstream]{
	req("provider", func(c *codec, u *Upstream) { c.checked(&u.Provider, checkName) }),
	req("execution", func(c *codec, u *Upstream) { execution(c, &u.Execution) }),
	req("channel", func(c *codec, u *Upstream) { channel(c, &u.Channel) }),
	optStatement("modelRun", func(u *Upstream) **Digest { return &u.ModelRun }),
}

var releaseFields = []field[Statement]{
	vendorField,
	req("version", func(c *codec, s *Statement) { c.checked(&s.Release.Version, checkName) }),
	req("measurements", func(c *codec, s *Statement) {
		list(c, &s.Release.Measurements, 1, maxMeasurements, func(c *codec, m *Measurement) { object(c, measurementFields, m) })
	}),
	opt("source", func(s *Statement) bool { return s.Release.Source != nil }, func(c *codec, s *Statement) {
		if !c.writing {
			s.Release.Source = new(Source)
		}
		object(c, sourceFields, s.Release.Source)
	}),
	optDocument("provenance", func(s *Statement) **Document { return &s.Release.Provenance }),
	opt("agentMeasured", func(s *Statement) bool { return s.Release.AgentMeasured }, func(c *codec, s *Statement) {
		if c.bool(&s.Release.AgentMeasured); c.err == nil && !s.Release.AgentMeasured {
			c.failf("false: a member that is true or absent")
		}
	}),
	req("notBefore", func(c *codec, s *Statement) { c.time(&s.Release.NotBefore) }),
	req("notAfter", func(c *codec, s *Statement) {
		if c.null(s.Release.NotAfter == nil) {
			return
		}
		if !c.writing {
			s.Release.NotAfter = new(time.Time)
		}
		c.time(s.Release.NotAfter)
	}),
}

var measurementFields = []field[Measurement]{
	req("tee", func(c *codec, m *Measurement) { c.constant(TEEIntelTDX) }),
	req("mrtd", func(c *codec, m *Measurement) { c.hex(m.MRTD[:]) }),
	req("rtmr", func(c *codec, m *Measurement) {
		rtmr := m.RTMR[:]
		list(c, &rtmr, len(m.RTMR), len(m.RTMR), register)
		copy(m.RTMR[:], rtmr)
	}),
	req("mrConfigId", func(c *codec, m *Measurement) { register(c, &m.MRConfigID) }),
	opt("mrOwner", func(m *Measurement) bool { return m.MROwner != nil }, func(c *codec, m *Measurement) { register(c, &m.MROwner) }),
	opt("mrOwnerConfig", func(m *Measurement) bool { return m.MROwnerConfig != nil }, func(c *codec, m *Measurement) {
		register(c, &m.MROwnerConfig)
	}),
	opt("note", func(m *Measurement) bool { return m.Note != "" }, func(c *codec, m *Measurement) { c.checked(&m.Note, checkText) }),
}

// register reads or writes 48 bytes in hexadecimal, or null for "not constrained".
func register(c *codec, r **[48]byte) {
	if c.null(*r == nil) {
		return
	}
	if !c.writing {
		*r = new([48]byte)
	}
	c.hex((*r)[:])
}

var sourceFields = []field[Source]{
	req("uri", func(c *codec, s *Source) { c.checked(&s.URI, checkURI) }),
	req("digest", func(c *codec, s *Source) { object(c, sourceDigestFields, s) }),
}

var sourceDigestFields = []field[Source]{
	opt("gitCommit", func(s *Source) bool { return s.GitCommit != "" }, func(c *codec, s *Source) {
		c.checked(&s.GitCommit, func(s string) error {
			var b [32]byte
			if !decodeHex(b[:20], s) && !decodeHex(b[:], s) {
				return fmt.Errorf("git commit %.80q is not 40 or 64 lowercase hexadecimal digits", s)
			}
			return nil
		})
	}),
	opt("sha256", func(s *Source) bool { return s.SHA256 != nil }, func(c *codec, s *Source) {
		if !c.writing {
			s.SHA256 = new(Digest)
		}
		c.digest(s.SHA256)
	}),
}

var withdrawnFields = []field[Statement]{
	vendorField,
	req("release", func(c *codec, s *Statement) { object(c, statementRefFields, &s.Withdrawn.Statement) }),
	req("reason", func(c *codec, s *Statement) { c.checked(&s.Withdrawn.Reason, checkText) }),
	req("withdrawnOn", func(c *codec, s *Statement) { c.time(&s.Withdrawn.WithdrawnOn) }),
}

var vendorKeyFields = []field[Statement]{
	vendorField,
	req("key", func(c *codec, s *Statement) { key(c, &s.VendorKey.Key) }),
}

var evidenceFields = []field[Statement]{
	vendorField,
	req("evidence", func(c *codec, s *Statement) { object(c, importedFields, s.Evidence) }),
	req("collectedOn", func(c *codec, s *Statement) { c.time(&s.Evidence.CollectedOn) }),
	opt("source", func(s *Statement) bool { return s.Evidence.Source != "" }, func(c *codec, s *Statement) {
		c.checked(&s.Evidence.Source, checkURI)
	}),
}

var importedFields = []field[ImportedEvidence]{
	req("mediaType", func(c *codec, e *ImportedEvidence) { c.enum(&e.MediaType, MediaTypeTDXQuote) }),
	req("sha256", func(c *codec, e *ImportedEvidence) { c.digest(&e.SHA256) }),
	req("size", func(c *codec, e *ImportedEvidence) { c.integer(&e.Size, 1, uint64(MaxEntry)) }),
}

// check checks what holds between the members of one statement.
func (s *Statement) check() error {
	// A release has its image in the subject only: there is no second place to disagree with.
	switch {
	case s.Release != nil:
		s.Release.Image = Image(s.Subjects[0])
	case s.Withdrawn != nil:
		s.Withdrawn.Image = Image(s.Subjects[0])
	case s.Session != nil && len(s.Subjects) == 2:
		if s.Subjects[1].Name != SubjectOutputCommit {
			return fmt.Errorf("second subject %q, want %q", s.Subjects[1].Name, SubjectOutputCommit)
		}
		s.Session.OutputCommit = &s.Subjects[1].SHA256
	}
	if s.ModelRun != nil && s.ModelRun.Session == nil && s.ModelRun.SessionsServed == nil {
		return errors.New("model run that names neither a session nor sessionsServed")
	}
	want := s.impliedSubjects()
	if len(s.Subjects) != len(want) {
		return fmt.Errorf("%d subjects, want %d", len(s.Subjects), len(want))
	}
	for i, w := range want {
		if got := s.Subjects[i]; got.Name != w.Name {
			return fmt.Errorf("subject %q, want %q", got.Name, w.Name)
		} else if got.SHA256 != w.SHA256 {
			return fmt.Errorf("subject %q has the digest %x, want %x", w.Name, got.SHA256, w.SHA256)
		}
	}
	switch {
	case s.Start != nil:
		return s.Start.check()
	case s.Session != nil:
		return s.Session.check()
	case s.Abandoned != nil:
		return s.Abandoned.check()
	case s.ModelRun != nil:
		return s.ModelRun.check()
	case s.Release != nil:
		return s.Release.check()
	}
	return nil
}

func (s *SessionStart) check() error {
	for i, ch := range s.Channels {
		if slices.Contains(s.Channels[:i], ch) {
			return fmt.Errorf("channels: %s %x twice", ch.Type, ch.SHA256)
		}
	}
	return s.Environment.checkSession()
}

// checkSession checks what the environment of a session needs beyond that of a model run.
func (e *Environment) checkSession() error {
	if e.PersistentStorage == "" {
		return errors.New(`environment: missing member "persistentStorage"`)
	}
	return nil
}

func (s *Session) check() error {
	if s.FinishedOn.Before(s.StartedOn) {
		return fmt.Errorf("finishedOn %s is before startedOn %s", s.FinishedOn.Format(timestampLayout), s.StartedOn.Format(timestampLayout))
	}
	if err := s.Start.checkBefore(&s.Freshness); err != nil {
		return err
	}
	for i, m := range s.Models {
		if m.ModelRun != nil && m.Execution != ExecutionTEE {
			return fmt.Errorf("models.%d: a model run, though its execution is %q", i, m.Execution)
		}
	}
	if err := s.Actions.check(); err != nil {
		return fmt.Errorf("actions: %w", err)
	}
	if err := checkSum("counts", s.Actions.Counts, s.Actions.Size); err != nil {
		return err
	}
	if err := checkSum("outcomes", s.Actions.Outcomes, s.Actions.Size); err != nil {
		return err
	}
	for i, b := range s.Retention.Basis {
		if slices.Contains(s.Retention.Basis[:i], b) {
			return fmt.Errorf("retention.basis: %q twice", b)
		}
	}
	return s.Environment.checkSession()
}

// checkBefore is the ordering rule that one statement shows by itself: its freshness
// checkpoint includes the start. Across two logs, indexes can't be compared.
func (r *StatementRef) checkBefore(f *Freshness) error {
	if r.Origin == f.Origin && r.Index >= f.Size {
		return fmt.Errorf("session.start.index %d is not below the size %d of the freshness checkpoint", r.Index, f.Size)
	}
	return nil
}

func (t *Tree) check() error {
	if t.Size == 0 && t.Root != emptyRoot {
		return errors.New("tree of size 0 with a root that is not SHA-256 of nothing")
	}
	return nil
}

func checkSum(what string, m map[string]uint64, size uint64) error {
	var sum uint64
	for _, n := range m { // up to 64 values of up to 2^53: no overflow
		sum += n
	}
	if sum > size {
		return fmt.Errorf("actions.%s: sum %d is more than treeSize %d", what, sum, size)
	}
	return nil
}

func (a *SessionAbandoned) check() error {
	if (a.SessionKey == nil) != (a.Freshness == nil) || (a.SessionKey == nil) != (a.Environment == nil) {
		return errors.New("of sessionKey, freshness and environment, either all or none: all if the TD says it, none if the vendor does")
	}
	if a.SessionKey == nil {
		return nil
	}
	if err := a.Start.checkBefore(a.Freshness); err != nil {
		return err
	}
	return a.Environment.checkSession()
}

func (m *ModelRun) check() error {
	if err := m.Calls.check(); err != nil {
		return fmt.Errorf("calls: %w", err)
	}
	if m.SessionsServed != nil && m.SessionsServed.Size == 0 {
		return errors.New("sessionsServed is empty")
	}
	if (m.Session != nil) != (m.PeerKeyID != "") {
		return errors.New("peer.sessionKeyid and session: either both or none")
	}
	for i, u := range m.Upstream {
		if u.ModelRun != nil && u.Execution != ExecutionTEE {
			return fmt.Errorf("upstream.%d: a model run, though its execution is %q", i, u.Execution)
		}
	}
	return nil
}

func (r *Release) check() error {
	if r.NotAfter != nil && !r.NotAfter.After(r.NotBefore) {
		return fmt.Errorf("notAfter %s is not after notBefore %s", r.NotAfter.Format(timestampLayout), r.NotBefore.Format(timestampLayout))
	}
	if r.Source != nil && (r.Source.GitCommit != "") == (r.Source.SHA256 != nil) {
		return errors.New("source.digest: want one of gitCommit and sha256")
	}
	return nil
}

// CheckPair reports what makes final something else than the end of start: a
// session/v1 or a session-abandoned/v1 must repeat what its session-start/v1
// said. It doesn't check that final names start's digest and index, which the caller
// knows, nor the order in the log (FORMAT.md, "Ordering").
func CheckPair(start, final *Statement) error {
	mismatch := func(what string, a, b any) error {
		return fmt.Errorf("%s differs between start (%v) and final (%v)", what, a, b)
	}
	if start == nil || start.Start == nil {
		return errors.New("start is not a session-start statement")
	}
	a := start.Start
	if start.Vendor != final.Vendor {
		return mismatch("vendor.id", start.Vendor, final.Vendor)
	}
	var sequence uint64
	var env *Environment
	var key *SessionKey
	switch {
	case final.Session != nil:
		b := final.Session
		switch {
		case a.ID != b.ID:
			return mismatch("session.id", a.ID, b.ID)
		case a.Kind != b.Kind:
			return mismatch("session.kind", a.Kind, b.Kind)
		case a.Tenant != b.Tenant:
			return mismatch("session.tenant", hex.EncodeToString(a.Tenant[:]), hex.EncodeToString(b.Tenant[:]))
		case a.TenantEpoch != b.TenantEpoch:
			return mismatch("session.tenantEpoch", a.TenantEpoch, b.TenantEpoch)
		case !a.StartedOn.Equal(b.StartedOn):
			return mismatch("session.startedOn", a.StartedOn, b.StartedOn)
		case a.IsolationScope != b.IsolationScope:
			return mismatch("session.isolationScope", a.IsolationScope, b.IsolationScope)
		case b.Start.Origin == a.Freshness.Origin && b.Freshness.Size < a.Freshness.Size && b.Freshness.Origin == a.Freshness.Origin:
			return mismatch("freshness went backwards: size", a.Freshness.Size, b.Freshness.Size)
		}
		sequence, env, key = b.Sequence, &b.Environment, &b.SessionKey
	case final.Abandoned != nil:
		b := final.Abandoned
		if a.ID != b.ID {
			return mismatch("session.id", a.ID, b.ID)
		}
		sequence, env, key = b.Sequence, b.Environment, b.SessionKey
	default:
		return errors.New("final is neither a session nor a session-abandoned statement")
	}
	if a.Sequence != 0 && sequence != 0 && a.Sequence != sequence {
		return mismatch("session.sequence", a.Sequence, sequence)
	}
	if key != nil && a.SessionKey.KeyID != key.KeyID {
		return mismatch("sessionKey.keyid", a.SessionKey.KeyID, key.KeyID)
	}
	if env != nil {
		switch b := *env; {
		case a.Environment.Release != b.Release:
			return mismatch("environment.release", a.Environment.Release.Name, b.Release.Name)
		case a.Environment.PersistentStorage != b.PersistentStorage:
			return mismatch("environment.persistentStorage", a.Environment.PersistentStorage, b.PersistentStorage)
		case !equalDigest(a.Environment.EgressPolicy, b.EgressPolicy):
			return errors.New("environment.egressPolicy differs between start and final")
		}
	}
	return nil
}

func equalDigest(a, b *Digest) bool {
	return a == b || a != nil && b != nil && *a == *b
}
