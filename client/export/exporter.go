package export

import (
	"context"
	"iter"
	"runtime"
	"sync"
	"time"
)

// An Item is what a source yields: a record, or a finding of a monitor.
type Item struct {
	// Load returns the record, or nil if there is none after all. It may be called at
	// the same time as that of other items. If it is nil, Finding is the item.
	Load    func() (*Record, error)
	Finding *Finding

	// Records and Findings are what the cursor's are at least once the item is out.
	Records, Findings uint64

	// File is the SHA-256 of a bundle in hex, by which the next run knows that it is
	// done. Load may set it.
	File string
}

// An Exporter turns items into lines, and gives them to an output.
type Exporter struct {
	Format  Format // FormatOSCAL has no lines, and leaves everything to Each
	OCSF    OCSF
	Syslog  Syslog
	SVR     SVR
	Monitor string // URL of the monitor that findings are from

	// Wrap, if it is not nil, makes of an event what a receiver wants around it.
	Wrap func(b []byte, ev *Event) []byte

	// Seen, if it is not nil, keeps events from going out twice which several items
	// have.
	Seen *Seen

	// Each is called with each record or finding in order, once its lines are written,
	// if it is not nil. An error ends the export.
	Each func(*Record, *Finding) error
}

const (
	// chunkItems is how many items a worker takes at once: enough to make handing them
	// over cheap, few enough to keep memory small.
	chunkItems = 64
	// commitBytes and commitAfter say when what was written is made durable.
	commitBytes = 8 << 20
	commitAfter = time.Second
)

type lineRef struct {
	uid        string
	start, end int
}

// A chunk is a few items on their way, and what was made of them.
type chunk struct {
	items   []*Item
	records []*Record
	lines   [][]lineRef // by item
	buf     []byte
	scratch []byte
	done    chan struct{} // closed when the rest is there
	err     error         // of the first item that couldn't be loaded; those before it are there
}

// Run exports what a source yields, in its order, to an output, and commits. cur is
// the cursor, which Run moves on. Lines are encoded on all processors; memory is that
// of a few hundred items. Run stops after an error of the source, of an item or of the
// output, with everything before it committed if the output allows.
func (x *Exporter) Run(ctx context.Context, src iter.Seq2[*Item, error], out Output, cur *Cursor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	work := make(chan *chunk, workers)
	order := make(chan *chunk, 2*workers)
	free := make(chan *chunk, 4*workers) // with buffers that have grown already

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range workers {
		wg.Go(func() {
			for c := range work {
				x.encode(c)
				close(c.done)
			}
		})
	}
	wg.Go(func() {
		defer close(order)
		defer close(work)
		var c *chunk
		send := func() bool {
			if c == nil {
				return true
			}
			select {
			case order <- c:
			case <-ctx.Done():
				return false
			}
			work <- c // workers go on until the channel is closed
			c = nil
			return true
		}
		fail := func(err error) {
			if !send() {
				return
			}
			c = &chunk{err: err, done: make(chan struct{})}
			send()
		}
		for item, err := range src {
			if err != nil {
				fail(err)
				return
			}
			if ctx.Err() != nil {
				return
			}
			if c == nil {
				select {
				case c = <-free:
				default:
					c = new(chunk)
				}
				*c = chunk{items: c.items[:0], records: c.records[:0], lines: c.lines[:0], buf: c.buf[:0], scratch: c.scratch, done: make(chan struct{})}
			}
			c.items = append(c.items, item)
			if len(c.items) == chunkItems {
				if !send() {
					return
				}
			}
		}
		send()
	})

	last, size := time.Now(), 0
	commit := func() error {
		if x.Seen != nil {
			var err error
			if cur.Seen, err = x.Seen.Sync(); err != nil {
				return err
			}
		}
		last, size = time.Now(), 0
		return out.Commit(*cur)
	}
	var lines []Line
	for {
		var c *chunk
		var ok bool
		select {
		case c, ok = <-order:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !ok {
			break
		}
		<-c.done
		for i := range c.lines {
			lines = lines[:0]
			for _, l := range c.lines[i] {
				if x.Seen != nil && !x.Seen.Add("event", l.uid) {
					continue
				}
				lines = append(lines, Line{l.uid, c.buf[l.start:l.end]})
				size += l.end - l.start
			}
			if err := out.Write(lines); err != nil {
				return err
			}
			item := c.items[i]
			if x.Seen != nil && item.File != "" {
				x.Seen.Add("file", item.File)
			}
			cur.Records, cur.Findings = max(cur.Records, item.Records), max(cur.Findings, item.Findings)
			if r := c.records[i]; x.Each != nil && (r != nil || item.Finding != nil) {
				if err := x.Each(r, item.Finding); err != nil {
					return err
				}
			}
		}
		if c.err != nil {
			if err := commit(); err != nil {
				return err
			}
			return c.err
		}
		clear(c.items)
		clear(c.records)
		select {
		case free <- c:
		default:
		}
		if size >= commitBytes || time.Since(last) >= commitAfter {
			if err := commit(); err != nil {
				return err
			}
			if w, ok := out.(interface{ WaitRoom(context.Context) error }); ok {
				if err := w.WaitRoom(ctx); err != nil {
					return err
				}
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return commit()
}

// encode makes lines of a chunk's items.
func (x *Exporter) encode(c *chunk) {
	for _, item := range c.items {
		var r *Record
		if item.Load != nil {
			var err error
			if r, err = item.Load(); err != nil {
				c.err = err
				return
			}
		}
		var refs []lineRef
		if n := len(c.lines); n < cap(c.lines) {
			refs = c.lines[:n+1][n][:0] // of the item that was here before
		}
		if r != nil || item.Finding != nil {
			var err error
			if refs, err = x.lines(c, refs, r, item.Finding); err != nil {
				c.err = err
				return
			}
		}
		c.records = append(c.records, r)
		c.lines = append(c.lines, refs)
	}
}

// lines appends the lines of a record or a finding to the chunk.
func (x *Exporter) lines(c *chunk, refs []lineRef, r *Record, f *Finding) ([]lineRef, error) {
	add := func(uid string, encode func(b []byte) []byte) {
		start := len(c.buf)
		c.buf = encode(c.buf)
		refs = append(refs, lineRef{uid, start, len(c.buf)})
	}
	switch x.Format {
	case FormatOCSF, FormatSyslog:
		whole := x.Format == FormatOCSF && x.Wrap == nil
		at := len(c.buf)
		yield := func(ev *Event) {
			if whole { // where Events has put it
				refs = append(refs, lineRef{ev.UID, at, at + len(ev.JSON)})
				at += len(ev.JSON)
				return
			}
			add(ev.UID, func(b []byte) []byte {
				if x.Wrap != nil {
					return x.Wrap(b, ev)
				}
				return x.Syslog.Append(b, ev)
			})
		}
		into := &c.scratch
		if whole {
			into = &c.buf
		} else {
			c.scratch = c.scratch[:0]
		}
		if f != nil {
			*into = x.OCSF.FindingEvent(*into, f, x.Monitor, yield)
		} else {
			*into = x.OCSF.Events(*into, r, yield)
		}
	case FormatCSV:
		if r != nil {
			add(r.UID, func(b []byte) []byte { return appendRow(b, r) })
		}
	case FormatInToto:
		if r != nil && len(r.Envelope) > 0 {
			add(r.Statement, func(b []byte) []byte { return append(b, r.Envelope...) })
		}
	case FormatSVR:
		if r != nil {
			b, err := x.SVR.Append(c.buf, r)
			if err == ErrNoSubject {
				break
			}
			if err != nil {
				return refs, err
			}
			refs = append(refs, lineRef{r.Statement, len(c.buf), len(b)})
			c.buf = b
		}
	}
	return refs, nil
}
