package http

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
)

// preflightMaxAge is how long browsers may remember what an origin may do, in seconds.
const preflightMaxAge = "600"

// proveOrigin returns auth.ErrForbidden unless a change that is made with a cookie comes
// from a page that may make it: one of the edge itself or of the configured origins. Browsers
// say so in Sec-Fetch-Site (Fetch Metadata §2.3), which they send over TLS and to localhost,
// and in Origin (RFC 6454 §7), and no page can change either. Who sends neither is no
// browser, and has no reason to use cookies.
func (e *Edge) proveOrigin(c *fiber.Ctx) error {
	if c.Get("Sec-Fetch-Site") == "same-origin" || e.trusts(c.Get(fiber.HeaderOrigin)) {
		return nil
	}
	return auth.ErrForbidden.With(auth.Field{Field: fiber.HeaderOrigin, Reason: "not_allowed"})
}

// trusts tells whether pages of an origin may use cookies here: it is a matter of letters,
// so neither "null" nor a neighbour of a name in the list is ever meant.
func (e *Edge) trusts(origin string) bool {
	return origin != "" && (origin == e.PublicOrigin || slices.Contains(e.Origins, origin))
}

// What the pages of the configured origins may send and read. The trace headers are those that
// OpenTelemetry and Sentry add to each request of a page.
var (
	sharedMethods = strings.Join([]string{fiber.MethodGet, fiber.MethodPost, fiber.MethodPatch, fiber.MethodDelete}, ",")
	sharedHeaders = strings.Join([]string{fiber.HeaderAuthorization, fiber.HeaderContentType, "traceparent", "tracestate", "baggage", "sentry-trace"}, ",")
	shownHeaders  = strings.Join([]string{fiber.HeaderRetryAfter, fiber.HeaderWWWAuthenticate, headerRequestID}, ",")
)

// shareWithOrigins lets pages of the configured origins send requests and read the answers, with
// credentials (Fetch §3.2). It answers preflights.
func (e *Edge) shareWithOrigins(c *fiber.Ctx) error {
	origin := c.Get(fiber.HeaderOrigin)
	if c.Method() != fiber.MethodOptions || origin == "" || c.Get(fiber.HeaderAccessControlRequestMethod) == "" {
		e.share(c, origin)
		return c.Next()
	}
	c.Vary(fiber.HeaderAccessControlRequestMethod, fiber.HeaderAccessControlRequestHeaders)
	if e.share(c, origin) {
		c.Set(fiber.HeaderAccessControlAllowMethods, sharedMethods)
		c.Set(fiber.HeaderAccessControlAllowHeaders, sharedHeaders)
		c.Set(fiber.HeaderAccessControlMaxAge, preflightMaxAge)
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// share lets pages of an origin read the answer, and reports whether they may.
func (e *Edge) share(c *fiber.Ctx, origin string) bool {
	c.Vary(fiber.HeaderOrigin)
	if !slices.Contains(e.Origins, origin) {
		return false
	}
	c.Set(fiber.HeaderAccessControlAllowOrigin, origin)
	c.Set(fiber.HeaderAccessControlAllowCredentials, "true")
	c.Set(fiber.HeaderAccessControlExposeHeaders, shownHeaders)
	return true
}
