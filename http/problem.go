package http

import (
	"errors"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/problem"
)

// fail is the one place where an error becomes an answer, and is logged if it is ours.
func (e *Edge) fail(c *fiber.Ctx, err error) error {
	secure(c) // not every error has come past guard
	public := public(err)
	switch public.Code {
	case auth.CodeInternal:
		e.Log.Error("request failed", "method", c.Method(), "path", c.Path(), "err", err)
	case auth.CodeUnavailable:
		e.Log.Warn("request failed", "method", c.Method(), "path", c.Path(), "err", err)
	}
	answer := problem.Of(public)
	for name, value := range answer.Header {
		c.Set(name, value)
	}
	return c.Status(answer.Status).Send(answer.Body)
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

// secure sets the headers of every answer. Nothing here is for frames, scripts or caches.
func secure(c *fiber.Ctx) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; frame-ancestors 'none'")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000; includeSubDomains")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
}
