package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

const (
	// relayBatch is how many events are published before the first is waited for.
	relayBatch = 500
	// relayEvery is how often a relay looks although nobody woke it: for what the command line
	// and instances that died have left.
	relayEvery = time.Second
	// sayEvery is how often the log tells that events wait.
	sayEvery = time.Minute
	// batchTimeout bounds a batch, with the wait for its turn. A database that says nothing would
	// otherwise hold a relay for ever, also when it can be reached again.
	batchTimeout = 30 * time.Second
	// ackWait is how long the stream may take to confirm an event. It ends before the database
	// takes a relay for dead that says nothing.
	ackWait = 5 * time.Second
)

// UrgentTypes are the types of the events by which verifiers refuse tokens. They do not wait behind
// events of other subjects.
func UrgentTypes() []string {
	return []string{SessionRevoked{}.Type(), UserDisabled{}.Type(), UserDeleted{}.Type(), KeyRotated{}.Type()}
}

// Outbox is where events wait to be published. It hands out the urgent ones first, then the oldest, to
// one relay at a time. Events of one subject come in their order. See persistence.Store.
type Outbox interface {
	Take(ctx context.Context, n int, publish func(context.Context, []Event) (int, error)) (taken int, err error)
	Woken() <-chan struct{}
	Backlog(ctx context.Context) (Backlog, error)
}

// Backlog is what waits to be published.
type Backlog struct {
	Events int
	Oldest time.Time // when the oldest of them happened; zero if there is none
}

// Relay publishes what is in the outbox. All fields but Open are required. Every instance has
// one; whichever is woken first publishes, and the others find nothing left.
type Relay struct {
	Outbox   Outbox
	JS       jetstream.JetStream
	Replicas int // of the streams, if they are made
	Log      *slog.Logger

	// Open makes of an event what is published: mails wait under another seal. nil leaves each as it is. An
	// event that it returns an error for is passed over, so that it does not hold up those behind
	// it for ever. The log tells; the event counts as published, and can be published again by
	// whoever repairs the cause.
	Open func(Event) (Event, error)

	failed   atomic.Pointer[error] // of Err
	counts   relayCounts
	prepared bool
}

// Run publishes until ctx ends. While database or stream are away it tries again and again;
// nobody but the receivers waits for it.
func (r *Relay) Run(ctx context.Context) error {
	var said time.Time // when it was last said that events wait
	for away := false; ; {
		n, err := r.once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && time.Since(said) > sayEvery: // not every second
			r.say(ctx, err)
			said = time.Now()
		case err == nil && away:
			r.Log.Info("events are published again")
			said = time.Time{}
		}
		r.failed.Store(&err)
		r.counts.turn(err)
		if away = err != nil; !away && n == relayBatch {
			continue // there is more
		}
		if !r.wait(ctx, away) {
			return nil
		}
	}
}

// say logs that events wait, and how many.
func (r *Relay) say(ctx context.Context, err error) {
	b, failed := r.Outbox.Backlog(ctx)
	if failed != nil { // then that is why
		r.Log.Error("events are not published; they wait", "err", err)
		return
	}
	r.Log.Error("events are not published; they wait", "err", err, "waiting", b.Events, "oldest", b.Oldest)
}

// Err returns why events wait, if they do.
func (r *Relay) Err() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// wait returns when there is something to do, and false if ctx has ended.
func (r *Relay) wait(ctx context.Context, away bool) bool {
	woken := r.Outbox.Woken()
	if away {
		woken = nil // it is the timer that tries again
	}
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-time.After(relayEvery):
	}
	return true
}

// once publishes a batch, and makes sure before the first that there is a stream.
func (r *Relay) once(ctx context.Context) (taken int, err error) {
	if !r.prepared {
		if err := r.prepare(ctx); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	taken, err = r.Outbox.Take(ctx, relayBatch, r.publish)
	if err != nil {
		r.prepared = false // the stream may be gone: where somebody listens, that is only silence
	}
	return taken, err
}

func (r *Relay) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for _, wanted := range streams(r.Replicas) {
		differences, err := ensureStream(ctx, r.JS, wanted)
		if err != nil {
			return fmt.Errorf("stream %s: %w", wanted.Name, err)
		}
		if differences != nil {
			r.Log.Warn("stream is not as the service would make it, and is left so", "stream", wanted.Name, "differences", strings.Join(differences, ", "))
		}
	}
	r.prepared = true
	return nil
}

// publish sends events and tells how many of the first are in their streams, or were passed over.
// Where two are of one user, the second waits until all before it are confirmed: were both on their
// way, the stream could miss the first and take the second.
func (r *Relay) publish(ctx context.Context, list []Event) (done int, err error) {
	spans := startSpans(list)
	defer func() { endSpans(spans, done, err) }()
	ctx, cancel := context.WithTimeoutCause(ctx, ackWait, errNotConfirmed)
	defer cancel()
	for done < len(list) && err == nil {
		var n int
		n, err = r.publishAtOnce(ctx, list[done:done+ofDifferentUsers(list[done:])])
		done += n
	}
	return done, err
}

var errNotConfirmed = fmt.Errorf("not confirmed within %s", ackWait)

// ofDifferentUsers tells how many of the first events are.
func ofDifferentUsers(list []Event) int {
	users := map[string]bool{}
	for i, e := range list {
		if users[e.Subject] {
			return i
		}
		users[e.Subject] = true
	}
	return len(list)
}

// publishAtOnce is publish without waiting in between.
func (r *Relay) publishAtOnce(ctx context.Context, list []Event) (done int, err error) {
	sent := make([]jetstream.PubAckFuture, 0, len(list)) // nil for one that was passed over
	for _, e := range list {
		future, failed := r.send(e)
		if failed != nil {
			err = fmt.Errorf("publish %s: %w", e.Type, failed)
			break
		}
		sent = append(sent, future)
	}
	for _, future := range sent {
		if err := r.confirmed(ctx, future); err != nil {
			return done, err
		}
		done++
	}
	return done, err
}

// startSpans begins a span for each event, in the trace of the request that it came from.
func startSpans(list []Event) []trace.Span {
	if !trace.On() {
		return nil
	}
	spans := make([]trace.Span, len(list))
	for i, e := range list {
		if e.Trace == "" {
			continue // nobody looks for it
		}
		_, spans[i] = trace.Start(trace.Within(context.Background(), e.Trace), trace.Producer, "send "+e.Type)
		spans[i].Text("messaging.system", "nats")
		spans[i].Text("messaging.operation.type", "send")
		spans[i].Text("messaging.destination.name", e.Type)
		spans[i].Text("messaging.message.id", e.ID)
	}
	return spans
}

// endSpans ends the spans of a batch of which as many of the first are in their streams.
func endSpans(spans []trace.Span, done int, failed error) {
	for i, s := range spans {
		if i < done {
			s.End(nil)
			continue
		}
		s.End(errors.Join(auth.ErrUnavailable, failed)) // it is published later
	}
}

// send sends one event, or passes it over and returns nil.
func (r *Relay) send(e Event) (jetstream.PubAckFuture, error) {
	if r.Open != nil {
		opened, err := r.Open(e)
		if errors.Is(err, ErrNobody) {
			return nil, nil
		}
		if err != nil {
			r.counts.passedOver.Add(1)
			r.Log.Error("event cannot be opened and is passed over", "id", e.ID, "type", e.Type, "subject", e.Subject, "err", err)
			return nil, nil
		}
		e = opened
	}
	return r.JS.PublishMsgAsync(e.Message(), jetstream.WithRetryAttempts(0))
}

// confirmed waits until an event is in its stream. nil is one that was passed over.
func (r *Relay) confirmed(ctx context.Context, sent jetstream.PubAckFuture) error {
	if sent == nil {
		return nil
	}
	select {
	case <-sent.Ok():
		r.counts.published.Add(1)
		return nil
	case err := <-sent.Err():
		return fmt.Errorf("publish %s: %w", sent.Msg().Subject, err)
	case <-ctx.Done():
		return fmt.Errorf("publish %s: %w", sent.Msg().Subject, context.Cause(ctx))
	}
}
