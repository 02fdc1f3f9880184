package authmicro_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/authmicro"
	"github.com/zyotra/auth/internal/testauthority"
)

func Example() {
	conn, err := bus.Connect("nats://127.0.0.1:4222")
	if err != nil {
		log.Fatal(err)
	}
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra"})
	if err != nil {
		log.Fatal(err)
	}
	svc, err := micro.AddService(conn, micro.Config{Name: "orders", Version: "1.0.0"})
	if err != nil {
		log.Fatal(err)
	}
	list := func(r micro.Request, who auth.VerifyReply) {
		if err := r.Respond(fmt.Append(nil, "orders of user ", who.UserID)); err != nil {
			log.Print(err)
		}
	}
	if err := svc.AddEndpoint("orders", authmicro.Require(v, list, "orders:read")); err != nil {
		log.Fatal(err)
	}
	<-context.Background().Done() // serve for ever
}

type empty struct{}

func TestRequire(t *testing.T) {
	a := testauthority.Start(t)
	tries := a.Tries(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	conn := a.Connect(t)
	serving := a.Connect(t)
	svc, err := micro.AddService(serving, micro.Config{Name: "things", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	next := func(r micro.Request, who auth.VerifyReply) {
		if err := r.Respond(fmt.Append(nil, who.UserID)); err != nil {
			t.Error(err)
		}
	}
	for _, scope := range []string{"read", "write"} {
		if err := svc.AddEndpoint(scope, authmicro.Require(v, next, scope), micro.WithEndpointSubject("things."+scope)); err != nil {
			t.Fatal(err)
		}
	}
	if err := serving.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, try := range tries {
		m := nats.NewMsg("things." + try.Scope)
		m.Header["Authorization"] = try.Authorization
		reply, err := conn.RequestMsgWithContext(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		refused := reply.Header.Get(micro.ErrorCodeHeader) != ""
		if try.Refused == nil {
			if refused || string(reply.Data) != "7" {
				t.Errorf("%v: %s", try, reply.Data)
			}
			continue
		}
		if want := fmt.Sprintf(`"code":"%s"`, try.Refused.Code); !refused || !strings.Contains(string(reply.Data), want) {
			t.Errorf("%v: %s", try, reply.Data)
		}
	}
	// Whoever asks by bus.Call gets the very error.
	_, err = bus.Call(t.Context(), conn, auth.Op[empty, empty]("things.read"), empty{})
	if !errors.Is(err, auth.ErrUnauthenticated) {
		t.Error(err)
	}
}
