package bus_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

// askPlace asks for a place to have a login answered, as a busy instance does, until one is offered.
func askPlace(t *testing.T, conn *nats.Conn) string {
	t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(time.Millisecond) {
		reply, err := conn.Request("auth.place.spare.login", nil, patience)
		if err == nil && len(reply.Data) > 0 {
			return string(reply.Data)
		}
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
	}
	t.Fatal("nobody offers a place")
	return ""
}

// An instance that is being stopped answers what it has promised to.
func TestStoppingKeepsWhatWasPromised(t *testing.T) {
	t.Parallel()
	b := broker(t)
	stop := serveQueued(t, b, func(context.Context) error { return nil })
	other := connect(t, b, embedded.Service)
	place := askPlace(t, other)
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for { // until it offers nothing more
		reply, err := other.Request("auth.place.spare.login", nil, patience)
		if errors.Is(err, nats.ErrNoResponders) || err == nil && len(reply.Data) == 0 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Fatalf("a second place was promised: %s", reply.Data)
	}
	reply, err := other.Request(place, []byte(`{"email":"ada@example.com","password":"x"}`), patience)
	if err != nil || reply.Header.Get("Nats-Service-Error") != "" {
		t.Errorf("%+v, %v", reply, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A place that nobody uses is free again after a moment, and a stop does not wait longer.
func TestAnUnusedPlaceIsGivenUp(t *testing.T) {
	t.Parallel()
	b := broker(t)
	stop := serveQueued(t, b, func(context.Context) error { return nil })
	other := connect(t, b, embedded.Service)
	if first, second := askPlace(t, other), askPlace(t, other); first == second {
		t.Errorf("%q is promised twice", first)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Who is asked for a place and says nothing is not waited for: nothing was sent there yet.
func TestWhoPromisesNothingIsPassedBy(t *testing.T) {
	t.Parallel()
	b := broker(t)
	release := make(chan struct{})
	serveQueued(t, b, func(context.Context) error { <-release; return nil })
	dead := connect(t, b, embedded.Service)
	asked := make(chan struct{}, 8)
	_, err := dead.QueueSubscribe("auth.place.spare.login", "spare", func(*nats.Msg) { asked <- struct{}{} })
	if err := errors.Join(err, dead.Flush()); err != nil {
		t.Fatal(err)
	}
	app := connect(t, b, embedded.App)
	answers := make(chan error, 2)
	for range cap(answers) {
		go func() {
			_, err := bus.Call(context.Background(), app, auth.Login, auth.LoginRequest{})
			answers <- err
		}()
	}
	<-asked
	close(release)
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// An instance that cannot carry requests out has another do it, also if one of those who are
// asked says nothing.
func TestWhoIsNotAbleFindsOneThatIs(t *testing.T) {
	t.Parallel()
	b := broker(t)
	handle := func(able error, id auth.UserID) func(*bus.Server) error {
		return func(s *bus.Server) error {
			s.Healthy = func(context.Context) error { return able }
			return bus.Handle(s, auth.Verify, func(context.Context, auth.VerifyRequest) (auth.VerifyReply, error) {
				return auth.VerifyReply{Principal: auth.Principal{UserID: id}}, able
			})
		}
	}
	serveOn(t, b, connect(t, b, embedded.Service), io.Discard, handle(nil, 1))
	var log lockedBuffer
	serveOn(t, b, connect(t, b, embedded.Service), &log, handle(auth.ErrUnavailable, 2))
	for late := time.Now().Add(patience); !strings.Contains(log.String(), "given to other instances"); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal(log.String())
		}
	}
	dead := connect(t, b, embedded.Service)
	_, err := dead.QueueSubscribe("auth.place.away.verify", "spare", func(*nats.Msg) {})
	if err := errors.Join(err, dead.Flush()); err != nil {
		t.Fatal(err)
	}
	app := connect(t, b, embedded.App)
	for range 16 { // by whom, NATS decides
		if reply, err := bus.Call(t.Context(), app, auth.Verify, auth.VerifyRequest{}); err != nil || reply.UserID != 1 {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
}
