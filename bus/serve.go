package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/loglimit"
	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/strictjson"
	"github.com/zyotra/auth/internal/trace"
)

// ServiceName is the name of the service in "nats service ls".
const ServiceName = "auth"

// Server answers subjects on a connection that it owns.
type Server struct {
	Queue         func() any // returns the state of the HandleAsync queue, for the statistics; nil reports none
	MaxConcurrent int        // HandleAsync requests that this instance answers concurrently; more overflow to other instances. 0 is no limit
	// Healthy returns the reason why this instance cannot carry out requests. While it returns an error,
	// requests are handed off to other instances: see monitor. A nil function means always healthy.
	Healthy func(context.Context) error

	// Observe, if it is set before Handle, returns the observer of the requests of a subject.
	Observe func(subject string) Observer

	conn      *nats.Conn
	back      *nats.Conn // outlives conn
	svc       micro.Service
	log       *slog.Logger
	noise     *slog.Logger // log, rate-limited for lines that strangers can cause
	closed    <-chan struct{}
	queued    sync.Map       // *asyncSubject by subject
	inFlight  atomic.Int64   // requests of asynchronous subjects that this instance is answering
	wake      chan struct{}  // the readiness of acceptors may have changed
	replies   sync.WaitGroup // requests that are answered outside of their subscriptions
	unhealthy atomic.Bool    // the latest call of Healthy returned an error
	paused    atomic.Int64   // refusals that holdBack delays
	acceptors []*acceptor    // for requests of other instances
	slots     *slots         // for requests that are handed off to this instance
	within    atomic.Int64   // the count that InFlight returns
}

// NewServer announces the service on a connection, which the Server then owns. Replies of
// HandleAsync and hand-offs go over back, which the caller keeps. The Server answers a subject
// once Handle registers it.
func NewServer(conn, back *nats.Conn, version string, log *slog.Logger) (*Server, error) {
	closed := make(chan struct{})
	conn.SetClosedHandler(func(*nats.Conn) { close(closed) }) // micro's own handler calls it
	s := &Server{conn: conn, back: back, log: log, noise: loglimit.New(log), closed: closed, wake: make(chan struct{}, 1)}
	var err error
	s.svc, err = micro.AddService(conn, micro.Config{
		Name:        ServiceName,
		Version:     version,
		Description: "Accounts, sessions and tokens",
		ErrorHandler: func(_ micro.Service, e *micro.NATSError) {
			s.noise.Error("bus subscription", "subject", e.Subject, "err", e.Description)
		},
		StatsHandler: func(e *micro.Endpoint) any { return s.stats(e.Subject) },
	})
	if err != nil {
		return nil, fmt.Errorf("announce service: %w", err)
	}
	return s, nil
}

// workers returns the number of concurrent requests of one subject. A subscription runs one
// request at a time, and NATS distributes requests among the subscriptions of a queue group;
// so a subject has several identical endpoints. Replying within the callback keeps the
// statistics, the errors and the drain of the services protocol correct. With goroutines, a
// request would count as served, and its subscription as drained, as soon as it begins.
//
// There are more workers than cores, because a request mostly waits for the database. Their
// number is bounded, because each is a row in "nats service stats". docs/decisions.md has the
// figures.
func workers() int { return min(max(8, 2*runtime.GOMAXPROCS(0)), 32) }

// Handle answers op with fn, which must be safe for concurrent calls. The caller receives the
// public form of an error that fn returns: see auth.Public.
func Handle[Req, Resp any](s *Server, op auth.Op[Req, Resp], fn func(context.Context, Req) (Resp, error)) error {
	return HandleN(s, workers(), op, fn)
}

// HandleN is Handle with n workers, for an op that is called often: as many as cores if fn never
// waits, more if it does. NATS distributes requests without regard to busy workers, so n must
// exceed the number of concurrent requests, or a request may wait while other workers are idle.
func HandleN[Req, Resp any](s *Server, n int, op auth.Op[Req, Resp], fn func(context.Context, Req) (Resp, error)) error {
	observe := s.observer(string(op))
	q := &asyncSubject{subject: string(op), observe: observe}
	q.answer = func(r request) *nats.Msg {
		data, err := observed(s, observe, op, r, fn)
		return s.reply(q.subject, data, err)
	}
	s.acceptors = append(s.acceptors, s.acceptFailover(q, q.answer))
	answer := func(r micro.Request) {
		if !s.isAnswerable(r.Subject(), r.Reply()) {
			observe(auth.CodeMalformed, 0)
			return
		}
		req := request{r.Data(), nats.Header(r.Headers())}
		if m := s.failover(q, req); m != nil {
			s.respondWith(r, m)
			return
		}
		resp, err := observed(s, observe, op, req, fn)
		if err != nil {
			s.refuse(r, err)
			return
		}
		if err := r.Respond(resp); err != nil {
			s.noise.Error("reply lost", "subject", r.Subject(), "err", err)
		}
	}
	return add(s, op, n, answer)
}

// add announces n endpoints for op.
func add[Req, Resp any](s *Server, op auth.Op[Req, Resp], n int, answer micro.HandlerFunc) error {
	metadata, err := describe[Req, Resp]()
	if err != nil {
		return fmt.Errorf("describe %s: %w", op, err)
	}
	group, rest, _ := strings.Cut(string(op), ".")
	name := strings.ReplaceAll(rest, ".", "-") // names of endpoints may not contain a dot
	for range n {
		err := s.svc.AddGroup(group).AddEndpoint(name, answer,
			micro.WithEndpointSubject(rest), micro.WithEndpointMetadata(metadata))
		if err != nil {
			return fmt.Errorf("serve %s: %w", op, err)
		}
	}
	return nil
}

// request is a request as the caller sent it.
type request struct {
	data   []byte
	header nats.Header
}

// serving holds a request that is being answered, and the contexts with its id and its deadline,
// in one allocation.
type serving[Req any] struct {
	id       requestid.Context
	deadline deadline
	req      Req
}

// serve answers one request of op and logs the reason of a refusal. Every request that a handler
// answers passes through serve.
func serve[Req, Resp any](s *Server, op auth.Op[Req, Resp], r request, fn func(context.Context, Req) (Resp, error)) ([]byte, error) {
	var in serving[Req]
	requestid.Name(&in.id, context.Background(), r.header.Get(requestid.Header))
	in.deadline.Context, in.deadline.at = &in.id, time.Now().Add(r.timeout())
	defer in.deadline.end()
	ctx, span := startSpan(trace.Within(&in.deadline, r.header.Get(trace.Header)), trace.Server, string(op))
	data, err := answer(ctx, op, r, &in.req, fn)
	span.End(err)
	if err != nil {
		s.logRefusal(ctx, string(op), err)
	}
	return data, err
}

// answer decodes a request, runs fn and encodes the reply. It returns a panic of fn as an error:
// the panic ends the request, not the process.
func answer[Req, Resp any](ctx context.Context, op auth.Op[Req, Resp], r request, req *Req, fn func(context.Context, Req) (Resp, error)) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("panic in %s: %v\n%s", op, p, debug.Stack())
		}
	}()
	if err := decode(r, req); err != nil {
		return nil, err
	}
	resp, err := fn(ctx, *req)
	if err != nil {
		return nil, err
	}
	return strictjson.Marshal(resp)
}

// decode parses a request. An empty request is an object without members.
func decode(r request, req any) error {
	data := r.data
	if len(data) == 0 {
		data = []byte("{}")
	}
	if err := strictjson.Unmarshal(data, req); err != nil {
		return err
	}
	if o, ok := req.(originated); ok {
		trustSource(r.header.Get(headerRequestInfo), o.From())
	}
	b, ok := req.(bearer)
	if !ok {
		return nil
	}
	token, err := auth.BearerToken(authorizations(r.header))
	*b.Credential() = token
	return err
}

// authorizations returns the values of the header Authorization in any letter case.
func authorizations(h nats.Header) (all []string) {
	for name, values := range h {
		if strings.EqualFold(name, headerAuthorization) {
			all = append(all, values...)
		}
	}
	return all
}

// headerRequestInfo is the header in which the NATS server reports the connection of a guest's request. The
// server replaces any value that the guest sends. Requests of clients with a key have no such header.
const headerRequestInfo = "Nats-Request-Info"

// originated is a request that names the client it comes from.
type originated interface{ From() **auth.ClientInfo }

// trustSource replaces the client that a guest names by the address of the guest's connection: only clients
// with a key may send requests for others. If the server reports no address, the client is unknown, so
// such guests are limited as one source.
func trustSource(info string, client **auth.ClientInfo) {
	if info == "" {
		return
	}
	var from struct {
		Host string `json:"host"`
	}
	_ = json.Unmarshal([]byte(info), &from) // on an error, the address is unknown
	ip, err := netip.ParseAddr(from.Host)
	if err != nil {
		*client = nil
		return
	}
	*client = &auth.ClientInfo{IP: ip.WithZone("").String()}
}

// refuse answers a request with an error that is already logged.
func (s *Server) refuse(r micro.Request, err error) {
	if err := Refuse(r, err); err != nil {
		s.noise.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}

// logRefusal logs the error of a refused request: an internal error as error, an unavailable
// dependency as warning, and any other refusal at debug level. No other function logs it.
func (s *Server) logRefusal(ctx context.Context, subject string, err error) {
	switch code := auth.Public(err).Code; code {
	case auth.CodeInternal:
		s.log.ErrorContext(ctx, "request failed", "subject", subject, "err", err)
	case auth.CodeUnavailable:
		s.log.WarnContext(ctx, "request failed", "subject", subject, "err", err)
	default:
		s.log.DebugContext(ctx, "request refused", "subject", subject, "code", code, "err", err)
	}
}

// Refuse replies to a request with auth.Public(err), in the form that this service uses and that
// Call reads.
func Refuse(r micro.Request, err error) error {
	code, message, body, err := told(err)
	if err != nil {
		return err
	}
	return r.Error(code, message, body)
}

// told returns the parts of a reply that refuses with err. The message is a fixed text, so
// last_error in the statistics contains no data of a user.
func told(err error) (code, message string, body []byte, _ error) {
	public := auth.Public(err)
	body, err = json.Marshal(public)
	if err != nil {
		return "", "", nil, fmt.Errorf("encode error: %w", err)
	}
	return strconv.Itoa(public.Code.Status()), public.Message, body, nil
}

// isAnswerable reports whether the reply subject of a request is an inbox. It logs a request
// without one.
func (s *Server) isAnswerable(subject, reply string) bool {
	if isInbox(reply) {
		return true
	}
	s.noise.Warn("request without an inbox to reply to", "subject", subject)
	return false
}

// isInbox reports whether a reply subject is an inbox: with the default prefix of clients
// (_INBOX), with the prefix of a role (_INBOX_edge), or as mapped between accounts (_R_). The
// server replies to no other subject, in particular to no subject of events.
func isInbox(subject string) bool {
	first, _, ok := strings.Cut(subject, ".")
	return ok && (first == "_INBOX" || strings.HasPrefix(first, "_INBOX_") || first == "_R_")
}

// Run answers requests until ctx ends. Then it accepts no more requests, finishes those in
// flight, closes the connection and returns nil. It returns an error if the connection closes
// for another reason.
func (s *Server) Run(ctx context.Context) error {
	s.slots = newSlots(s.conn.NewInbox())
	if _, err := s.conn.Subscribe(s.slots.prefix+"*", s.acceptHandoff); err != nil {
		return fmt.Errorf("listen for what is handed over: %w", err)
	}
	offering, stop := context.WithCancel(ctx)
	var offers sync.WaitGroup
	defer offers.Wait()
	defer stop()
	offers.Go(func() { s.advertise(offering) })
	if s.Healthy != nil {
		offers.Go(func() { s.monitor(offering) })
	}
	select {
	case <-s.closed:
		return errors.Join(errors.New("connection to NATS closed"), s.conn.LastError())
	case <-ctx.Done():
	}
	offers.Wait() // before the drain, which covers only existing subscriptions
	s.slots.close()
	if err := s.conn.Drain(); err != nil {
		return fmt.Errorf("drain bus: %w", err)
	}
	<-s.closed // Drain returns immediately
	s.replies.Wait()
	return s.back.FlushTimeout(Timeout)
}
