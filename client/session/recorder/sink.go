package recorder

import (
	"context"
	"net/http"

	"google.golang.org/grpc/peer"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// A Sink is a Recorder for package otlp.
type Sink struct{ *Recorder }

// peerKey is where WithPeer puts the user id.
type peerKey struct{}

// Take records events of the user whose request it is: over gRPC by the connection, over HTTP by WithPeer.
func (s Sink) Take(ctx context.Context, events []activity.Event, edges []activity.Edge) (int, error) {
	uid, ok := ctx.Value(peerKey{}).(int)
	if p, isRPC := peer.FromContext(ctx); !ok && isRPC {
		uid, ok = UID(p.Addr.String()), true
	}
	if !ok {
		uid = Nobody
	}
	return s.Recorder.Take(uid, events, edges)
}

// WithPeer puts the user id of each request into its context, for Sink.
func WithPeer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, UID(r.RemoteAddr))))
	})
}
