// Package bus carries requests and replies over NATS.
//
// A client calls Connect and Call. A service makes a Server, registers a function for each
// subject with Handle, and calls Run:
//
//	conn, err := bus.Connect("nats://127.0.0.1:4222")
//	reply, err := bus.Call(ctx, conn, auth.Verify, auth.VerifyRequest{Token: t})
//
// A request is JSON; the header Authorization carries the caller's access token. A refusal is a
// reply with the headers Nats-Service-Error and Nats-Service-Error-Code (the services protocol
// of NATS, ADR-32) and an auth.Error as its body. Call returns that auth.Error, as the handler
// returned it.
//
// The package contains no rule of accounts and sessions, and importing it links neither a
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

// Timeout bounds a request, in the client and in the server, unless the caller's context ends
// sooner.
const Timeout = 10 * time.Second

// pingEvery is the interval at which a connection checks that its server still answers. After two
// pings without a pong, the client considers the connection dead and connects to another server: a
// network that drops packets closes no connection.
const pingEvery = 3 * time.Second

// headerAuthorization is the header that carries the access token. The server reads it in any
// letter case, although names of NATS headers are case-sensitive, so that a request has at most
// one credential.
const headerAuthorization = "Authorization"

// headerTimeout is the header with the time that the caller waits, in milliseconds: the server
// begins no long work for a caller that has gone.
const headerTimeout = "Timeout-Ms"

// Connect connects to one of the servers in the comma-separated URL. The connection reconnects
// without a limit, to any server of the cluster, even after servers refuse the credentials.
// While it is down, requests fail immediately with auth.ErrUnavailable and are not buffered.
func Connect(url string, options ...nats.Option) (*nats.Conn, error) {
	standard := []nats.Option{
		nats.Name("zyotra-auth"),
		nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a server may load a new key after its client does
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // a login sent after its caller gave up is useless
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(2),
	}
	conn, err := nats.Connect(url, append(standard, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// WithRequestID returns ctx with an id under which the service logs the requests that Call sends
// with it: 1 to 64 letters, digits and "-_.". An invalid id is replaced by a generated one. A
// request without an id gets a generated one too.
func WithRequestID(ctx context.Context, id string) context.Context { return requestid.With(ctx, id) }

// bearer is a request made on behalf of a user.
type bearer interface{ Credential() *string }

// Call sends a request for op and waits for its reply, at most Timeout. It returns the
// *auth.Error that the handler returned, or auth.ErrUnavailable if no reply arrived: then
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

// refusal returns the error of a reply. A body that is not an auth.Error becomes an internal error.
func refusal(reply *nats.Msg) error {
	var e auth.Error
	if err := json.Unmarshal(reply.Data, &e); err != nil || e.Code == "" {
		return errors.New("refused with " + reply.Header.Get(micro.ErrorCodeHeader) + " and no code")
	}
	return &e
}
