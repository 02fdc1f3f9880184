// Package trace tells what belongs together and how long it took (OpenTelemetry), and carries
// the trace of a request (W3C Trace Context) to where a header is all there is: over the bus, and
// into the event that the request led to.
//
// It is the API of OpenTelemetry without its SDK. Unless the program installs one, as cmd/authd
// does and as services that import package bus may, spans cost a comparison and nothing more.
//
// A span never says who: no address, name, token or value of a row, and of an error its code alone.
package trace

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/zyotra/auth"
)

// Header is where it travels. Names of NATS headers are case-sensitive, and this one is
// written in lower case everywhere.
const Header = "traceparent"

// scope names who makes the spans.
const scope = "github.com/zyotra/auth"

// Kind says which side of an exchange a span is.
type Kind = trace.SpanKind

// The kinds of spans.
const (
	Internal = trace.SpanKindInternal
	Server   = trace.SpanKindServer
	Client   = trace.SpanKindClient
	Producer = trace.SpanKindProducer
	Consumer = trace.SpanKindConsumer
)

// uninstalled is what otel has in place of a tracer before a program installs one.
var uninstalled = otel.GetTracerProvider()

// On tells whether the program has installed a tracer.
func On() bool { return otel.GetTracerProvider() != uninstalled }

// Span is something that takes a while. The zero Span is not recorded.
type Span struct{ span trace.Span }

// Start begins a span, as part of the one that ctx is in, or of a new trace. Nothing is recorded
// unless a tracer is installed.
func Start(ctx context.Context, kind Kind, name string) (context.Context, Span) {
	if !On() {
		return ctx, Span{}
	}
	ctx, span := otel.Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

// Step is Start for what is worth telling as part of something else alone: without a span that is
// being recorded there is none.
func Step(ctx context.Context, kind Kind, name string) (context.Context, Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, Span{}
	}
	return Start(ctx, kind, name)
}

// Rename gives the span another name, for what is known only in the end.
func (s Span) Rename(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// Text says something of the span, by a name of the semantic conventions.
func (s Span) Text(name, value string) {
	if s.span != nil {
		s.span.SetAttributes(attribute.String(name, value))
	}
}

// Number is Text for a number.
func (s Span) Number(name string, value int) {
	if s.span != nil {
		s.span.SetAttributes(attribute.Int(name, value))
	}
}

// Moment notes that something happened now.
func (s Span) Moment(name string) {
	if s.span != nil {
		s.span.AddEvent(name)
	}
}

// Link names another trace that has to do with the span, by the value of Header.
func (s Span) Link(parent string) {
	if s.span == nil {
		return
	}
	other := trace.SpanContextFromContext(Within(context.Background(), parent))
	if other.IsValid() {
		s.span.AddLink(trace.Link{SpanContext: other})
	}
}

// End ends the span. An error is told by its code; what is not ours to answer for is no failure of
// the span.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		code := auth.Public(err).Code
		s.Text("error.type", string(code))
		if code.Status() >= 500 {
			s.span.SetStatus(codes.Error, "")
		}
	}
	s.span.End()
}

// Parent returns the value of Header for what is done within ctx, "" if nobody traces it.
func Parent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[Header]
}

// ID returns the id of the trace that ctx is part of, "" if nobody traces it.
func ID(ctx context.Context) string {
	if in := trace.SpanContextFromContext(ctx); in.IsValid() {
		return in.TraceID().String()
	}
	return ""
}

// Within returns ctx as part of the trace of that parent. A value that is malformed leaves it
// as it is.
func Within(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{Header: parent})
}
