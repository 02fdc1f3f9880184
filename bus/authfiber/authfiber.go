// Package authfiber guards Fiber handlers with access tokens, verified in the process:
//
//	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: …, Audience: …})
//	app.Get("/orders", authfiber.Require(v, "orders:read"), listOrders)
//
// and in listOrders:
//
//	who := authfiber.Identity(c)
package authfiber

import (
	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/problem"
)

type key struct{}

// Require passes a request on if its header Authorization contains a valid token that has all the
// scopes. It answers any other request with a problem (RFC 9457): 401, 403, or 503 if v cannot vouch.
func Require(v *bus.Verifier, scopes ...string) fiber.Handler {
	return func(c *fiber.Ctx) error {
		var headers []string
		for _, h := range c.Request().Header.PeekAll(fiber.HeaderAuthorization) {
			headers = append(headers, string(h))
		}
		who, err := v.VerifyBearer(c.UserContext(), headers, scopes...)
		if err != nil {
			return refuse(c, err)
		}
		c.Locals(key{}, who)
		return c.Next()
	}
}

// Identity returns the content of the request's token. It panics if the request did not pass
// Require, so that no handler continues as user 0.
func Identity(c *fiber.Ctx) auth.VerifyReply { return c.Locals(key{}).(auth.VerifyReply) }

func refuse(c *fiber.Ctx, err error) error {
	p := problem.Of(err)
	for name, value := range p.Header {
		c.Set(name, value)
	}
	return c.Status(p.Status).Send(p.Body)
}
