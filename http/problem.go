package http

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/problem"
)

// fail is the one place where an error becomes an answer, and is logged if it is ours.
func (e *Edge) fail(c *fiber.Ctx, err error) error {
	secure(c) // not every error has come past guard
	if len(c.Response().Header.Peek(headerRequestID)) == 0 {
		e.setRequestID(c)
	}
	public := public(err)
	e.logError(c, public.Code, err)
	answer := problem.Of(public)
	for name, value := range answer.Header {
		c.Set(name, value)
	}
	return c.Status(answer.Status).Send(answer.Body)
}

// logError logs an error. The route's pattern is logged, as a path may be anything.
func (e *Edge) logError(c *fiber.Ctx, code auth.Code, err error) {
	level, what := slog.LevelDebug, "request refused"
	switch code {
	case auth.CodeInternal:
		level, what = slog.LevelError, "request failed"
	case auth.CodeUnavailable:
		level, what = slog.LevelWarn, "request failed"
	}
	ctx := e.context(c)
	if e.Log.Enabled(ctx, level) {
		e.Log.Log(ctx, level, what, "method", c.Method(), "route", c.Route().Path, "code", code, "err", err)
	}
}

// public is auth.Public, for Fiber's own errors too.
func public(err error) *auth.Error {
	var known *fiber.Error
	if !errors.As(err, &known) {
		return auth.Public(err)
	}
	switch known.Code {
	case http.StatusNotFound:
		return auth.ErrNotFound
	case http.StatusMethodNotAllowed:
		return auth.ErrMethodNotAllowed
	case http.StatusRequestEntityTooLarge:
		return auth.ErrPayloadTooLarge
	case http.StatusInternalServerError:
		return auth.ErrInternal
	}
	return auth.ErrMalformed
}
