// Package authhttp guards net/http handlers with access tokens, verified in the process:
//
//	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: …, Audience: …})
//	mux.Handle("GET /orders", authhttp.Require(v, "orders:read")(listOrders))
//
// and in listOrders:
//
//	who := authhttp.Identity(r.Context())
package authhttp

import (
	"context"
	"net/http"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/problem"
)

type key struct{}

// Require passes a request on if its header Authorization contains a valid token that has all the
// scopes. It answers any other request with a problem (RFC 9457): 401, 403, or 503 if v cannot vouch.
func Require(v *bus.Verifier, scopes ...string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, err := v.VerifyBearer(r.Context(), r.Header.Values("Authorization"), scopes...)
			if err != nil {
				refuse(w, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, who)))
		})
	}
}

// Identity returns the content of the request's token. It panics if the request did not pass
// Require, so that no handler continues as user 0.
func Identity(ctx context.Context) auth.VerifyReply { return ctx.Value(key{}).(auth.VerifyReply) }

func refuse(w http.ResponseWriter, err error) {
	p := problem.Of(err)
	for name, value := range p.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body) // the client may have gone
}
