package sessionlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/storage"
)

// A log that has ended is frozen: nothing is appended any more, whoever starts it with whatever flags. The object
// frozenName says so. It is the note of checkpoint.FrozenText, which readers get, too, so that a monitor can tell a log
// that has ended from one that is dead, and from one that went on all the same.

// frozenName is the object that says that the log is frozen. Nothing removes it.
const frozenName = "frozen"

// ErrFrozen says that the log has ended, and takes nothing any more.
var ErrFrozen = errors.New("the log is frozen: it has ended, and takes nothing any more")

// Frozen reports whether the log in dir is frozen.
func Frozen(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, frozenName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// frozen is what a frozen log serves.
type frozen struct {
	note []byte
	cp   checkpoint.Checkpoint
}

// readFrozen returns nil if the log isn't frozen. A note that can't be read is an error: the log must not go on.
func (l *Log) readFrozen(ctx context.Context) (*frozen, error) {
	b, err := l.objects.Get(ctx, frozenName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cp, err := l.cfg.LogPolicy.CheckFrozen(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", frozenName, err)
	}
	if cp.Origin != l.cfg.Origin {
		return nil, fmt.Errorf("%s: it is of the log %q", frozenName, cp.Origin)
	}
	return &frozen{b, cp}, nil
}

// openFrozen makes the tree of a frozen log readable. Tessera isn't started, since it would be there to append.
func (l *Log) openFrozen(ctx context.Context) error {
	size, root, _, err := posixRepository{dirFiles{l.cfg.Dir}}.state(ctx)
	if err != nil {
		return err
	}
	if cp := l.frozen.cp; size != cp.Size || root != cp.Root {
		return fmt.Errorf("%w: the log was frozen with %d leaves and the root %x, and has %d and %x", ErrInconsistent, cp.Size, cp.Root, size, root)
	}
	l.tree = newTree(frozenReader{l.objects, size})
	return nil
}

// A frozenReader reads a tree that doesn't change.
type frozenReader struct {
	objects storage.Objects
	size    uint64
}

func (r frozenReader) IntegratedSize(context.Context) (uint64, error) { return r.size, nil }

func (r frozenReader) ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
	return r.objects.Get(ctx, layout.TilePath(level, index, p))
}

func (r frozenReader) ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error) {
	return r.objects.Get(ctx, layout.EntriesPath(index, p))
}

// appraiserPatience is how long Freeze waits for appraisers, who are late by nature.
const appraiserPatience = 2 * time.Minute

// Freeze ends the log for good: it logs a last time leaf, so that every record has a bound of its time in the log itself,
// publishes all that is in the tree, with fresh cosignatures, and waits for the appraisers if there are any. Then it makes
// the log frozen. It returns the last checkpoint.
//
// An error means that the log isn't frozen, unless it says so: it can be started again, or frozen again. Freezing a log that
// is frozen changes nothing but the cosignatures, which are renewed. The log must not be open; ErrInUse says that it is.
func Freeze(ctx context.Context, c Config) (_ checkpoint.Checkpoint, err error) {
	var none checkpoint.Checkpoint
	if c.Create {
		return none, errors.New("a log isn't made to be frozen")
	}
	if c.Shared != nil || c.Objects != nil {
		return none, errors.New("only a log in a directory can be frozen: other processes of one in shared storage would go on")
	}
	if c.Shared != nil || c.Objects != nil {
		return none, errors.New("a log of several processes can't be frozen: nothing would keep the others from appending")
	}
	c.freezing = true
	l, err := Open(ctx, c)
	if err != nil {
		return none, err
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if serr := l.Shutdown(sctx); err == nil && serr != nil {
			err = fmt.Errorf("the log is frozen, but: %w", serr)
		}
	}()
	// Witnesses that don't answer keep us waiting, but not beyond a halt.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.haltedc:
			cancel()
		case <-ctx.Done():
		}
	}()
	fail := func(what string, err error) (checkpoint.Checkpoint, error) {
		if herr := l.Err(); herr != nil {
			err = herr
		}
		return none, fmt.Errorf("%s: %w", what, err)
	}
	if l.frozen == nil {
		if l.times.uncovered() {
			if err := l.times.log(ctx); err != nil {
				return fail("last time leaf", err)
			}
		}
		if err := l.pub.flush(ctx); err != nil {
			return fail("last checkpoint", err)
		}
	}
	pub := l.pub.now.Load()
	if len(l.pub.witnesses) > 0 {
		if pub, err = l.pub.renew(ctx); err != nil {
			return fail("cosignatures of the last checkpoint", err)
		}
	}
	l.waitAppraised(ctx)
	if size, _ := l.index.position(); pub == nil || pub.cp.Size != size {
		return none, fmt.Errorf("%w: %d leaves are published, and %d are there", ErrInconsistent, l.pub.size(), size)
	}
	if l.frozen != nil {
		return pub.cp, nil
	}
	text := pub.cp.FrozenText()
	var lines [][]byte
	for _, k := range l.cfg.Keys {
		if k.Kind() != checkpoint.Ed25519 {
			continue // others sign checkpoints only
		}
		line, err := k.Sign(text, l.cfg.now())
		if err != nil {
			return none, err
		}
		lines = append(lines, line)
	}
	note, err := checkpoint.Sign(text, lines...)
	if err != nil {
		return none, err
	}
	if _, err := l.cfg.LogPolicy.CheckFrozen(note); err != nil {
		return none, fmt.Errorf("readers would refuse the log's statement: %w", err)
	}
	if err := l.objects.Put(ctx, frozenName, note); err != nil {
		return none, fmt.Errorf("it isn't known whether the log is frozen now, freeze it again: %w", err)
	}
	l.logger.Info("log is frozen", "origin", l.cfg.Origin, "size", pub.cp.Size, "root", fmt.Sprintf("%x", pub.cp.Root))
	return pub.cp, nil
}

// waitAppraised waits for the appraisers' cosignatures on what is published, for as long as that makes sense.
func (l *Log) waitAppraised(ctx context.Context) {
	if len(l.pub.appraisers) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, appraiserPatience)
	defer cancel()
	l.pub.offerPublished(true)
	_, err := l.pub.wait(ctx, func(pub *published) bool {
		for _, w := range l.pub.appraisers {
			if !slices.ContainsFunc(w.keys, func(k *checkpoint.VerifierKey) bool { return pub.sigs.cosigs[k.String()] != nil }) {
				return false
			}
		}
		return true
	})
	if err != nil {
		l.logger.Warn("not all appraisers have cosigned the last checkpoint: freeze the log again when they have caught up", "err", err)
	}
}

// uncovered reports whether there are leaves that no checkpoint in a time leaf covers.
func (t *timekeeper) uncovered() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.other > t.state.covered
}

func (l *Log) getFrozen(w http.ResponseWriter, r *http.Request) error {
	if l.frozen == nil {
		return refuse("not-found", "this log hasn't ended")
	}
	return send(w, r, textType, briefly, l.frozen.note)
}
