package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
	"github.com/zyotra/auth/internal/trace"
)

// ServiceName is how the service shows in "nats service ls".
const ServiceName = "auth"

// Server answers subjects on a connection of its own.
type Server struct {
	conn   *nats.Conn
	svc    micro.Service
	log    *slog.Logger
	closed <-chan struct{}
}

// NewServer announces the service on a connection, which it then owns. Nothing is answered
// before Handle says how.
func NewServer(conn *nats.Conn, version string, log *slog.Logger) (*Server, error) {
	closed := make(chan struct{})
	conn.SetClosedHandler(func(*nats.Conn) { close(closed) }) // micro passes it on
	svc, err := micro.AddService(conn, micro.Config{
		Name:        ServiceName,
		Version:     version,
		Description: "Accounts, sessions and tokens",
		ErrorHandler: func(_ micro.Service, e *micro.NATSError) {
			log.Error("bus subscription", "subject", e.Subject, "err", e.Description)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("announce service: %w", err)
	}
	return &Server{conn: conn, svc: svc, log: log, closed: closed}, nil
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
	answer := micro.HandlerFunc(func(r micro.Request) {
		if !isInbox(r.Reply()) {
			s.log.Warn("request without an inbox to reply to", "subject", r.Subject())
			return
		}
		resp, err := serve(r, fn)
		if err != nil {
			s.refuse(r, err)
			return
		}
		if err := r.Respond(resp); err != nil {
			s.log.Error("reply lost", "subject", r.Subject(), "err", err)
		}
	})
	metadata, err := describe[Req, Resp]()
	if err != nil {
		return fmt.Errorf("describe %s: %w", op, err)
	}
	group, rest, _ := strings.Cut(string(op), ".")
	name := strings.ReplaceAll(rest, ".", "-") // names of endpoints may not hold a dot
	for range workers() {
		err := s.svc.AddGroup(group).AddEndpoint(name, answer,
			micro.WithEndpointSubject(rest), micro.WithEndpointMetadata(metadata))
		if err != nil {
			return fmt.Errorf("serve %s: %w", op, err)
		}
	}
	return nil
}

// serve decodes one request, runs fn and encodes the reply. A panic of fn is its error:
// it ends the request, not the process.
func serve[Req, Resp any](r micro.Request, fn func(context.Context, Req) (Resp, error)) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	ctx = trace.Within(ctx, r.Headers().Get(trace.Header))

	var req Req
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	resp, err := fn(ctx, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(resp)
}

// decode reads a request; an empty one is one without members.
func decode(r micro.Request, req any) error {
	data := r.Data()
	if len(data) == 0 {
		data = []byte("{}")
	}
	if err := strictjson.Unmarshal(data, req); err != nil {
		return err
	}
	b, ok := req.(bearer)
	if !ok {
		return nil
	}
	token, err := auth.BearerToken(r.Headers().Values(headerAuthorization))
	*b.Credential() = token
	return err
}

// refuse is the one place where an error becomes a reply, and is logged if it is ours.
func (s *Server) refuse(r micro.Request, err error) {
	public := auth.Public(err)
	switch public.Code {
	case auth.CodeInternal:
		s.log.Error("request failed", "subject", r.Subject(), "err", err)
	case auth.CodeUnavailable:
		s.log.Warn("request failed", "subject", r.Subject(), "err", err)
	default:
		s.log.Debug("request refused", "subject", r.Subject(), "code", public.Code, "err", err)
	}
	if err := Refuse(r, public); err != nil {
		s.log.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}

// Refuse replies to a request with what auth.Public tells of err, as this service does to its
// own and as Call reads it.
func Refuse(r micro.Request, err error) error {
	public := auth.Public(err)
	body, err := json.Marshal(public)
	if err != nil {
		return fmt.Errorf("encode error: %w", err)
	}
	// The message is a fixed text, so last_error in the statistics tells of nobody.
	return r.Error(strconv.Itoa(public.Code.Status()), public.Message, body)
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
	select {
	case <-s.closed:
		return errors.Join(errors.New("connection to NATS closed"), s.conn.LastError())
	case <-ctx.Done():
	}
	if err := s.conn.Drain(); err != nil {
		return fmt.Errorf("drain bus: %w", err)
	}
	<-s.closed // Drain returns at once
	return nil
}
