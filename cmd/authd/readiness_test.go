package main

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
)

// signUp makes an account and a session and returns its refresh token.
func signUp(t *testing.T, a *instance) string {
	t.Helper()
	return testauthd.SignUp(t, a.at())
}

func TestReadinessFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	a := start(t, withPostgres(pg.URL)...)
	conn := asEdge(t, a)
	const away = `[{"field":"database","reason":"away"}]`
	alive := func() { t.Helper(); a.get(t, "/healthz", "").answered(t, 200, `{"status":"alive"}`) }

	signUp(t, a)
	a.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	check(t, pg.Stop())
	alive()
	e := a.get(t, "/readyz", "")
	e.refused(t, 503, "unavailable", away)
	golden(t, "http-unavailable-database", e)
	e = ask(t, conn, "auth.health", nil, "")
	e.refused(t, 503, "unavailable", away)
	golden(t, "nats-unavailable-database", e)
	alive()
	check(t, pg.Restart(context.WithoutCancel(t.Context())))
	until(t, "ready again", func() bool { alive(); return a.get(t, "/readyz", "").Answer.Status == 200 })
	a.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
}

func TestReadinessOfTheEdgeFollowsTheHandlers(t *testing.T) {
	t.Parallel()
	nats := "--nats-url=" + externalNATS(t, withJetStream(t))
	handlers, edge := start(t, "serve", "--handlers", nats), start(t, "serve", "--edge", nats)
	awayAfter(t, edge, handlers, syscall.SIGTERM)
	golden(t, "http-unavailable-bus", edge.get(t, "/readyz", ""))
	edge.post(t, "/login", credentials).refused(t, 503, "unavailable", "")

	launch(t, handlers.dir, "serve", "--handlers", nats).line(t, `"msg":"ready"`)
	edge.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	edge.post(t, "/login", credentials).refused(t, 401, "invalid_credentials", "")
}

func TestReadinessOfTheEdgeFollowsTheBus(t *testing.T) {
	t.Parallel()
	edge, handlers := startApart(t)
	awayAfter(t, edge, handlers, syscall.SIGKILL)
}

// awayAfter ends the process of the handlers and wants the edge to live, but not to be ready.
func awayAfter(t *testing.T, edge, handlers *instance, signal os.Signal) {
	t.Helper()
	edge.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	check(t, handlers.signal(signal))
	handlers.wait(t, patience)
	edge.get(t, "/readyz", "").refused(t, 503, "unavailable", `[{"field":"bus","reason":"away"}]`)
	edge.get(t, "/healthz", "").answered(t, 200, `{"status":"alive"}`)
}
