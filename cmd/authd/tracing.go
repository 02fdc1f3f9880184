package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Traces are exported by OTLP if the variables of OpenTelemetry name a destination. They are not settings
// of authd: the SDK reads them (opentelemetry.io/docs/specs/otel/configuration), and uses its default for
// a wrong one. So authd checks the important variables first.

// The variables that authd reads.
const (
	otelDisabled   = "OTEL_SDK_DISABLED"
	otelExporter   = "OTEL_TRACES_EXPORTER"
	otelSampler    = "OTEL_TRACES_SAMPLER"
	otelSamplerArg = "OTEL_TRACES_SAMPLER_ARG"
	otelResource   = "OTEL_RESOURCE_ATTRIBUTES"
	otlpPrefix     = "OTEL_EXPORTER_OTLP_"
	otlpTraces     = otlpPrefix + "TRACES_" // takes precedence over otlpPrefix
)

// flushWithin is how long the export of the last spans may take when the program stops.
const flushWithin = 3 * time.Second

const (
	otlpHTTP = "http/protobuf"
	otlpGRPC = "grpc"
)

// otlp returns the name and the value of a variable of the exporter: the variable for traces, or the one
// for all signals.
func otlp(what string) (name, value string) {
	if value := os.Getenv(otlpTraces + what); value != "" {
		return otlpTraces + what, value
	}
	return otlpPrefix + what, os.Getenv(otlpPrefix + what)
}

// checkTracing checks the variables and returns the protocol of the exporter, "" if traces are not
// exported.
func checkTracing() (protocol string, err error) {
	off, err := strconv.ParseBool(os.Getenv(otelDisabled))
	if value := os.Getenv(otelDisabled); value != "" && err != nil {
		return "", &settingError{otelDisabled, fmt.Sprintf("%q is not true or false", value), "true"}
	}
	exporter := os.Getenv(otelExporter)
	if exporter != "" && exporter != "otlp" && exporter != "none" {
		return "", &settingError{otelExporter, fmt.Sprintf("%q is not otlp or none", exporter), "otlp"}
	}
	_, endpoint := otlp("ENDPOINT")
	if off || exporter == "none" || exporter == "" && endpoint == "" {
		return "", nil
	}
	for _, check := range []func() error{checkEndpoint, checkCertificate, checkSampler} {
		if err := check(); err != nil {
			return "", err
		}
	}
	name, protocol := otlp("PROTOCOL")
	switch protocol {
	case "":
		return otlpHTTP, nil
	case otlpHTTP, otlpGRPC:
		return protocol, nil
	}
	return "", &settingError{name, fmt.Sprintf("%q is not %s or %s", protocol, otlpHTTP, otlpGRPC), otlpHTTP}
}

// checkEndpoint checks the URL of the exporter. Its error does not repeat the URL, which may contain a
// password.
func checkEndpoint() error {
	name, value := otlp("ENDPOINT")
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return &settingError{name, "is not an http:// or https:// URL without user and password", "http://localhost:4318"}
	}
	return nil
}

func checkCertificate() error {
	name, file := otlp("CERTIFICATE")
	if file == "" {
		return nil
	}
	return checkFile(name, file, "/etc/ssl/otel-ca.pem", x509.NewCertPool().AppendCertsFromPEM)
}

func checkSampler() error {
	sampler, arg := os.Getenv(otelSampler), os.Getenv(otelSamplerArg)
	switch sampler {
	case "", "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
		return nil
	case "traceidratio", "parentbased_traceidratio":
		if ratio, err := strconv.ParseFloat(arg, 64); arg != "" && (err != nil || !(0 <= ratio && ratio <= 1)) {
			return &settingError{otelSamplerArg, fmt.Sprintf("%q is not a number from 0 to 1", arg), "0.1"}
		}
		return nil
	}
	return &settingError{otelSampler, fmt.Sprintf("%q is none of always_on, always_off, traceidratio and the same behind parentbased_", sampler), "parentbased_traceidratio"}
}

// openTracing installs a tracer for the process if the variables request one. Spans are exported in the
// background, and dropped if they are recorded faster than exported.
func (s *service) openTracing(ctx context.Context) error {
	protocol, err := checkTracing()
	if err != nil || protocol == "" {
		return err
	}
	from, err := tracedAs(ctx)
	if err != nil {
		return &settingError{otelResource, "is not a list of name=value", "deployment.environment.name=production"}
	}
	otel.SetLogger(logr.FromSlogHandler(s.log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { s.log.Debug("tracing", "err", err) }))
	exporter, err := newExporter(ctx, protocol)
	if err != nil {
		return fmt.Errorf("export traces: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithResource(from), sdk.WithBatcher(&toldExporter{SpanExporter: exporter, log: s.log}))
	otel.SetTracerProvider(provider)
	s.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWithin)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil { // this does not make the program fail
			s.log.Warn("the last traces did not leave", "err", err)
		}
		return nil
	})
	return nil
}

func newExporter(ctx context.Context, protocol string) (*otlptrace.Exporter, error) {
	if protocol == otlpGRPC {
		return otlptracegrpc.New(ctx) // connects when there are spans to send
	}
	return otlptracehttp.New(ctx)
}

// tracedAs returns the resource that identifies this process in traces. OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES take precedence.
func tracedAs(ctx context.Context) (*resource.Resource, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, err
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "authd"),
		attribute.String("service.version", version),
		attribute.String("service.instance.id", id.String()),
	), resource.WithFromEnv())
}

// toldExporter logs once that the export of traces fails, and once that it works again.
type toldExporter struct {
	sdk.SpanExporter
	log  *slog.Logger
	away atomic.Bool
}

// ExportSpans returns nil even if the exporter fails, since it logs failures.
func (e *toldExporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !e.away.Swap(true):
		e.log.Warn("traces do not leave; they are dropped", "err", strings.TrimSpace(err.Error()))
	case err == nil && e.away.Swap(false):
		e.log.Info("traces leave again")
	}
	return nil
}
