package http

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/cors"

	"github.com/zyotra/auth"
)

// preflightMaxAge is how long browsers may remember what an origin may do, in seconds.
const preflightMaxAge = 600

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

// shareWithOrigins lets pages of the configured origins read answers, with credentials
// (Fetch §3.2).
func (e *Edge) shareWithOrigins() fiber.Handler {
	return cors.New(cors.Config{
		AllowOriginsFunc: func(origin string) bool { return slices.Contains(e.Origins, origin) },
		AllowCredentials: true,
		AllowMethods:     strings.Join([]string{fiber.MethodGet, fiber.MethodPost, fiber.MethodPatch, fiber.MethodDelete}, ","),
		AllowHeaders:     strings.Join([]string{fiber.HeaderAuthorization, fiber.HeaderContentType}, ","),
		ExposeHeaders:    strings.Join([]string{fiber.HeaderRetryAfter, fiber.HeaderWWWAuthenticate, headerRequestID}, ","),
		MaxAge:           preflightMaxAge,
	})
}
