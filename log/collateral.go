package sessionlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A collateral keeps the collateral by which quotes are judged: it gets sets from the source, logs each before it is
// used, with its components as blobs that are durable before that, and never goes back to an earlier one.
type collateral struct {
	l     *Log
	ready atomic.Bool // load was called

	mu      sync.Mutex // guards what follows, never held while something is fetched, compiled or appended
	current map[platformKind]*loggedSet
	maxTCB  map[string]uint32          // by FMSPC: the largest TCB evaluation data number of a current set
	maxQE   uint32                     // the largest number of a QE identity of a current set
	retry   map[platformKind]time.Time // when to try again to log what the source has, after a failure

	group     singleflight.Group // by kind of platform, and by collateral id for imports
	archived  *lru.Cache[record.Digest, *loggedSet]
	platforms *lru.Cache[record.Digest, platformKind] // by SHA-256 of the PCK chain
}

// A platformKind says which collateral a quote needs.
type platformKind struct{ fmspc, ca string }

func (k platformKind) String() string { return k.fmspc + "-" + k.ca }

// A loggedSet is a set that is in a collateral leaf. It is never modified.
type loggedSet struct {
	set   *tdx.Set
	id    record.Digest
	index uint64
	from  *tdx.Collateral // what the source gave; equal pointers are equal sets
}

func newCollateral(l *Log) (*collateral, error) {
	archived, err := lru.New[record.Digest, *loggedSet](64)
	if err != nil {
		return nil, err
	}
	platforms, err := lru.New[record.Digest, platformKind](8192)
	if err != nil {
		return nil, err
	}
	return &collateral{l: l, current: map[platformKind]*loggedSet{}, maxTCB: map[string]uint32{}, retry: map[platformKind]time.Time{}, archived: archived, platforms: platforms}, nil
}

// blobObject is the object of a blob.
func blobObject(d record.Digest) string { return storage.BlobPrefix + hex.EncodeToString(d[:]) }

// blobName is the file of a blob below a log's directory.
func blobName(d record.Digest) string {
	h := hex.EncodeToString(d[:])
	return "blobs/" + h[:2] + "/" + h
}

// putBlobs makes the components of a set durable, and returns their leaf.
func (c *collateral) putBlobs(ctx context.Context, set *tdx.Collateral) (*record.CollateralLeaf, error) {
	leaf := &record.CollateralLeaf{TEE: record.TEETDX}
	for i, b := range set.Components() {
		leaf.Components[i] = sha256.Sum256(b)
		name := blobObject(leaf.Components[i])
		// A blob that is there is whole, since put is atomic, but it may have been put by a process that ended before
		// its name was durable.
		if old, err := c.l.objects.Get(ctx, name); err == nil && bytes.Equal(old, b) {
			if c.l.posix != nil {
				if err := storage.SyncDir(filepath.Dir(c.l.posix.Path(name))); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err := c.l.objects.Put(ctx, name, b); err != nil {
			c.l.metrics.storageErrors.WithLabelValues("blob").Inc()
			return nil, err
		}
	}
	return leaf, nil
}

// readSet compiles the set that a leaf names, from blobs.
func (c *collateral) readSet(ctx context.Context, leaf *record.CollateralLeaf) (*tdx.Set, error) {
	var p [7][]byte
	for i, d := range leaf.Components {
		b, err := c.l.objects.Get(ctx, blobObject(d))
		if err != nil {
			return nil, err
		}
		if got := sha256.Sum256(b); got != d {
			return nil, fmt.Errorf("blob %x has digest %x", d, got)
		}
		p[i] = b
	}
	return c.l.verifier.Compile(&tdx.Collateral{
		TCBInfo: p[0], TCBInfoChain: p[1], QEIdentity: p[2], QEIdentityChain: p[3], RootCRL: p[4], PCKCRL: p[5], PCKCRLChain: p[6],
	})
}

// A platformValue is what the index keeps for a kind of platform: which logged set is the newest, by the numbers of its
// TCB info and QE identity, then by when it came into force. Sets of the past, logged later for imports, aren't.
type platformValue struct {
	index   uint64
	tcb, qe uint32
	from    int64
}

func (v platformValue) bytes() []byte {
	b := u64(v.index)
	b = binary.BigEndian.AppendUint32(b, v.tcb)
	b = binary.BigEndian.AppendUint32(b, v.qe)
	return binary.BigEndian.AppendUint64(b, uint64(v.from))
}

func parsePlatformValue(b []byte) platformValue {
	return platformValue{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]), int64(binary.BigEndian.Uint64(b[16:]))}
}

func valueOf(s *tdx.Set, index uint64) platformValue {
	from, _ := s.Window()
	return platformValue{index, s.TCBEvaluationDataNumber(), s.QEEvaluationDataNumber(), from.Unix()}
}

// newer reports whether v should replace old.
func (v platformValue) newer(old platformValue) bool {
	switch {
	case v.tcb < old.tcb || v.qe < old.qe:
		return false
	case v.tcb > old.tcb || v.qe > old.qe:
		return true
	}
	return v.from > old.from
}

// applyCollateral writes what a collateral leaf adds to the index.
func (x *index) applyCollateral(ctx context.Context, b *batch, i uint64, leaf *record.CollateralLeaf) error {
	if err := b.setFirst(digestKey(keyCollateral, leaf.ID()), u64(i)); err != nil {
		return err
	}
	set, err := x.l.coll.readSet(ctx, leaf)
	if err != nil {
		if pe := (*fs.PathError)(nil); transient(err) || errors.As(err, &pe) && !errors.Is(err, fs.ErrNotExist) {
			return err // the storage may yet give it
		}
		// The blobs were durable before the leaf.
		return fmt.Errorf("%w: collateral leaf %d: %w", errHalt, i, err)
	}
	key := append([]byte{keyPlatform}, platformKind{set.FMSPC(), set.PCKCA()}.String()...)
	v := valueOf(set, i)
	old, ok := b.platforms[string(key)]
	if !ok {
		raw, err := x.get(key)
		if err != nil {
			return err
		}
		if raw != nil {
			old, ok = parsePlatformValue(raw), true
		}
	}
	if ok && !v.newer(old) {
		return nil
	}
	b.platforms[string(key)] = v
	return b.Set(key, v.bytes(), nil)
}

// load reads which sets are current. The index must have caught up.
func (c *collateral) load(ctx context.Context) error {
	c.ready.Store(true)
	values, err := c.l.index.platforms()
	if err != nil {
		return err
	}
	for _, v := range values {
		raw, err := c.l.tree.leaf(ctx, v.index)
		if err != nil {
			return err
		}
		leaf, err := record.ParseLeaf(raw)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", v.index, err)
		}
		cl, ok := leaf.(*record.CollateralLeaf)
		if !ok {
			return fmt.Errorf("leaf %d is not a collateral leaf", v.index)
		}
		set, err := c.readSet(ctx, cl)
		if err != nil {
			return fmt.Errorf("collateral leaf %d: %w", v.index, err)
		}
		c.use(&loggedSet{set: set, id: cl.ID(), index: v.index})
	}
	return nil
}

// use makes a logged set current.
func (c *collateral) use(s *loggedSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current[platformKind{s.set.FMSPC(), s.set.PCKCA()}] = s
	c.maxTCB[s.set.FMSPC()] = max(c.maxTCB[s.set.FMSPC()], s.set.TCBEvaluationDataNumber())
	c.maxQE = max(c.maxQE, s.set.QEEvaluationDataNumber())
}

// get returns the set by which a quote of a kind of platform is judged at the time at, which is now: the newest in the
// log, after what the source has was logged. While a newer one is being logged, everybody gets the old one, as long as
// it is in force.
//
// The error is a *verifier.AdmissionError, or wraps pcs.ErrUnreachable, or is one of append.
func (c *collateral) get(ctx context.Context, k platformKind, at time.Time) (*loggedSet, error) {
	c.mu.Lock()
	cur, retry := c.current[k], c.retry[k]
	c.mu.Unlock()
	src, err := c.l.cfg.Collateral.Collateral(ctx, k.fmspc, k.ca, at)
	if err == nil && cur != nil && src == cur.from {
		return cur, nil
	}
	inForce := cur != nil && cur.set.ValidAt(at) == nil
	if err != nil {
		if inForce {
			return cur, nil // what is logged is still good; the source logs its own troubles
		}
		return nil, collateralError(err)
	}
	if inForce && time.Now().Before(retry) {
		return cur, nil
	}
	ch := c.group.DoChan(k.String(), func() (any, error) {
		if err := c.l.begin(); err != nil {
			return nil, err
		}
		defer c.l.adding.Done()
		// Not ctx: others may wait for this, and what was begun should be finished.
		s, err := c.update(context.Background(), k, src, at)
		if err != nil {
			c.l.logger.Warn("collateral can't be logged", "platform", k.String(), "err", err)
			c.mu.Lock()
			c.retry[k] = time.Now().Add(collateralRetry)
			c.mu.Unlock()
		}
		return s, err
	})
	if inForce {
		select {
		case r := <-ch:
			if r.Err == nil {
				return r.Val.(*loggedSet), nil
			}
		default:
		}
		return cur, nil
	}
	select {
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*loggedSet), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// collateralRetry is how long a set in force is used before another attempt to log its successor.
const collateralRetry = 5 * time.Second

func collateralError(err error) error {
	if errors.Is(err, pcs.ErrNoCollateral) {
		return &verifier.AdmissionError{Problem: verifier.ProblemNoCollateral, Err: err}
	}
	return err
}

// update logs what the source gave, if it is news, and makes it current.
func (c *collateral) update(ctx context.Context, k platformKind, src *tdx.Collateral, at time.Time) (*loggedSet, error) {
	set, err := c.l.verifier.Compile(src)
	if err != nil {
		return nil, fmt.Errorf("collateral for %v: %w: %w", k, pcs.ErrUnreachable, err)
	}
	if got := (platformKind{set.FMSPC(), set.PCKCA()}); got != k {
		return nil, fmt.Errorf("collateral for %v: %w: the source gave a set for %v", k, pcs.ErrUnreachable, got)
	}
	if err := set.ValidAt(at); err != nil {
		return nil, &verifier.AdmissionError{Problem: verifier.ProblemNoCollateral, Err: err}
	}
	c.mu.Lock()
	cur, maxTCB, maxQE := c.current[k], c.maxTCB[k.fmspc], c.maxQE
	c.mu.Unlock()
	leaf := leafOf(src)
	if cur != nil && cur.id == leaf.ID() {
		cur = &loggedSet{cur.set, cur.id, cur.index, src}
		c.use(cur)
		return cur, nil
	}
	// FORMAT.md, 7: it "never decreases within a root and FMSPC (TCB info), or a root (QE identity)".
	if n := set.TCBEvaluationDataNumber(); n < maxTCB {
		return c.old(cur, src, fmt.Errorf("TCB info for %v has evaluation data number %d, after one with %d", k, n, maxTCB))
	}
	if n := set.QEEvaluationDataNumber(); n < maxQE {
		return c.old(cur, src, fmt.Errorf("QE identity for %v has evaluation data number %d, after one with %d", k, n, maxQE))
	}
	if cur != nil && !valueOf(set, 0).newer(valueOf(cur.set, 0)) {
		return c.old(cur, src, fmt.Errorf("the source's set for %v is no newer than the one in use", k))
	}
	s, err := c.logSet(ctx, src, set, storage.Number{Name: "tcb " + k.fmspc, N: set.TCBEvaluationDataNumber()}, storage.Number{Name: "qe", N: set.QEEvaluationDataNumber()})
	if older := (*olderError)(nil); errors.As(err, &older) {
		return c.old(cur, src, fmt.Errorf("collateral for %v: %w", k, err)) // another process has logged newer collateral
	}
	if err != nil {
		return nil, err
	}
	c.use(s)
	from, to := set.Window()
	c.l.logger.Info("collateral logged", "platform", k.String(), "index", s.index, "id", hex.EncodeToString(s.id[:]),
		"tcbEvaluationDataNumber", set.TCBEvaluationDataNumber(), "from", from, "to", to)
	return s, nil
}

// old goes on with the set in use after the source has given an older one.
func (c *collateral) old(cur *loggedSet, src *tdx.Collateral, why error) (*loggedSet, error) {
	c.l.logger.Warn("collateral is older than what was used before", "err", why)
	if cur != nil {
		cur = &loggedSet{cur.set, cur.id, cur.index, src} // so that src isn't looked at again
		c.use(cur)
		return cur, nil
	}
	return nil, fmt.Errorf("%w: %w", pcs.ErrUnreachable, why)
}

func leafOf(c *tdx.Collateral) *record.CollateralLeaf {
	leaf := &record.CollateralLeaf{TEE: record.TEETDX}
	for i, b := range c.Components() {
		leaf.Components[i] = sha256.Sum256(b)
	}
	return leaf
}

// logSet makes a set durable and appends its leaf, unless it is in the log. If another process has appended a set with a
// larger one of the numbers, the error is an *olderError.
func (c *collateral) logSet(ctx context.Context, src *tdx.Collateral, set *tdx.Set, numbers ...storage.Number) (*loggedSet, error) {
	leaf, err := c.putBlobs(ctx, src)
	if err != nil {
		return nil, err
	}
	id := leaf.ID()
	index, err := c.l.appendOnce(ctx, leaf, appending{urgent: true, key: sharedKey(keyCollateral, id), value: id, atLeast: numbers}, func() (uint64, bool, error) { return c.l.index.indexAt(digestKey(keyCollateral, id)) })
	if err != nil {
		return nil, err
	}
	return &loggedSet{set, id, index, src}, nil
}

// archive returns the set by which imported evidence is judged.
func (c *collateral) archive(ctx context.Context, k platformKind, at time.Time) (*loggedSet, error) {
	src, err := c.l.cfg.Archive.Collateral(ctx, k.fmspc, k.ca, at)
	if err != nil {
		return nil, collateralError(err)
	}
	id := leafOf(src).ID()
	if s, ok := c.archived.Get(id); ok {
		return s, nil
	}
	v, err, _ := c.group.Do("archive "+hex.EncodeToString(id[:]), func() (any, error) {
		set, err := c.l.verifier.Compile(src)
		if err != nil {
			return nil, fmt.Errorf("archived collateral for %v: %w", k, err)
		}
		s, err := c.logSet(context.Background(), src, set)
		if err == nil {
			c.archived.Add(id, s)
		}
		return s, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*loggedSet), nil
}

// refreshInterval is how often the source is asked whether there is news for the platforms that were seen. The source
// has its own idea of when to ask its service; this is so that news is logged before a submission needs it.
const refreshInterval = time.Minute

// run refreshes what is in use until ctx is done.
func (c *collateral) run(ctx context.Context) {
	t := time.NewTicker(refreshInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		c.refresh(ctx)
	}
}

func (c *collateral) refresh(ctx context.Context) {
	c.mu.Lock()
	kinds := make([]platformKind, 0, len(c.current))
	for k := range c.current {
		kinds = append(kinds, k)
	}
	c.mu.Unlock()
	for _, k := range kinds {
		if _, err := c.get(ctx, k, c.l.cfg.now()); err != nil && ctx.Err() == nil {
			c.l.logger.Warn("collateral can't be refreshed", "platform", k.String(), "err", err)
		}
	}
}

// oidFMSPC is the FMSPC in a PCK certificate's SGX extension (Intel SGX PCK Certificate and CRL Profile Specification,
// section 1.3.5).
var (
	oidSGX   = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidFMSPC = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 4}
)

// platform returns which collateral a quote needs. It only looks the quote up in Intel's catalogue, so to speak: the
// verifier judges it. But the certificates must be chained to the root by their signatures, or anybody who may submit
// could have the source ask for platforms that don't exist.
func (c *collateral) platform(q *tdx.Quote) (platformKind, error) {
	sum := sha256.Sum256(q.PCKChain)
	if k, ok := c.platforms.Get(sum); ok {
		return k, nil
	}
	k, reason, err := readPlatform(q.PCKChain, c.l.cfg.Root)
	if err != nil {
		return k, &verifier.AdmissionError{Problem: verifier.ProblemNotGenuine, Reason: string(reason), Err: fmt.Errorf("PCK chain: %w", err)}
	}
	c.platforms.Add(sum, k)
	return k, nil
}

func readPlatform(chain []byte, root *tdx.Root) (platformKind, tdx.Reason, error) {
	var certs []*x509.Certificate
	for rest := chain; len(certs) < 3; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return platformKind{}, tdx.ReasonChain, fmt.Errorf("%d certificates, want 3", len(certs))
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return platformKind{}, tdx.ReasonChain, err
		}
		certs = append(certs, cert)
	}
	if sha256.Sum256(certs[2].Raw) != root.Fingerprint() {
		return platformKind{}, tdx.ReasonRoot, fmt.Errorf("it doesn't end in %v", root)
	}
	for i, cert := range certs[:2] {
		up := certs[i+1]
		if err := up.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			return platformKind{}, tdx.ReasonSignature, fmt.Errorf("certificate %d: %w", i, err)
		}
	}
	var k platformKind
	switch cn := certs[1].Subject.CommonName; {
	case strings.Contains(cn, "Platform CA"):
		k.ca = pcs.PlatformCA
	case strings.Contains(cn, "Processor CA"):
		k.ca = pcs.ProcessorCA
	default:
		return k, tdx.ReasonChain, fmt.Errorf("issued by %q", cn)
	}
	i := slices.IndexFunc(certs[0].Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSGX) })
	if i < 0 {
		return k, tdx.ReasonChain, errors.New("the certificate has no SGX extension")
	}
	var elements []struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	if rest, err := asn1.Unmarshal(certs[0].Extensions[i].Value, &elements); err != nil || len(rest) > 0 {
		return k, tdx.ReasonChain, errors.New("the certificate's SGX extension is malformed")
	}
	for _, e := range elements {
		if e.ID.Equal(oidFMSPC) && e.Value.Tag == asn1.TagOctetString && len(e.Value.Bytes) == 6 {
			k.fmspc = hex.EncodeToString(e.Value.Bytes)
			return k, "", nil
		}
	}
	return k, tdx.ReasonChain, errors.New("the certificate has no FMSPC")
}
