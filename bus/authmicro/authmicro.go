// Package authmicro guards the endpoints of a NATS service (package micro) with access
// tokens, verified in the process. The token travels as in the requests of bus.Call, in the
// message header Authorization:
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

// Require gives those requests to next that bear a valid token with all the scopes, together
// with what the token says. Others are refused as bus.Refuse does.
func Require(v *bus.Verifier, next func(r micro.Request, who auth.VerifyReply), scopes ...string) micro.Handler {
	return micro.HandlerFunc(func(r micro.Request) {
		ctx, cancel := context.WithTimeout(context.Background(), bus.Timeout)
		defer cancel()
		who, err := v.VerifyBearer(ctx, r.Headers().Values("Authorization"), scopes...)
		if err != nil {
			_ = bus.Refuse(r, err) // that fails only without a connection, and then the caller's wait ends too
			return
		}
		next(r, who)
	})
}
