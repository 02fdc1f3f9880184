package http

import (
	"log/slog"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/testauthority"
)

// What GET /verify costs but for the connection, with a token that was seen before.
func BenchmarkVerify(b *testing.B) {
	a := testauthority.Start(b)
	v := a.Verifier(b, bus.VerifierConfig{})
	e := New(nil, Config{Verifier: v, Log: slog.New(slog.DiscardHandler)})
	var c fasthttp.RequestCtx
	c.Request.SetRequestURI("/verify")
	c.Request.Header.Set("Authorization", "Bearer "+a.Sign(b, "one", "session", time.Hour))
	handler := e.knownMethods(e.app.Handler())
	b.ReportAllocs()
	for b.Loop() {
		c.Response.Reset()
		handler(&c)
		if c.Response.StatusCode() != 200 {
			b.Fatal(c.Response.String())
		}
	}
}
