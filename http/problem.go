package http

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
)

// problem is an error as HTTP tells it (RFC 9457): code and message as on the bus.
type problem struct {
	Type    string       `json:"type"`
	Title   string       `json:"title"`
	Status  int          `json:"status"`
	Detail  string       `json:"detail"`
	Code    auth.Code    `json:"code"`
	Message string       `json:"message"`
	Fields  []auth.Field `json:"fields,omitempty"`
}

// problemType begins the type of every problem; the code ends it.
const problemType = "urn:zyotra:auth:problem:"

// fail is the one place where an error becomes an answer, and is logged if it is ours.
func (e *Edge) fail(c *fiber.Ctx, err error) error {
	secure(c) // not every error has come past guard
	public := public(err)
	status := public.Code.Status()
	switch public.Code {
	case auth.CodeInternal:
		e.Log.Error("request failed", "method", c.Method(), "path", c.Path(), "err", err)
	case auth.CodeUnavailable:
		e.Log.Warn("request failed", "method", c.Method(), "path", c.Path(), "err", err)
	}
	switch status {
	case http.StatusUnauthorized:
		c.Set(fiber.HeaderWWWAuthenticate, challenge(public.Code))
	case http.StatusServiceUnavailable:
		c.Set(fiber.HeaderRetryAfter, "1")
	}
	body, err := json.Marshal(problem{
		Type: problemType + string(public.Code), Title: http.StatusText(status), Status: status,
		Detail: public.Message, Code: public.Code, Message: public.Message, Fields: public.Fields,
	})
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, "application/problem+json")
	return c.Status(status).Send(body)
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

// challenge says how to authenticate (RFC 6750 §3): no error where no token was presented.
func challenge(code auth.Code) string {
	switch code {
	case auth.CodeInvalidToken, auth.CodeTokenExpired, auth.CodeTokenRevoked:
		return `Bearer realm="zyotra", error="invalid_token"`
	}
	return `Bearer realm="zyotra"`
}

// secure sets the headers of every answer. Nothing here is for frames, scripts or caches.
func secure(c *fiber.Ctx) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; frame-ancestors 'none'")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000; includeSubDomains")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
}
