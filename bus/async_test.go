package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

// serveQueued answers auth.login, one at once.
func serveQueued(t *testing.T, b *embedded.Server, work func(context.Context) error) (stop func() error) {
	t.Helper()
	return serveQueuedOn(t, b, connect(t, b, embedded.Service), work)
}

func serveQueuedOn(t *testing.T, b *embedded.Server, conn *nats.Conn, work func(context.Context) error) (stop func() error) {
	t.Helper()
	clerk := make(chan struct{}, 1)
	return serveOn(t, b, conn, io.Discard, func(s *bus.Server) error {
		s.MaxConcurrent, s.Queue = 1, func() any { return map[string]int{"depth": 7} }
		return bus.HandleAsync(s, auth.Login, func(ctx context.Context, _ auth.LoginRequest) (auth.LoginReply, error) {
			clerk <- struct{}{}
			defer func() { <-clerk }()
			return auth.LoginReply{UserID: 7}, work(ctx)
		})
	})
}

// Whichever of two instances NATS picks, none holds a request that the other could begin. On a busy
// machine an instance may not offer its place in time, and without the offer half of the rounds would
// have both requests at one instance. So the rounds go on until the offer must have made the difference.
func TestAnIdleInstanceTakesRequestsOver(t *testing.T) {
	t.Parallel()
	b := broker(t)
	const least, most = 20, 200
	here := make(chan struct{})
	var met atomic.Int64
	meet := func(ctx context.Context) error { // ends when both instances are at it, or late
		select {
		case here <- struct{}{}:
		case <-here:
			met.Add(1)
		case <-time.After(time.Second):
		}
		return nil
	}
	conns := []*nats.Conn{connect(t, b, embedded.Service), connect(t, b, embedded.Service)}
	for _, conn := range conns {
		serveQueuedOn(t, b, conn, meet)
	}
	const offering = 12 // subscriptions of an instance that offers: nine of the services protocol, the subject, the offer, the places
	app := connect(t, b, embedded.App)
	missed := func(rounds int64) int64 { return rounds - met.Load() }
	for round := int64(0); met.Load() < least+3*missed(round); round++ {
		if round == most {
			t.Fatalf("in %d rounds of %d one instance held both requests", missed(round), round)
		}
		for _, conn := range conns {
			for conn.NumSubscriptions() != offering {
				runtime.Gosched()
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				reply, err := bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{})
				if err != nil || reply.UserID != 7 {
					t.Errorf("%+v, %v", reply, err)
				}
			})
		}
		group.Wait()
	}
}

func TestAQueuedRequestWaitsHereIfNobodyIsIdle(t *testing.T) {
	t.Parallel()
	b := broker(t)
	release := make(chan struct{})
	serveQueued(t, b, func(context.Context) error { <-release; return nil })
	app := connect(t, b, embedded.App)
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			if _, err := bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 5 {
		release <- struct{}{}
	}
	group.Wait()
}

// The services protocol counts the handing over; what came of it is told beside.
func TestStatisticsOfQueuedRequestsAreComplete(t *testing.T) {
	t.Parallel()
	b := broker(t)
	serveQueued(t, b, func(context.Context) error { return auth.ErrInvalidCredentials })
	app, admin := connect(t, b, embedded.App), connect(t, b, embedded.Admin)
	for range 3 {
		if _, err := bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{}); !errors.Is(err, auth.ErrInvalidCredentials) {
			t.Fatal(err)
		}
	}
	var told struct {
		Answered, Errors int
		Queue            struct{ Depth int }
	}
	for late := time.Now().Add(patience); told.Answered < 3; time.Sleep(time.Millisecond) {
		var stats micro.Stats
		ask(t, admin, "$SRV.STATS.auth", &stats)
		if len(stats.Endpoints) != 1 || stats.Endpoints[0].NumRequests != 3 && time.Now().After(late) {
			t.Fatalf("%+v", stats.Endpoints)
		}
		if err := json.Unmarshal(stats.Endpoints[0].Data, &told); err != nil {
			t.Fatal(err)
		}
	}
	if told.Answered != 3 || told.Errors != 3 || told.Queue.Depth != 7 {
		t.Errorf("%+v", told)
	}
}

func TestStoppingAnswersWhatIsQueued(t *testing.T) {
	t.Parallel()
	b := broker(t)
	begun, release := make(chan struct{}, 8), make(chan struct{})
	stop := serveQueued(t, b, func(context.Context) error { begun <- struct{}{}; <-release; return nil })
	app := connect(t, b, embedded.App)
	answers := make(chan error, 8)
	for range cap(answers) {
		go func() {
			_, err := bus.Call(context.Background(), app, auth.Login, auth.LoginRequest{})
			answers <- err
		}()
	}
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(release)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	for range cap(answers) {
		if err := <-answers; err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("a request was dropped: %v", err)
		}
	}
}

// Nothing long is begun for a caller who has gone: the time it waits travels with a request.
func TestACallersPatienceTravels(t *testing.T) {
	t.Parallel()
	b := broker(t)
	deadlines := make(chan time.Duration, 1)
	serveQueued(t, b, func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		deadlines <- time.Until(deadline)
		return nil
	})
	app := connect(t, b, embedded.App)
	for _, asked := range []time.Duration{bus.Timeout / 2, time.Hour} {
		ctx, cancel := context.WithTimeout(t.Context(), asked)
		defer cancel()
		if _, err := bus.Call(ctx, app, auth.Login, auth.LoginRequest{}); err != nil {
			t.Fatal(err)
		}
		if left := <-deadlines; left <= 0 || left > min(asked, bus.Timeout) {
			t.Errorf("%s of %s", left, asked)
		}
	}
}

// One network cannot take all the places that a subject has for requests under way.
func TestAFloodOfOneNetworkLeavesPlacesForOthers(t *testing.T) {
	t.Parallel()
	b := broker(t)
	begun, release := make(chan string, 4096), make(chan struct{})
	serveOn(t, b, connect(t, b, embedded.Service), io.Discard, func(s *bus.Server) error {
		return bus.HandleAsync(s, auth.Login, func(_ context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
			begun <- req.Client.IP
			<-release
			return auth.LoginReply{UserID: 7}, nil
		})
	})
	defer close(release)
	app := connect(t, b, embedded.App)
	inbox := app.NewInbox()
	replies, err := app.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2100 {
		body := fmt.Sprintf(`{"client":{"ip":"192.0.2.%d"}}`, i%250)
		if err := app.PublishRequest(string(auth.Login), inbox, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	refusal, err := replies.NextMsg(patience)
	if err != nil || refusal.Header.Get(micro.ErrorCodeHeader) != "503" {
		t.Fatalf("%v, %v", refusal, err)
	}
	if err := app.PublishRequest(string(auth.Login), inbox, []byte(`{"client":{"ip":"198.51.100.1"}}`)); err != nil {
		t.Fatal(err)
	}
	for late := time.After(patience); ; {
		select {
		case ip := <-begun:
			if ip == "198.51.100.1" {
				return
			}
		case <-late:
			t.Fatal("the request of another network was not begun")
		}
	}
}
