package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// maxLogList is the size in bytes of the largest list: 100,000 logs or so.
const maxLogList = 16 << 20

// ParseLogList parses a list of logs in the form of the witness network,
// version logs/v0:
//
//	logs/v0
//
//	vkey example.com/log+8f7aee5a+AW…
//	origin example.com/log        (only if it isn't the vkey's name)
//	qpd 86400
//	contact sysadmin (at) example.com
//
// Each log begins with its vkey, which must be of type 01 (Ed25519), and has
// the other lines in this order. Empty lines and lines that begin with # are
// ignored. An origin can be there once.
func ParseLogList(b []byte) ([]Log, error) {
	if len(b) > maxLogList {
		return nil, fmt.Errorf("log list of %d bytes, more than %d", len(b), maxLogList)
	}
	var logs []Log
	seen := make(map[string]bool)
	const (
		header = iota
		vkey
		origin // or qpd
		qpd
		contact
	)
	want := header
	var l Log
	for n := 1; len(b) > 0; n++ {
		raw, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("log list: line %d has no newline at its end", n)
		}
		b = rest
		line := string(raw)
		if line == "" || line[0] == '#' {
			continue
		}
		bad := func(format string, a ...any) error {
			return fmt.Errorf("log list: line %d: %s", n, fmt.Sprintf(format, a...))
		}
		if strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\ufffd' }) {
			return nil, bad("control character, or not UTF-8")
		}
		if strings.Contains(line, "PRIVATE+KEY+") {
			return nil, bad("a private key") // which must not be quoted in a log
		}
		if want == header {
			if line != "logs/v0" {
				return nil, bad("%.60q, want logs/v0", line)
			}
			want = vkey
			continue
		}
		keyword, arg, _ := strings.Cut(line, " ")
		switch {
		case keyword == "vkey" && want == vkey:
			k, err := checkpoint.ParseVKey(arg)
			if err != nil {
				return nil, bad("%v", err)
			}
			if k.Kind() != checkpoint.Ed25519 {
				return nil, bad("vkey is of type %02x (%v), want 01", byte(k.Kind()), k.Kind())
			}
			l = Log{Origin: k.Name(), Key: k}
			want = origin
		case keyword == "origin" && want == origin:
			l.Origin = arg
			want = qpd
		case keyword == "qpd" && (want == origin || want == qpd):
			q, err := strconv.ParseUint(arg, 10, 31)
			if err != nil || q == 0 || q > math.MaxInt32 || strconv.FormatUint(q, 10) != arg {
				return nil, bad("qpd %.60q, want a number from 1 to 2^31-1", arg)
			}
			l.QPD = int(q)
			want = contact
		case keyword == "contact" && want == contact:
			if arg == "" {
				return nil, bad("empty contact")
			}
			if err := checkLog(l); err != nil {
				return nil, bad("%v", err)
			}
			if seen[l.Origin] {
				return nil, bad("origin %q is there twice", l.Origin)
			}
			seen[l.Origin] = true
			logs = append(logs, l)
			want = vkey
		default:
			return nil, bad("%.60q isn't what comes next in a log's entry: vkey, origin (if needed), qpd, contact", line)
		}
	}
	switch want {
	case header:
		return nil, errors.New("log list: empty, want logs/v0")
	case vkey:
		return logs, nil
	}
	return nil, errors.New("log list: ends within a log's entry")
}

// formatLogList returns a list of one log, as recorded in the state. Contacts
// aren't kept.
func formatLogList(l Log) []byte {
	b := fmt.Appendf(nil, "logs/v0\nvkey %s\n", l.Key)
	if l.Origin != l.Key.Name() {
		b = fmt.Appendf(b, "origin %s\n", l.Origin)
	}
	return fmt.Appendf(b, "qpd %d\ncontact -\n", l.QPD)
}

func isURL(where string) bool {
	return strings.HasPrefix(where, "https://") || strings.HasPrefix(where, "http://")
}

// fetch reads a file or URL of at most limit bytes.
func (w *Witness) fetch(ctx context.Context, where string, limit int64) ([]byte, error) {
	var r io.ReadCloser
	if isURL(where) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
		if err != nil {
			return nil, err
		}
		resp, err := w.cfg.HTTPClient.Do(req)
		if err != nil {
			return nil, err
		}
		r = resp.Body
		if resp.StatusCode != http.StatusOK {
			r.Close()
			return nil, fmt.Errorf("%s answered %s", where, resp.Status)
		}
	} else {
		f, err := os.Open(where)
		if err != nil {
			return nil, err
		}
		r = f
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", where, limit)
	}
	return b, err
}

// readList reads one list, and adds what is new in it: the list "only ADDS
// logs". A malformed list adds nothing.
func (w *Witness) readList(ctx context.Context, where string) error {
	err := w.readNewLogs(ctx, where)
	w.m.listRead(where, err)
	return err
}

func (w *Witness) readNewLogs(ctx context.Context, where string) error {
	b, err := w.fetch(ctx, where, maxLogList)
	if err != nil {
		return err
	}
	logs, err := ParseLogList(b)
	if err != nil {
		return err
	}
	var added []Log
	for _, l := range logs {
		if w.lookup(l.Origin) == nil {
			added = append(added, l)
		} else if err := w.addListed(l); err != nil { // says what it ignores
			return err
		}
	}
	if len(added) == 0 {
		return nil
	}
	// First the database: a log that we cosign for must still be known after a
	// restart without the list. Under --recover, also a log that is new to the
	// restored state may have been cosigned for since the backup.
	if err := w.store.addListed(added, w.cfg.Recover); err != nil {
		return err
	}
	for _, l := range added {
		if err := w.addListed(l); err != nil {
			return err
		}
	}
	w.cfg.Logger.Info("logs added", "list", where, "count", len(added))
	return nil
}
