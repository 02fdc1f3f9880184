package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testport"
)

// traceCollector takes traces over OTLP, as protobuf over HTTP.
type traceCollector struct {
	url   string
	mu    sync.Mutex
	spans []collected
	text  strings.Builder // everything, as JSON
}

// collected is a span that came.
type collected struct {
	*otlptrace.Span
	service string
}

func startCollector(t *testing.T) *traceCollector {
	t.Helper()
	c := &traceCollector{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *traceCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	content, err := io.ReadAll(body)
	var request collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(content, &request) != nil {
		http.Error(w, "what is that?", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.WriteString(protojson.Format(&request))
	for _, from := range request.ResourceSpans {
		for _, scope := range from.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, collected{s, attributeOf(from.Resource.Attributes, "service.name")})
			}
		}
	}
}

// attributeOf is the value of one as text, "" if there is none.
func attributeOf(all []*common.KeyValue, name string) string {
	for _, a := range all {
		if a.Key == name {
			if n, ok := a.Value.Value.(*common.AnyValue_IntValue); ok {
				return fmt.Sprint(n.IntValue)
			}
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// of returns the spans of a trace.
func (c *traceCollector) of(trace string) (spans []collected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if fmt.Sprintf("%x", s.TraceId) == trace {
			spans = append(spans, s)
		}
	}
	return spans
}

// paths are the spans of a trace, each behind those that it is part of.
func (c *traceCollector) paths(trace string) (paths []string) {
	spans := c.of(trace)
	var path func(s collected) string
	path = func(s collected) string {
		for _, p := range spans {
			if string(p.SpanId) == string(s.ParentSpanId) {
				return path(p) + " > " + s.Name
			}
		}
		return s.Name
	}
	for _, s := range spans {
		paths = append(paths, path(s))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// launchTraced is launch with variables of OpenTelemetry.
func launchTraced(t *testing.T, endpoint string, variables []string, args ...string) *instance {
	t.Helper()
	cmd := exec.Command("owned-authd", append(args, listenAnywhere...)...)
	cmd.Env = append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint}, variables...)
	return execute(t, t.TempDir(), cmd)
}

// The example of W3C Trace Context §3.2.
const (
	exampleTrace  = "0af7651916cd43dd8448eb211c80319c"
	exampleParent = "00-" + exampleTrace + "-b7ad6b7169203331-01"
)

// withParent are the headers of a request that says it is part of the example.
func withParent() map[string][]string {
	return map[string][]string{"Content-Type": {"application/json"}, "Traceparent": {exampleParent}}
}

// A request is one trace, through all processes, from the edge to the database and the event.
func TestALoginIsOneTrace(t *testing.T) {
	t.Parallel()
	believe := "--trusted-proxies=127.0.0.1"
	for name, deploy := range map[string]func(*testing.T, *traceCollector) []*instance{
		"in one process, on SQLite": func(t *testing.T, c *traceCollector) []*instance {
			return []*instance{launchTraced(t, c.url, nil, believe).ready(t)}
		},
		"in two, on Postgres": func(t *testing.T, c *traceCollector) []*instance {
			bus := launchTraced(t, c.url, []string{"OTEL_SERVICE_NAME=handlers"}, append(withPostgres(testpg.URL(t)), "serve", "--handlers")...).ready(t)
			edge := launchTraced(t, c.url, []string{"OTEL_RESOURCE_ATTRIBUTES=service.name=edge"}, "serve", "--edge", believe, "--nats-url="+bus.nats,
				"--nats-nkey-seed-file="+embedded.SeedFile(bus.dir+"/data/nats", embedded.Edge)).ready(t)
			return []*instance{edge, bus}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCollector(t)
			instances := deploy(t, c)
			a := instances[0]
			conn := connect(t, instances[len(instances)-1].nats)
			sub, err := conn.SubscribeSync("session.created")
			check(t, err)
			check(t, conn.Flush())

			a.post(t, "/register", credentials).done(t)
			a.do(t, "POST /login", withParent(), credentials).done(t)
			event, err := sub.NextMsg(patience)
			check(t, err)
			if !strings.HasPrefix(event.Header.Get("traceparent"), "00-"+exampleTrace+"-") {
				t.Errorf("%v", event.Header)
			}
			for _, i := range instances {
				i.stop(t) // the last traces leave
			}
			const served = "POST /login > auth.login > auth.login"
			paths := c.paths(exampleTrace)
			for _, want := range []string{
				"POST /login", "POST /login > auth.login", served, served + " > hash password", served + " > SELECT users",
				served + " > BEGIN", served + " > INSERT login_sessions", served + " > INSERT outbox", served + " > COMMIT", served + " > send session.created",
			} {
				if !slices.Contains(paths, want) {
					t.Errorf("no %s in\n%s", want, strings.Join(paths, "\n"))
				}
			}
			services := map[string]bool{}
			for _, s := range c.of(exampleTrace) {
				services[s.service] = true
				told := func(name string) string { return attributeOf(s.Attributes, name) }
				switch {
				case s.Name == "POST /login":
					if told("http.route") != "/login" || told("http.request.method") != "POST" || told("http.response.status_code") != "200" ||
						s.Kind != otlptrace.Span_SPAN_KIND_SERVER || fmt.Sprintf("%x", s.ParentSpanId) != "b7ad6b7169203331" {
						t.Errorf("%v", s.Span)
					}
				case s.Name == "auth.login":
					if told("rpc.system.name") != "nats" || told("rpc.method") != "auth.login" {
						t.Errorf("%v", s.Span)
					}
				case s.Name == "INSERT login_sessions":
					if text := told("db.query.text"); !strings.HasPrefix(text, "INSERT INTO ") || !strings.Contains(text, "?") || strings.Contains(text, "'") ||
						told("db.operation.name") != "INSERT" || told("db.collection.name") != "login_sessions" || told("db.system.name") == "" {
						t.Errorf("%v", s.Span)
					}
				}
			}
			if len(services) != len(instances) {
				t.Errorf("services %v", services)
			}
		})
	}
}

// Strangers find their own traces again, but ours are ours, and so is which of them is recorded.
func TestATraceOfAStrangerIsNamedAndNotContinued(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	a := launchTraced(t, c.url, nil).ready(t)
	a.do(t, "GET /.well-known/jwks.json", withParent(), "").done(t)
	a.get(t, "/nothing", "")
	a.get(t, "/healthz", "")
	a.get(t, "/readyz", "")
	ask(t, connect(t, a.nats), "auth.revocations", nil, "").done(t) // as verifiers do all the time
	a.stop(t)
	if spans := c.of(exampleTrace); spans != nil {
		t.Errorf("continued: %v", spans)
	}
	var names []string
	for _, s := range c.spans {
		names = append(names, s.Name)
		if s.Name == "GET /.well-known/jwks.json" && (len(s.Links) != 1 || fmt.Sprintf("%x", s.Links[0].TraceId) != exampleTrace) {
			t.Errorf("links %v", s.Links)
		}
		if s.Name == "GET" && (attributeOf(s.Attributes, "http.response.status_code") != "404" || attributeOf(s.Attributes, "error.type") != "not_found") {
			t.Errorf("%v", s.Span)
		}
	}
	slices.Sort(names)
	if want := []string{"GET", "GET /.well-known/jwks.json", "auth.keys", "auth.keys"}; !slices.Equal(names, want) {
		t.Errorf("spans %q, want %q", names, want)
	}
}

// On the bus everybody is let say what they are part of, with or without a tracer here; a sampler
// of those who ask decides.
func TestATraceFromTheBusIsContinued(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	a := launchTraced(t, c.url, []string{"OTEL_TRACES_SAMPLER=parentbased_always_off"}).ready(t)
	conn := connect(t, a.nats)
	ask(t, conn, "auth.login", nats.Header{"traceparent": {exampleParent}}, credentials).refused(t, 401, "invalid_credentials", "")
	ask(t, conn, "auth.login", nil, credentials).refused(t, 401, "invalid_credentials", "")
	a.stop(t)
	if paths := c.paths(exampleTrace); !slices.Contains(paths, "auth.login > hash password") {
		t.Errorf("%q", paths)
	}
	for _, s := range c.spans {
		if fmt.Sprintf("%x", s.TraceId) != exampleTrace {
			t.Errorf("recorded: %v", s.Span)
		}
		if s.Name == "auth.login" && (attributeOf(s.Attributes, "error.type") != "invalid_credentials" || s.Status.GetCode() != otlptrace.Status_STATUS_CODE_UNSET) {
			t.Errorf("%v", s.Span)
		}
	}
}

// A collector that refuses connections, or takes them and says nothing, is nobody's problem but
// the operator's, who is told once.
func TestACollectorThatIsAwayChangesNoRequest(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]func(*testing.T) string{
		"refuses": func(t *testing.T) string { return testport.Address(t) },
		"is silent": func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			t.Cleanup(func() { l.Close() })
			return l.Addr().String()
		},
	} {
		for _, protocol := range []string{"http/protobuf", "grpc"} {
			t.Run(name+" by "+protocol, func(t *testing.T) {
				t.Parallel()
				a := launchTraced(t, "http://"+listen(t), []string{"OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol, "OTEL_EXPORTER_OTLP_TIMEOUT=500"}).ready(t)
				story(t, a)
				if name == "refuses" && protocol == "http/protobuf" {
					a.line(t, "traces do not leave")
				}
				check(t, a.signal(syscall.SIGTERM))
				if code := a.wait(t, flushWithin+patience/2); code != exitStopped {
					t.Errorf("exit code %d", code)
				}
				if n := strings.Count(a.stderr.String(), "traces do not leave"); n > 1 {
					t.Errorf("said %d times:\n%s", n, a.stderr)
				}
			})
		}
	}
}

// What came late is told to have come.
func TestACollectorComesBack(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := l.Addr().String()
	check(t, l.Close())
	a := launchTraced(t, "http://"+address, []string{"OTEL_BSP_SCHEDULE_DELAY=50"}).ready(t)
	again := func(text string) {
		until(t, text, func() bool {
			a.get(t, "/nothing", "")
			return strings.Contains(a.stderr.String(), text)
		})
	}
	again("traces do not leave")
	l, err = net.Listen("tcp", address)
	check(t, err)
	server := &http.Server{Handler: &traceCollector{}, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	again("traces leave again")
	a.stop(t)
}

// byGRPC takes what a traceCollector does over the other protocol.
type byGRPC struct {
	collector.UnimplementedTraceServiceServer
	came chan *collector.ExportTraceServiceRequest
}

func (g byGRPC) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	g.came <- r
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestTracesLeaveByGRPC(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server, g := grpc.NewServer(), byGRPC{came: make(chan *collector.ExportTraceServiceRequest, 16)}
	collector.RegisterTraceServiceServer(server, g)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	a := launchTraced(t, "http://"+l.Addr().String(), []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}).ready(t)
	a.get(t, "/nothing", "")
	a.stop(t)
	if len(g.came) == 0 {
		t.Error("nothing came")
	}
}
