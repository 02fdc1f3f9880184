package http

import (
	"fmt"
	"runtime/debug"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/requestid"
)

// guard is around every route: it sets the headers that every answer has, bounds the body,
// and a panic ends the request, not the process.
func (e *Edge) guard(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	secure(c)
	e.setRequestID(c)
	if len(c.Request().Body()) > auth.MaxRequestBytes {
		return auth.ErrPayloadTooLarge
	}
	return c.Next()
}

// secure sets the headers of every answer. Nothing here is for frames, scripts or caches.
func secure(c *fiber.Ctx) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; frame-ancestors 'none'")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000; includeSubDomains")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
}

// headerRequestID names a request, to whoever asks and, by a configured proxy, to us.
const headerRequestID = "X-Request-Id"

// setRequestID gives a request its id, which is kept where it goes anyway: in the answer. A stranger's own
// is not taken, so that nobody writes theirs into our log.
func (e *Edge) setRequestID(c *fiber.Ctx) {
	if given := c.Request().Header.PeekAll(headerRequestID); len(given) == 1 && e.isProxy(peer(c)) && requestid.IsSane(given[0]) {
		c.Response().Header.SetBytesV(headerRequestID, given[0])
		return
	}
	id := requestid.New()
	c.Response().Header.SetBytesV(headerRequestID, id[:])
}
