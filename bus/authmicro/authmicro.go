// Package authmicro guards the endpoints of a NATS service (package micro) with access
// tokens, verified in the process. The message header Authorization carries the token, as in the
// requests of bus.Call:
//
//	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: …, Audience: …})
//	svc.AddEndpoint("orders", authmicro.Require(v, func(r micro.Request, who auth.VerifyReply) { … }, "orders:read"))
package authmicro

import (
	"context"

	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
)

// Require calls next for a request with a valid token that has all the scopes, and passes the
// content of the token. It refuses any other request with bus.Refuse.
func Require(v *bus.Verifier, next func(r micro.Request, who auth.VerifyReply), scopes ...string) micro.Handler {
	return micro.HandlerFunc(func(r micro.Request) {
		ctx, cancel := context.WithTimeout(context.Background(), bus.Timeout)
		defer cancel()
		who, err := v.VerifyBearer(ctx, r.Headers().Values("Authorization"), scopes...)
		if err != nil {
			_ = bus.Refuse(r, err) // fails only without a connection, and then the caller's wait ends too
			return
		}
		next(r, who)
	})
}
