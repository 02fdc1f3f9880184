// Package http is the edge: the service for browsers and gateways, as HTTP.
//
// It is a client of the bus like any other. Each route reads a request as strictly as the
// bus does, asks the subject of the same meaning and translates the reply; a refusal
// becomes a problem (RFC 9457) with the same code. The edge holds no rule of accounts or
// sessions and no database, and so it runs as well in a process of its own.
//
// routes.go is the table of routes. forward.go answers a route by its subject; session.go, email.go,
// verify.go and health.go hold the routes that do more, and middleware.go what is around all of them.
//
// The package decides what only HTTP has: how requests are framed (framing.go), how many
// connections there are (conn.go), which queries a route takes (query.go), where a token is read from
// (credentials.go), which pages may send one in a cookie and read the answer (origin.go), which
// client a request comes from if there are proxies (client.go), the request's name in logs and
// traces (request.go), and the pages that links in mails lead to (confirm.go).
package http

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/nats-io/nats.go"
	"github.com/valyala/fasthttp"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/strictjson"
	"github.com/zyotra/auth/internal/trace"
)

// Bounds of a connection. A reply may take as long as the bus does.
const (
	readTimeout    = 10 * time.Second // for a whole request, so that slow senders end
	writeTimeout   = bus.Timeout + 5*time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10 // of the request line and all fields together
	readBufferSize = 18 << 10 // above maxHeaderBytes, so that the framer refuses what is too large
	// maxSkippedBytes is the longest body that is taken off the wire. A longer one than may
	// be read gets its answer that way: a connection closed on unread bytes loses it.
	maxSkippedBytes = 4 * auth.MaxRequestBytes
	drainTimeout    = 30 * time.Second // for requests under way when the edge stops
	keysMaxAge      = "public, max-age=300"
)

// Edge serves HTTP on a listener. Make it with New.
type Edge struct {
	Config
	app    *fiber.App
	conn   *nats.Conn
	watch  watch
	logged atomic.Int64 // time of the latest log line about headers too large, in Unix seconds
}

// Config says whom the edge trusts. The zero value trusts nobody; Verifier and Log are
// required.
type Config struct {
	Verifier *bus.Verifier
	// PublicOrigin is the edge's own as browsers know it, as in "https://auth.example.com".
	PublicOrigin string
	// PasswordMinLength is what the pages that ask for a password say about its length, in code
	// points; 0 is 8. The service decides.
	PasswordMinLength int
	// Origins are the pages that may use a session in cookies and read the answers.
	Origins []string
	// Proxies may say whom they ask for, in X-Forwarded-For, and name requests and traces.
	Proxies []netip.Prefix
	Log     *slog.Logger
	// MaxConnections is the most connections at once; 0 is DefaultMaxConnections. More close those
	// that wait for their clients.
	MaxConnections int
	// Documents shows the documents of the service and the page to read them on this listener.
	Documents bool

	// Observe, if it is set, is asked for what watches the requests of a route, as in "GET" and
	// "/sessions/:id". Method and route are "none" for those of no route.
	Observe func(method, route string) Observer
}

// DefaultMaxConnections is the most connections at once if nothing else is set.
const DefaultMaxConnections = fasthttp.DefaultConcurrency - 1

// New makes an edge that asks over conn.
func New(conn *nats.Conn, config Config) *Edge {
	e := &Edge{Config: config, conn: conn}
	e.app = fiber.New(fiber.Config{
		DisableStartupMessage: true,
		Immutable:             true, // what a handler keeps outlives fasthttp's buffers
		StrictRouting:         true,
		CaseSensitive:         true,
		BodyLimit:             maxSkippedBytes,
		ReadBufferSize:        readBufferSize,
		ReadTimeout:           readTimeout,
		WriteTimeout:          writeTimeout,
		IdleTimeout:           idleTimeout,
		ErrorHandler:          e.fail,
		JSONEncoder:           strictjson.Marshal,
		// A form is not read, and its files are not written to disk.
		DisablePreParseMultipartForm: true,
	})
	server := e.app.Server()
	server.CloseOnShutdown = true // kept-alive clients connect elsewhere
	server.Handler = e.serve(server.Handler)
	server.ErrorHandler = e.refuseUnread
	e.app.Use(e.observed)
	if trace.On() {
		e.app.Use(e.traced)
	}
	e.app.Use(e.guard)
	if len(e.Origins) > 0 {
		e.app.Use(e.shareWithOrigins)
	}

	e.addRoutes()
	if e.Observe != nil {
		e.observe()
	}
	return e
}

// Run serves until ctx ends. Then it takes no more connections, finishes the requests it
// has, and returns nil; an error if they take too long or the listener fails.
func (e *Edge) Run(ctx context.Context, listener net.Listener) error {
	stopped := make(chan error, 1)
	limited := newListener(listener, cmp.Or(e.MaxConnections, DefaultMaxConnections), e.Log)
	go func() { stopped <- e.app.Listener(limited) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := e.app.ShutdownWithContext(drain); err != nil {
		return fmt.Errorf("drain HTTP: %w", err)
	}
	limited.Close() // a server that had not begun to serve knows nothing of it yet
	<-stopped
	return nil
}
