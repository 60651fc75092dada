package sessionlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// A previous is the shard before this log, which is served somewhere, frozen or soon to be. Ends of its sessions are
// admitted to this log for as long as record.ShardOverlap. It is trusted with nothing: what it answers is a proof under
// the log policy, by which both logs go.
type previous struct {
	url    *urlRepository
	policy *checkpoint.Policy
	starts *lru.Cache[record.StatementRef, time.Time] // that it has: these don't change
}

// previousTimeout bounds how long a submission waits for the shard before.
const previousTimeout = 10 * time.Second

func newPrevious(c *Config) (*previous, error) {
	if c.PreviousShard == "" {
		return nil, nil
	}
	known := false
	for _, l := range c.LogPolicy.Logs() {
		known = known || record.NextShard(l.Key.Name(), c.Origin)
	}
	if !known {
		return nil, fmt.Errorf("the log policy has no line for the shard before %s, whose proofs couldn't be checked", c.Origin)
	}
	starts, err := lru.New[record.StatementRef, time.Time](4096)
	if err != nil {
		return nil, err
	}
	return &previous{newURLRepository(strings.TrimRight(c.PreviousShard, "/")), c.LogPolicy, starts}, nil
}

// start returns when the shard before has admitted the start of a session, if it has it.
func (p *previous) start(ctx context.Context, ref record.StatementRef) (at time.Time, ok bool, err error) {
	if at, ok := p.starts.Get(ref); ok {
		return at, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, previousTimeout)
	defer cancel()
	fail := func(err error) (time.Time, bool, error) {
		return time.Time{}, false, fmt.Errorf("%w: the shard before: %w", ErrOverloaded, err)
	}
	b, err := p.url.get(ctx, "proof/by-statement/"+hex.EncodeToString(ref.Statement[:]), checkpoint.MaxProof)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return fail(err)
	}
	proof, err := checkpoint.ParseProof(b)
	if err != nil {
		return fail(err)
	}
	c, err := proof.Verify(record.LeafHash(proof.Extra), p.policy)
	if err != nil {
		return fail(err)
	}
	leaf, err := record.ParseLeaf(proof.Extra)
	if err != nil {
		return fail(err)
	}
	r, ok := leaf.(*record.RecordLeaf)
	if !ok || c.Origin != ref.Origin || proof.Index != ref.Index || r.Entry.Statement().Start == nil || r.Entry.StatementDigest() != ref.Statement {
		return time.Time{}, false, nil
	}
	at = time.UnixMilli(r.AdmittedAt)
	p.starts.Add(ref, at)
	return at, true, nil
}

// startElsewhere returns where the start is of a session that an entry ends, if that is the shard before this log.
func (l *Log) startElsewhere(st *record.Statement) (ref record.StatementRef, ok bool) {
	switch {
	case st.Session != nil:
		ref = st.Session.Start
	case st.Abandoned != nil:
		ref = st.Abandoned.Start
	}
	return ref, l.previous != nil && record.NextShard(ref.Origin, l.cfg.Origin)
}
