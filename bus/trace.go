package bus

import (
	"context"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// startSpan begins the span of a request, on either side of the bus, unless nobody traces.
func startSpan(ctx context.Context, kind trace.Kind, subject string) (context.Context, trace.Span) {
	if !trace.On() || isUpkeep(subject) && trace.ID(ctx) == "" {
		return ctx, trace.Span{}
	}
	ctx, span := trace.Start(ctx, kind, subject)
	span.Text("rpc.system.name", "nats")
	span.Text("rpc.method", subject)
	return ctx, span
}

// isUpkeep tells whether a subject is asked for every few seconds by each verifier and each probe.
// That is no trace of its own: there would be little else.
func isUpkeep(subject string) bool {
	switch subject {
	case string(auth.Keys), string(auth.Revocations), string(auth.Health):
		return true
	}
	return false
}
