package bus

import (
	"context"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// startSpan begins the span of a request, in the client or the server, if tracing is on.
func startSpan(ctx context.Context, kind trace.Kind, subject string) (context.Context, trace.Span) {
	if !trace.On() || isUpkeep(subject) && trace.ID(ctx) == "" {
		return ctx, trace.Span{}
	}
	ctx, span := trace.Start(ctx, kind, subject)
	span.Text("rpc.system.name", "nats")
	span.Text("rpc.method", subject)
	return ctx, span
}

// isUpkeep reports whether each verifier or each probe requests a subject every few seconds. Such a
// request starts no trace: these traces would outnumber all others.
func isUpkeep(subject string) bool {
	switch subject {
	case string(auth.Keys), string(auth.Revocations), string(auth.Health):
		return true
	}
	return false
}
