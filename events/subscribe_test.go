package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
)

// patience bounds every wait for a condition. Only a failing test waits that long.
const patience = 2 * time.Minute

// quick are tries for tests.
var quick = []time.Duration{time.Millisecond, 20 * time.Millisecond}

// service is the side that publishes: a bus, and a relay on an outbox in memory.
type service struct {
	*embedded.Server
	outbox *outbox
}

// publishing starts one on the bus in a directory and waits until its stream is there.
func publishing(dir, listen string) (_ *service, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	bus, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: listen})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	s := &service{bus, &outbox{woken: make(chan struct{}, 1)}}
	conn, err := nats.Connect("", bus.InProcess(), bus.As(embedded.Relay))
	if err != nil {
		cancel()
		bus.Shutdown()
		return nil, nil, err
	}
	js, _ := jetstream.New(conn) // fails for wrong options only
	relay := &events.Relay{Outbox: s.outbox, JS: js, Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	stop = func() { cancel(); <-ended; conn.Close(); bus.Shutdown() }
	for deadline := time.Now().Add(patience); ; {
		if _, err := js.Stream(ctx, events.Stream); err == nil {
			return s, stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return nil, nil, errors.New("no stream")
		}
		time.Sleep(time.Millisecond)
	}
}

func start(t *testing.T) *service {
	t.Helper()
	s, stop, err := publishing(t.TempDir(), "127.0.0.1:0")
	check(t, err)
	t.Cleanup(stop)
	return s
}

// outbox is events.Outbox in memory.
type outbox struct {
	mu    sync.Mutex
	list  []events.Event
	woken chan struct{}
}

func (o *outbox) Woken() <-chan struct{} { return o.woken }

func (o *outbox) Take(ctx context.Context, n int, publish func(context.Context, []events.Event) (int, error)) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list[:min(n, len(o.list))]
	if len(list) == 0 {
		return 0, nil
	}
	done, err := publish(ctx, list)
	o.list = o.list[done:]
	return len(list), err
}

func (o *outbox) Backlog(context.Context) (events.Backlog, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return events.Backlog{Events: len(o.list)}, nil
}

// emit lets the relay publish events, in their order.
func (o *outbox) emit(data ...events.Data) { o.add(made(data...)...) }

// made are events as the outbox would have them.
func made(data ...events.Data) (list []events.Event) {
	for _, d := range data {
		text, _ := json.Marshal(d)
		list = append(list, events.Event{ID: uuid.NewString(), Type: d.Type(), Subject: d.Subject(), Time: time.Now().UTC(), Data: text})
	}
	return list
}

func (o *outbox) add(list ...events.Event) {
	o.mu.Lock()
	o.list = append(o.list, list...)
	o.mu.Unlock()
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// dial connects in a role.
func (s *service) dial(t *testing.T, role string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(s.URL(), s.As(role), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	check(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// following subscribes as a service would and handles events until the test ends or it is
// stopped.
func (s *service) following(t *testing.T, c events.Consumer, handlers ...events.Handler) (stop func()) {
	t.Helper()
	if c.Backoff == nil {
		c.Backoff = quick
	}
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	sub, err := events.Subscribe(t.Context(), s.dial(t, embedded.Subscriber), c, handlers...)
	check(t, err)
	return running(t, sub)
}

func running(t *testing.T, sub *events.Subscription) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			check(t, err)
		case <-time.After(patience):
			t.Error("it does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// next wants these values from a channel, in this order.
func next[T comparable](t *testing.T, c <-chan T, want ...T) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-c:
			if got != w {
				t.Fatalf("got %v, want %v of %v", got, w, want)
			}
		case <-time.After(patience):
			t.Fatalf("%v does not come", w)
		}
	}
}

// none wants nothing that is there already.
func none[T any](t *testing.T, c <-chan T) {
	t.Helper()
	select {
	case got := <-c:
		t.Fatalf("got %v", got)
	default:
	}
}

func registered(ids ...auth.UserID) (list []events.Data) {
	for _, id := range ids {
		list = append(list, events.UserRegistered{UserID: id, Email: fmt.Sprintf("u%d@example.com", id)})
	}
	return list
}

// onRegistered sends the user's id after what fn says.
func onRegistered(c chan<- auth.UserID, fn func(auth.UserID) error) events.Handler {
	return events.On(func(_ context.Context, _ events.Event, d events.UserRegistered) error {
		c <- d.UserID
		return fn(d.UserID)
	})
}

func well(auth.UserID) error { return nil }

func TestEachHandlerHearsItsEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.outbox.emit(registered(1)...)
	heard := make(chan string, 10)
	s.following(t, events.Consumer{Name: "mailer"},
		events.On(func(_ context.Context, e events.Event, d events.UserRegistered) error {
			heard <- fmt.Sprint(e.Type, e.Subject, d.UserID, d.Email)
			return nil
		}),
		events.On(func(_ context.Context, e events.Event, d events.SessionRevoked) error {
			heard <- fmt.Sprint(e.Type, e.Subject, d.Reason)
			return nil
		}))
	s.outbox.emit(events.UserUpdated{UserID: 1}, events.SessionRevoked{UserID: 1, Reason: "logout"}, events.KeyRotated{}, events.UserRegistered{UserID: 2})
	next(t, heard, "user.registered11u1@example.com", "session.revoked1logout", "user.registered22")
}

// What was handled stays so, and what came meanwhile waits.
func TestTheDurableRemembersItsPlace(t *testing.T) {
	t.Parallel()
	s := start(t)
	heard := make(chan auth.UserID, 10)
	s.outbox.emit(registered(1, 2)...)
	stop := s.following(t, events.Consumer{Name: "mailer"}, onRegistered(heard, well))
	next(t, heard, 1, 2)
	stop()
	s.outbox.emit(registered(3)...)
	s.following(t, events.Consumer{Name: "mailer", From: 1}, onRegistered(heard, well)) // From is for new ones
	next(t, heard, 3)
	s.following(t, events.Consumer{Name: "other", From: 2}, onRegistered(heard, well))
	next(t, heard, 2, 3)
}

// An event that fails comes again, ever later, and none of those behind it overtakes it, on
// whichever instance.
func TestAFailingEventComesAgainBeforeLaterOnes(t *testing.T) {
	t.Parallel()
	s := start(t)
	heard := make(chan auth.UserID, 10)
	var mu sync.Mutex
	var at []time.Time
	flaky := func(id auth.UserID) error {
		mu.Lock()
		defer mu.Unlock()
		if at = append(at, time.Now()); id == 1 && len(at) < 4 {
			return errors.New("not yet")
		}
		return nil
	}
	c := events.Consumer{Name: "mailer", Backoff: []time.Duration{time.Millisecond, 100 * time.Millisecond}}
	for range 2 {
		s.following(t, c, onRegistered(heard, flaky))
	}
	s.outbox.emit(registered(1, 2, 3)...)
	next(t, heard, 1, 1, 1, 1, 2, 3)
	mu.Lock()
	defer mu.Unlock()
	if first, later := at[1].Sub(at[0]), at[3].Sub(at[2]); later < 100*time.Millisecond {
		t.Errorf("again after %s and %s", first, later)
	}
}

func TestWhatFailsTooOftenIsADeadLetter(t *testing.T) {
	t.Parallel()
	s := start(t)
	heard := make(chan auth.UserID, 10)
	dead := make(chan string, 1)
	broken := errors.New("broken")
	c := events.Consumer{Name: "mailer", Tries: 3, Dead: func(e events.Event, err error) {
		dead <- fmt.Sprint(e.Subject, errors.Is(err, broken))
	}}
	s.following(t, c, onRegistered(heard, func(id auth.UserID) error {
		if id == 1 {
			return broken
		}
		return nil
	}))
	s.outbox.emit(registered(1, 2)...)
	next(t, heard, 1, 1, 1)
	next(t, dead, "1true")
	next(t, heard, 2)
	letters := s.deadLetters(t, "mailer")
	if len(letters) != 1 || letters[0].Sequence != 1 || letters[0].Type != "user.registered" || letters[0].Reason != "failed 3 times" || letters[0].ID == "" {
		t.Errorf("%+v", letters)
	}
}

// settled waits until everything is acknowledged.
func (s *service) settled(t *testing.T, name string) {
	t.Helper()
	js, err := jetstream.New(s.dial(t, embedded.Admin))
	check(t, err)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		consumer, err := js.Consumer(t.Context(), events.Stream, name)
		check(t, err)
		if i := consumer.CachedInfo(); i.NumAckPending == 0 && i.NumPending == 0 {
			return
		}
	}
	t.Fatal("not settled")
}

func (s *service) deadLetters(t *testing.T, name string) (letters []events.DeadLetter) {
	t.Helper()
	js, err := jetstream.New(s.dial(t, embedded.Admin))
	check(t, err)
	consumer, err := js.Consumer(t.Context(), events.Stream, name)
	check(t, err)
	text := consumer.CachedInfo().Config.Metadata["dead_letters"]
	check(t, json.Unmarshal([]byte(text), &letters))
	return letters
}

// No later try will read them, so they hold up nobody.
func TestWhatCannotBeReadIsADeadLetterAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	js, err := jetstream.New(s.dial(t, embedded.Relay))
	check(t, err)
	header := func(kind string) nats.Header {
		return nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"x"}, "ce-type": {kind}, "ce-time": {"2026-01-02T03:04:05Z"}}
	}
	for _, m := range []*nats.Msg{
		{Data: []byte("{}")},
		{Header: header("user.registered"), Data: []byte("{")},
		{Header: header("user.registered"), Data: []byte(`{"userId":"1"}`)},
		{Header: header("user.deleted"), Data: []byte("{}")},
	} {
		m.Subject = "user.registered"
		_, err := js.PublishMsg(t.Context(), m)
		check(t, err)
	}
	heard := make(chan auth.UserID, 10)
	dead := make(chan string, 10)
	c := events.Consumer{Name: "mailer", Dead: func(e events.Event, err error) { dead <- string(e.Data) }}
	s.following(t, c, onRegistered(heard, well))
	s.outbox.emit(registered(1)...)
	next(t, dead, "{}", "{", `{"userId":"1"}`, "{}")
	next(t, heard, 1)
	if letters := s.deadLetters(t, "mailer"); len(letters) != 4 || letters[3].Reason != "unreadable" {
		t.Errorf("%+v", letters)
	}
}

// An event that ends its receiver each time is given up without another try.
func TestWhatKillsItsReceiverIsADeadLetter(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn := s.dial(t, embedded.Subscriber)
	heard := make(chan auth.UserID, 10)
	dead := make(chan string, 10)
	c := events.Consumer{Name: "mailer", Tries: 2, Dead: func(e events.Event, err error) { dead <- e.Subject }}
	_, err := events.Subscribe(t.Context(), conn, c, onRegistered(heard, well))
	check(t, err)
	js, err := jetstream.New(conn)
	check(t, err)
	consumer, err := js.Consumer(t.Context(), events.Stream, "mailer")
	check(t, err)
	s.outbox.emit(registered(1, 2)...)
	for range c.Tries {
		m, err := consumer.Next(jetstream.FetchMaxWait(patience))
		check(t, err)
		check(t, m.Nak()) // as after the time to acknowledge it
	}
	s.following(t, c, onRegistered(heard, well))
	next(t, dead, "1")
	next(t, heard, 2)
}

// A handler that panics or does not come back fails; the process goes on.
func TestHandlersMayPanicOrHang(t *testing.T) {
	t.Parallel()
	s := start(t)
	heard := make(chan auth.UserID, 10)
	tries := map[auth.UserID]int{}
	c := events.Consumer{Name: "mailer", Timeout: 10 * time.Millisecond}
	s.following(t, c, events.On(func(ctx context.Context, _ events.Event, d events.UserRegistered) error {
		heard <- d.UserID
		if tries[d.UserID]++; tries[d.UserID] > 1 {
			return nil
		}
		if d.UserID == 1 {
			panic("oops")
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	s.outbox.emit(registered(1, 2, 3)...)
	next(t, heard, 1, 1, 2, 2, 3, 3)
}

// Who is told to stop finishes the event it has.
func TestStopFinishesTheEventUnderWay(t *testing.T) {
	t.Parallel()
	s := start(t)
	begun, finish := make(chan auth.UserID, 10), make(chan struct{})
	stop := s.following(t, events.Consumer{Name: "mailer"}, events.On(func(ctx context.Context, _ events.Event, d events.UserRegistered) error {
		begun <- d.UserID
		<-finish
		return ctx.Err()
	}))
	s.outbox.emit(registered(1, 2)...)
	next(t, begun, 1)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("stopped in the middle")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	<-stopped
	heard := make(chan auth.UserID, 10)
	s.following(t, events.Consumer{Name: "mailer"}, onRegistered(heard, well))
	next(t, heard, 2)
}

// The types may change: a type that is new begins now.
func TestAnExistingDurableIsGivenOtherTypes(t *testing.T) {
	t.Parallel()
	s := start(t)
	heard := make(chan auth.UserID, 10)
	stop := s.following(t, events.Consumer{Name: "mailer"}, onRegistered(heard, well))
	s.outbox.emit(registered(1)...)
	next(t, heard, 1)
	stop()
	deleted := events.On(func(_ context.Context, _ events.Event, d events.UserDeleted) error {
		heard <- -d.UserID
		return nil
	})
	s.outbox.emit(events.UserRegistered{UserID: 2})
	stop = s.following(t, events.Consumer{Name: "mailer"}, deleted)
	s.outbox.emit(events.UserDeleted{UserID: 1}, events.UserRegistered{UserID: 3})
	next(t, heard, -1)
	stop()
	s.following(t, events.Consumer{Name: "mailer"}, deleted, onRegistered(heard, well))
	s.outbox.emit(events.UserDeleted{UserID: 2}, events.UserRegistered{UserID: 4})
	for id := range heard {
		if id == 4 {
			break
		}
	}
}

func TestEventsGoOnAfterTheServerAndTheStreamWereAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, stop, err := publishing(dir, "127.0.0.1:0")
	check(t, err)
	heard := make(chan auth.UserID, 10)
	s.following(t, events.Consumer{Name: "mailer"}, onRegistered(heard, well))
	s.outbox.emit(registered(1)...)
	next(t, heard, 1)
	s.settled(t, "mailer")
	listen := strings.TrimPrefix(s.URL(), "nats://")
	stop()
	s, stop, err = publishing(dir, listen)
	check(t, err)
	t.Cleanup(stop)
	s.outbox.emit(registered(2)...)
	next(t, heard, 2)

	js, err := jetstream.New(s.dial(t, embedded.Relay))
	check(t, err)
	check(t, js.DeleteStream(t.Context(), events.Stream))
	s.outbox.emit(registered(3)...) // the relay makes it again
	next(t, heard, 3)
	none(t, heard)
}

func TestSubscribeRefuses(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn := s.dial(t, embedded.Subscriber)
	handler := onRegistered(nil, well)
	refused := func(what string, conn *nats.Conn, name string, handlers ...events.Handler) {
		t.Helper()
		if _, err := events.Subscribe(t.Context(), conn, events.Consumer{Name: name}, handlers...); err == nil {
			t.Error(what)
		} else {
			t.Log(err)
		}
	}
	refused("nothing to handle", conn, "mailer")
	refused("two handlers for one type", conn, "mailer", handler, handler)
	refused("no name", conn, "", handler)
	refused("a name that is none", conn, "a.b", handler)
	refused("an app without credentials", s.dial(t, embedded.App), "mailer", handler)

	bus, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	check(t, err)
	t.Cleanup(bus.Shutdown)
	refused("no stream", (&service{bus, nil}).dial(t, embedded.Subscriber), "mailer", handler)
}

func TestSubscribeRefusesNegativeSettings(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn := s.dial(t, embedded.Subscriber)
	for want, c := range map[string]events.Consumer{
		"the field Tries is -1, but must not be negative":               {Tries: -1},
		"the field Timeout is -1ns, but must not be negative":           {Timeout: -1},
		"the field Backoff has the value -1s, but must not be negative": {Backoff: []time.Duration{0, time.Second, -time.Second}},
	} {
		c.Name = "mailer"
		_, err := events.Subscribe(t.Context(), conn, c, onRegistered(nil, well))
		if err == nil || err.Error() != "subscribe mailer: "+want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	js, err := jetstream.New(conn)
	check(t, err)
	if _, err := js.Consumer(t.Context(), events.Stream, "mailer"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a refused subscription has left a consumer: %v", err)
	}
	_, err = events.Subscribe(t.Context(), conn, events.Consumer{Name: "mailer", Backoff: []time.Duration{0}}, onRegistered(nil, well))
	check(t, err) // 0 is a retry at once
}

func TestAClosedConnectionEndsRun(t *testing.T) {
	t.Parallel()
	s := start(t)
	conn := s.dial(t, embedded.Subscriber)
	sub, err := events.Subscribe(t.Context(), conn, events.Consumer{Name: "mailer", Log: slog.New(slog.DiscardHandler)}, onRegistered(nil, well))
	check(t, err)
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(t.Context()) }()
	conn.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, jetstream.ErrConnectionClosed) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it runs on")
	}
}

// Not parallel: others' goroutines would be taken for its own.
func TestNoGoroutineStays(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, end, err := publishing(t.TempDir(), "127.0.0.1:0")
	check(t, err)
	conn := s.dial(t, embedded.Subscriber)
	heard := make(chan auth.UserID, 10)
	sub, err := events.Subscribe(t.Context(), conn, events.Consumer{Name: "mailer"}, onRegistered(heard, well))
	check(t, err)
	stop := running(t, sub)
	s.outbox.emit(registered(1)...)
	next(t, heard, 1)
	stop()
	conn.Close()
	end()
	goleak.VerifyNone(t, before)
}

// Many, over several instances, each once and in order of each user.
func TestInstancesShareTheEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	const n = 300
	var mu sync.Mutex
	var got []int
	done := make(chan struct{})
	for range 3 {
		s.following(t, events.Consumer{Name: "mailer"}, events.On(func(_ context.Context, _ events.Event, d events.UserUpdated) error {
			mu.Lock()
			defer mu.Unlock()
			i, err := strconv.Atoi(d.Name)
			if got = append(got, i); len(got) == n {
				close(done)
			}
			return err
		}))
	}
	for i := range n {
		s.outbox.emit(events.UserUpdated{UserID: auth.UserID(i % 7), Name: strconv.Itoa(i)})
	}
	select {
	case <-done:
	case <-time.After(patience):
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d, %v", len(got), got)
	}
}
