package http

import (
	"context"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/trace"
)

// context is what is asked for the request within: it has its id and is part of its trace.
func (e *Edge) context(c *fiber.Ctx) context.Context {
	return e.contextIn(c, new(requestid.Context))
}

// contextIn is context where the caller has what it is made of.
func (e *Edge) contextIn(c *fiber.Ctx, ctx *requestid.Context) context.Context {
	parent, traced := c.Locals(spanKey{}).(context.Context)
	if !traced {
		parent = trace.Within(context.Background(), e.parent(c))
	}
	requestid.Name(ctx, parent, c.Response().Header.Peek(headerRequestID))
	return ctx
}

// spanKey is where traced keeps the context of its span.
type spanKey struct{}

// parent is the trace that a request says it is part of, if a configured proxy sent it. Strangers
// could have all of theirs recorded, and ours found under ids of their choice.
func (e *Edge) parent(c *fiber.Ctx) string {
	if !e.isProxy(peer(c)) {
		return ""
	}
	return c.Get(trace.Header)
}

// traced is around every route where traces are recorded: the span is the whole request. Probes,
// which come every few seconds, have none.
func (e *Edge) traced(c *fiber.Ctx) error {
	if path := c.Path(); path == "/healthz" || path == "/readyz" {
		return c.Next()
	}
	parent := e.parent(c)
	ctx, span := trace.Start(trace.Within(context.Background(), parent), trace.Server, c.Method())
	if parent == "" {
		span.Link(c.Get(trace.Header))
	}
	c.Locals(spanKey{}, ctx)
	err := c.Next()
	span.Text("http.request.method", c.Method())
	if route := c.Route().Path; route != "/" { // "/" is this very function: no route was found
		span.Rename(c.Method() + " " + route)
		span.Text("http.route", route)
	}
	if err == nil {
		span.Number("http.response.status_code", c.Response().StatusCode())
		span.End(nil)
		return nil
	}
	refused := public(err)
	span.Number("http.response.status_code", refused.Code.Status())
	span.End(refused)
	return err
}
