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

// ServiceName is how the service shows in "nats service ls".
const ServiceName = "auth"

// Server answers subjects on a connection of its own.
type Server struct {
	Queue         func() any // what those of HandleAsync wait in, for the statistics; nil tells nothing
	MaxConcurrent int        // requests of HandleAsync that are answered here at once; more overflow to other instances. 0 keeps all here
	// Healthy returns why requests cannot be carried out here; nil means that they always can. While it
	// returns an error, they are handed off to other instances: see monitor.
	Healthy func(context.Context) error

	// Observe, if it is set before Handle, is asked for what watches the requests of a subject.
	Observe func(subject string) Observer

	conn      *nats.Conn
	back      *nats.Conn // outlives conn
	svc       micro.Service
	log       *slog.Logger
	noise     *slog.Logger // log, with a limit for what strangers can cause
	closed    <-chan struct{}
	queued    sync.Map       // *asyncSubject by subject
	inFlight  atomic.Int64   // requests of asynchronous subjects that are being answered here
	wake      chan struct{}  // acceptors may be ready, or not any more
	replies   sync.WaitGroup // requests that are answered outside of their subscriptions
	unhealthy atomic.Bool    // the latest call of Healthy returned an error
	paused    atomic.Int64   // refusals that holdBack delays
	acceptors []*acceptor    // for requests of other instances
	slots     *slots         // for requests that are handed to this instance
	within    atomic.Int64   // of InFlight
}

// NewServer announces the service on a connection, which it then owns. What is answered later
// goes over back, which stays the caller's. Nothing is answered before Handle says how.
func NewServer(conn, back *nats.Conn, version string, log *slog.Logger) (*Server, error) {
	closed := make(chan struct{})
	conn.SetClosedHandler(func(*nats.Conn) { close(closed) }) // micro passes it on
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

// workers is how many requests of one subject run at once. A subscription runs one at a
// time, and NATS deals them out among those of a queue group; so a subject has several
// identical endpoints. Replying from within the callback keeps the statistics, the errors
// and the drain of the services protocol right, which handing over to goroutines would
// not: there a request counts as served, and its subscription as drained, once it is begun.
//
// There are more than cores, since most of a request is waiting for the database, and a
// bound, since each is a row in "nats service stats". docs/decisions.md has the figures.
func workers() int { return min(max(8, 2*runtime.GOMAXPROCS(0)), 32) }

// Handle answers op with fn, which may run several times at once. What fn returns as an
// error is what the caller gets of it: see auth.Public.
func Handle[Req, Resp any](s *Server, op auth.Op[Req, Resp], fn func(context.Context, Req) (Resp, error)) error {
	return HandleN(s, workers(), op, fn)
}

// HandleN is Handle for an op that is asked often, of which n at once are right: as many as
// cores if fn waits for nothing, more if it does. NATS deals requests out without looking at who
// is busy, so there must be more than are asked at once if none is to wait beside idle ones.
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

// add announces as many endpoints for op.
func add[Req, Resp any](s *Server, op auth.Op[Req, Resp], n int, answer micro.HandlerFunc) error {
	metadata, err := describe[Req, Resp]()
	if err != nil {
		return fmt.Errorf("describe %s: %w", op, err)
	}
	group, rest, _ := strings.Cut(string(op), ".")
	name := strings.ReplaceAll(rest, ".", "-") // names of endpoints may not hold a dot
	for range n {
		err := s.svc.AddGroup(group).AddEndpoint(name, answer,
			micro.WithEndpointSubject(rest), micro.WithEndpointMetadata(metadata))
		if err != nil {
			return fmt.Errorf("serve %s: %w", op, err)
		}
	}
	return nil
}

// request is what a caller sent.
type request struct {
	data   []byte
	header nats.Header
}

// serving is a request while it is being answered, and the contexts that know its id and its
// deadline: one allocation for all.
type serving[Req any] struct {
	id       requestid.Context
	deadline deadline
	req      Req
}

// serve answers one request of op and logs why it is refused: every request comes through here.
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

// answer decodes a request, runs fn and encodes the reply. A panic of fn is its error: it ends
// the request, not the process.
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

// decode reads a request; an empty one is one without members.
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

// authorizations are the values of the header Authorization in every spelling.
func authorizations(h nats.Header) (all []string) {
	for name, values := range h {
		if strings.EqualFold(name, headerAuthorization) {
			all = append(all, values...)
		}
	}
	return all
}

// headerRequestInfo is the header in which the NATS server says which connection a request of a guest came
// from. The server replaces whatever the guest has put there. Requests of clients with a key have none.
const headerRequestInfo = "Nats-Request-Info"

// originated is a request that says where it comes from.
type originated interface{ From() **auth.ClientInfo }

// trustSource puts the address of a guest's connection in the place of what the guest says: only clients
// with a key ask for others. An address that the server does not tell is unknown, so such guests are
// limited as one source.
func trustSource(info string, client **auth.ClientInfo) {
	if info == "" {
		return
	}
	var from struct {
		Host string `json:"host"`
	}
	_ = json.Unmarshal([]byte(info), &from) // then it is unknown
	ip, err := netip.ParseAddr(from.Host)
	if err != nil {
		*client = nil
		return
	}
	*client = &auth.ClientInfo{IP: ip.WithZone("").String()}
}

// refuse answers a request with an error that was logged.
func (s *Server) refuse(r micro.Request, err error) {
	if err := Refuse(r, err); err != nil {
		s.noise.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}

// logRefusal is the one place where an error is logged, if it is ours.
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

// Refuse replies to a request with what auth.Public tells of err, as this service does to its
// own and as Call reads it.
func Refuse(r micro.Request, err error) error {
	code, message, body, err := told(err)
	if err != nil {
		return err
	}
	return r.Error(code, message, body)
}

// told is what a reply tells of an error. The message is a fixed text, so last_error in the
// statistics tells of nobody.
func told(err error) (code, message string, body []byte, _ error) {
	public := auth.Public(err)
	body, err = json.Marshal(public)
	if err != nil {
		return "", "", nil, fmt.Errorf("encode error: %w", err)
	}
	return strconv.Itoa(public.Code.Status()), public.Message, body, nil
}

// isAnswerable tells whether a request says where to reply to.
func (s *Server) isAnswerable(subject, reply string) bool {
	if isInbox(reply) {
		return true
	}
	s.noise.Warn("request without an inbox to reply to", "subject", subject)
	return false
}

// isInbox tells whether a reply subject is of the agreed form: an inbox, with the prefix of
// clients that chose none, with one of a role (_INBOX_edge), or as mapped between accounts
// (_R_). Replies go nowhere else, least of all to the subjects of events.
func isInbox(subject string) bool {
	first, _, ok := strings.Cut(subject, ".")
	return ok && (first == "_INBOX" || strings.HasPrefix(first, "_INBOX_") || first == "_R_")
}

// Run answers until ctx ends. Then it takes no more requests, finishes those it has,
// closes the connection and returns nil. A connection that closes for another reason is an
// error.
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
	offers.Wait() // before the drain, which takes in all subscriptions there are
	s.slots.close()
	if err := s.conn.Drain(); err != nil {
		return fmt.Errorf("drain bus: %w", err)
	}
	<-s.closed // Drain returns at once
	s.replies.Wait()
	return s.back.FlushTimeout(Timeout)
}
