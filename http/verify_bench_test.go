package http

import (
	"log/slog"
	"strings"
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
	handler := e.serve(e.app.Handler())
	b.ReportAllocs()
	for b.Loop() {
		c.Response.Reset()
		handler(&c)
		if c.Response.StatusCode() != 200 {
			b.Fatal(c.Response.String())
		}
	}
}

// What the check of its head adds.
func BenchmarkFramer(b *testing.B) {
	head := []byte("GET /verify HTTP/1.1\r\nHost: auth.example.com\r\nAuthorization: Bearer " + strings.Repeat("a", 500) +
		"\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Host: app.example.com\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1\r\n" +
		"Origin: https://app.example.com\r\nSec-Fetch-Site: same-origin\r\nCookie: a=" + strings.Repeat("b", 200) + "\r\n\r\n")
	var f framer
	b.ReportAllocs()
	for b.Loop() {
		if n, err := f.check(head); err != nil || n != len(head) || f.phase != between {
			b.Fatal(n, err, f.phase)
		}
	}
}
