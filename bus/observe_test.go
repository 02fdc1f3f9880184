package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

// Each request is heard of once, whether it is read, refused or not answered at all.
func TestEveryRequestIsObserved(t *testing.T) {
	t.Parallel()
	b := broker(t)
	heard := make(chan string)
	serve(t, b, io.Discard, func(s *bus.Server) error {
		s.Observe = func(subject string) bus.Observer {
			return func(code auth.Code, took time.Duration) { heard <- fmt.Sprintf("%s %q %v", subject, code, took > 0) }
		}
		fn := func(_ context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
			if req.Password == "" {
				return auth.LoginReply{}, auth.ErrInvalidCredentials
			}
			panic("a bug")
		}
		return errors.Join(bus.Handle(s, auth.Op[auth.LoginRequest, auth.LoginReply](auth.Refresh), fn), bus.HandleAsync(s, auth.Login, fn),
			bus.Handle(s, auth.Keys, func(context.Context, auth.KeysRequest) (auth.JWKS, error) { return auth.JWKS{}, nil }))
	})
	conn := connect(t, b, embedded.App)
	for _, is := range []struct{ subject, reply, data, want string }{
		{"auth.keys", "_INBOX.x", `{}`, `auth.keys "" true`},
		{"auth.refresh", "_INBOX.x", `{}`, `auth.refresh "invalid_credentials" true`},
		{"auth.refresh", "_INBOX.x", `no JSON`, `auth.refresh "malformed_request" true`},
		{"auth.refresh", "_INBOX.x", `{"password":"x"}`, `auth.refresh "internal" true`},
		{"auth.refresh", "elsewhere", `{}`, `auth.refresh "malformed_request" false`},
		{"auth.login", "_INBOX.x", `{}`, `auth.login "invalid_credentials" true`},
		{"auth.login", "_INBOX.x", `no JSON`, `auth.login "malformed_request" true`},
		{"auth.login", "elsewhere", `{}`, `auth.login "malformed_request" false`},
	} {
		if err := conn.PublishMsg(&nats.Msg{Subject: is.subject, Reply: is.reply, Data: []byte(is.data)}); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != is.want {
			t.Errorf("%s %s: heard %s, want %s", is.subject, is.data, got, is.want)
		}
	}
}
