// Package http is the edge: the service for browsers and gateways, as HTTP.
//
// It is a client of the bus like any other. Each route reads a request as strictly as the
// bus does, asks the subject of the same meaning and translates the reply; a refusal
// becomes a problem (RFC 9457) with the same code. The edge holds no rule of accounts or
// sessions and no database, and so it runs as well in a process of its own.
//
// What is HTTP's alone is decided here: where a token is read from (credentials.go), which
// pages may send one in a cookie and read the answer (origin.go), whom a request comes from if
// there are proxies (client.go), how it is called in logs and traces (request.go), and the pages
// that links in mails lead to (confirm.go).
package http

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/nats-io/nats.go"

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
	maxHeaderBytes = 16 << 10
	// maxSkippedBytes is the longest body that is taken off the wire. A longer one than may
	// be read gets its answer that way: a connection closed on unread bytes loses it.
	maxSkippedBytes = 4 * auth.MaxRequestBytes
	drainTimeout    = 30 * time.Second // for requests under way when the edge stops
	keysMaxAge      = "public, max-age=300"
)

// Edge serves HTTP on a listener. Make it with New.
type Edge struct {
	Config
	app   *fiber.App
	conn  *nats.Conn
	watch watch
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

	// Observe, if it is set, is asked for what watches the requests of a route, as in "GET" and
	// "/sessions/:id". Method and route are "none" for those of no route.
	Observe func(method, route string) Observer
}

// New makes an edge that asks over conn.
func New(conn *nats.Conn, config Config) *Edge {
	e := &Edge{Config: config, conn: conn}
	e.app = fiber.New(fiber.Config{
		DisableStartupMessage: true,
		Immutable:             true, // what a handler keeps outlives fasthttp's buffers
		StrictRouting:         true,
		CaseSensitive:         true,
		BodyLimit:             maxSkippedBytes,
		ReadBufferSize:        maxHeaderBytes,
		ReadTimeout:           readTimeout,
		WriteTimeout:          writeTimeout,
		IdleTimeout:           idleTimeout,
		ErrorHandler:          e.fail,
		JSONEncoder:           strictjson.Marshal,
	})
	e.app.Server().CloseOnShutdown = true // tells kept-alive clients to go elsewhere
	e.app.Server().Handler = e.knownMethods(e.app.Server().Handler)
	e.app.Use(e.observed)
	if trace.On() {
		e.app.Use(e.traced)
	}
	e.app.Use(e.guard)
	if len(e.Origins) > 0 {
		e.app.Use(e.shareWithOrigins())
	}

	e.app.Post("/register", e.register)
	e.app.Post("/login", e.login)
	e.app.Post("/login/code", e.loginByCode)
	e.app.Post("/refresh", e.refresh)
	e.app.Post("/logout", e.logout)
	e.app.Get("/me", forward(e, auth.AccountGet, fiber.StatusOK))
	e.app.Patch("/me", forward(e, auth.AccountUpdate, fiber.StatusOK))
	e.app.Delete("/me", e.deleteAccount)
	e.app.Post("/me/password", e.changePassword)
	e.app.Post("/me/email", forward(e, auth.EmailChange, fiber.StatusAccepted))
	e.app.Post("/email/verify", e.verifyEmail)
	e.app.Post("/email/resend", forward(e, auth.EmailResend, fiber.StatusAccepted))
	e.app.Post("/email/confirm", forward(e, auth.EmailConfirm, fiber.StatusNoContent))
	e.app.Post("/email/undo", forward(e, auth.EmailUndo, fiber.StatusNoContent))
	e.app.Post("/password/forgot", forward(e, auth.PasswordForgot, fiber.StatusAccepted))
	e.app.Post("/password/reset", forward(e, auth.PasswordReset, fiber.StatusNoContent))
	e.app.Post("/not-me", forward(e, auth.NotMe, fiber.StatusNoContent))
	e.app.Get("/sessions", e.listSessions)
	e.app.Delete("/sessions", forward(e, auth.SessionsRevokeOthers, fiber.StatusNoContent))
	e.app.Delete("/sessions/:id", e.endSession)
	e.app.Get("/verify", e.verify)
	e.app.Get("/.well-known/jwks.json", e.keys)
	e.app.Get("/healthz", e.healthy)
	e.app.Get("/readyz", e.ready)
	e.confirm()
	e.describe()
	if e.Observe != nil {
		e.observe()
	}
	return e
}

// Run serves until ctx ends. Then it takes no more connections, finishes the requests it
// has, and returns nil; an error if they take too long or the listener fails.
func (e *Edge) Run(ctx context.Context, listener net.Listener) error {
	stopped := make(chan error, 1)
	go func() { stopped <- e.app.Listener(listener) }()
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
	listener.Close() // a server that had not begun to serve knows nothing of it yet
	<-stopped
	return nil
}
