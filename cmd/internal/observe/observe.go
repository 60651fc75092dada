// Package observe is how a daemon tells its operator what it does: structured lines, and an id for each request that is in
// all of them.
package observe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/spf13/pflag"
)

// Options are the flags that all daemons have.
type Options struct {
	format string
	access bool
	debug  bool
}

// Flags defines the flags of a daemon in f.
func Flags(f *pflag.FlagSet) *Options {
	o := new(Options)
	f.StringVar(&o.format, "log-format", "text", "`FORMAT` of what is logged to standard error: text or json, one object a line")
	f.BoolVar(&o.access, "access-log", false, "log a line for each request, with its id, status and duration")
	f.BoolVar(&o.debug, "debug", false, "log more")
	return o
}

// Check returns an error that names the flag that has a wrong value.
func (o *Options) Check() error {
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("--log-format %q is neither text nor json", o.format)
	}
	return nil
}

// Logger returns a logger that writes lines to w. A line that is logged with the context of a request has its id.
func (o *Options) Logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	if o.debug {
		opts.Level = slog.LevelDebug
	}
	if o.format == "json" {
		return slog.New(handler{slog.NewJSONHandler(w, opts)})
	}
	return slog.New(handler{slog.NewTextHandler(w, opts)})
}

type requestKey struct{}

// handler adds the id of the request whose context a line is logged with.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id, ok := ctx.Value(requestKey{}).(string); ok {
		r.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

// header names a request, so that a client's report, the proxy's lines and ours can be put together.
const header = "X-Request-Id"

// Requests gives each request to h an id: the one that a proxy in front has given, if it is 8 to 64 letters, digits or
// hyphens, else a new one. It is in the answer's header, and in what is logged with the request's context; and with
// --access-log in a line for each request once it is answered.
func (o *Options) Requests(logger *slog.Logger, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(header)
		if !goodID(id) {
			var b [8]byte
			rand.Read(b[:])
			id = hex.EncodeToString(b[:])
		}
		w.Header().Set(header, id)
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		if !o.access {
			h.ServeHTTP(w, r)
			return
		}
		began := time.Now()
		a := &answer{ResponseWriter: w}
		// Also if h panics, as a proxy does that gives up in the middle of an answer.
		defer func() {
			logger.InfoContext(r.Context(), "answered", "method", r.Method, "path", r.URL.Path, "status", a.code(), "bytes", a.bytes,
				"seconds", time.Since(began).Seconds(), "from", r.RemoteAddr)
		}()
		h.ServeHTTP(a, r)
	})
}

// goodID reports whether an id of somebody else's can be repeated in headers and lines.
func goodID(id string) bool {
	if len(id) < 8 || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-') {
			return false
		}
	}
	return true
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 { // not what is only informational
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}
