// Package bus carries requests and replies over NATS.
//
// Who asks calls Connect and Call; who answers makes a Server, gives it a function for each
// subject with Handle, and lets it Run:
//
//	conn, err := bus.Connect("nats://127.0.0.1:4222")
//	reply, err := bus.Call(ctx, conn, auth.Verify, auth.VerifyRequest{Token: t})
//
// A request is JSON; the access token of whoever asks travels in the header Authorization.
// A refusal is a reply with the headers Nats-Service-Error and Nats-Service-Error-Code (the
// services protocol of NATS, ADR-32) and an auth.Error as its body, and comes out of Call as
// the very error that the other side returned.
//
// The package knows no rule of accounts and sessions, and importing it links neither a
// database, nor an HTTP server, nor the NATS server.
package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/trace"
)

// Timeout bounds a request, on the side that asks and on the side that answers, where the
// caller's context does not end sooner.
const Timeout = 10 * time.Second

// pingEvery is how often a connection makes sure that its server still answers. After two pings
// without a pong it takes it for dead and goes to another: a network that drops packets closes no
// connection.
const pingEvery = 3 * time.Second

// headerAuthorization is where the access token travels. It is read in any letter case, although
// names of NATS headers are case-sensitive, so that there is one credential at most.
const headerAuthorization = "Authorization"

// headerTimeout says how long the caller waits, in milliseconds: nothing long is begun for one
// who has gone.
const headerTimeout = "Timeout-Ms"

// Connect connects to one of the servers in the comma-separated URL. The connection is
// re-established for ever, on any of the cluster's servers, also if they refuse the
// credentials for a while; while it is away, requests fail at once with auth.ErrUnavailable
// and are not kept for later.
func Connect(url string, options ...nats.Option) (*nats.Conn, error) {
	standard := []nats.Option{
		nats.Name("zyotra-auth"),
		nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // servers may learn of a new key after us
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // a login that is sent after its caller gave up helps nobody
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(2),
	}
	conn, err := nats.Connect(url, append(standard, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// WithRequestID returns ctx with an id under which the service logs what Call asks it within: 1 to
// 64 letters, digits and "-_.". Anything else is replaced by an id that is made up, as happens
// without one.
func WithRequestID(ctx context.Context, id string) context.Context { return requestid.With(ctx, id) }

// bearer is a request made on behalf of a user.
type bearer interface{ Credential() *string }

// Call asks op and waits for its reply, for Timeout at the longest. It returns the
// *auth.Error that the handler returned, or auth.ErrUnavailable if nobody answered: then
// the request may have been carried out.
func Call[Req, Resp any](ctx context.Context, conn *nats.Conn, op auth.Op[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	ctx, span := startSpan(ctx, trace.Client, string(op))
	resp, err := call(ctx, conn, op, req)
	span.End(err)
	return resp, err
}

func call[Req, Resp any](ctx context.Context, conn *nats.Conn, op auth.Op[Req, Resp], req Req) (Resp, error) {
	var resp Resp
	data, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("ask %s: %w", op, err)
	}
	msg := nats.NewMsg(string(op))
	msg.Data = data
	if deadline, ok := ctx.Deadline(); ok {
		msg.Header[headerTimeout] = []string{strconv.FormatInt(time.Until(deadline).Milliseconds(), 10)}
	}
	if b, ok := any(&req).(bearer); ok && *b.Credential() != "" {
		msg.Header.Set(headerAuthorization, "Bearer "+*b.Credential())
	}
	if parent := trace.Parent(ctx); parent != "" {
		msg.Header[trace.Header] = []string{parent}
	}
	if id := requestid.From(ctx); id != "" {
		msg.Header[requestid.Header] = []string{id}
	}
	reply, err := conn.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return resp, fmt.Errorf("ask %s: %w: %w", op, auth.ErrUnavailable, err)
	}
	if reply.Header.Get(micro.ErrorCodeHeader) != "" {
		return resp, refusal(reply)
	}
	if err := json.Unmarshal(reply.Data, &resp); err != nil {
		var none Resp
		return none, fmt.Errorf("reply of %s: %w", op, err)
	}
	return resp, nil
}

// refusal reads the error of a reply. One that is not of our form is internal.
func refusal(reply *nats.Msg) error {
	var e auth.Error
	if err := json.Unmarshal(reply.Data, &e); err != nil || e.Code == "" {
		return errors.New("refused with " + reply.Header.Get(micro.ErrorCodeHeader) + " and no code")
	}
	return &e
}
