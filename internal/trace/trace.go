// Package trace carries the trace of a request (W3C Trace Context) to where a header is all
// there is: over the bus, and into the event that the request led to.
package trace

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

// Header is where it travels. Names of NATS headers are case-sensitive, and this one is
// written in lower case everywhere.
const Header = "traceparent"

// Parent returns the value of Header for what is done within ctx, "" if nobody traces it.
func Parent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[Header]
}

// Within returns ctx as part of the trace of that parent. A value that is malformed leaves it
// as it is.
func Within(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{Header: parent})
}
