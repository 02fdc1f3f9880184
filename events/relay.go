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
	// relayBatch is the maximum number of events that a relay takes from the outbox at a time.
	relayBatch = 500
	// relayEvery is how often a relay reads the outbox without a wake-up, to find events that the
	// command line and crashed instances have left.
	relayEvery = time.Second
	// sayEvery is the minimum interval of log lines about waiting events.
	sayEvery = time.Minute
	// batchTimeout bounds a batch, including the wait for its turn. Otherwise an unresponsive database
	// would block a relay permanently, even after the database is reachable again.
	batchTimeout = 30 * time.Second
	// ackWait is how long the stream may take to confirm an event. It ends before the database
	// considers a silent relay dead.
	ackWait = 5 * time.Second
)

// UrgentTypes returns the types of the events that make verifiers refuse tokens. These events do not wait
// behind events of other subjects.
func UrgentTypes() []string {
	return []string{SessionRevoked{}.Type(), UserDisabled{}.Type(), UserDeleted{}.Type(), KeyRotated{}.Type()}
}

// Outbox holds the events that wait to be published. It returns the urgent ones first, then the oldest, to
// one relay at a time. Events of one subject stay in order. See persistence.Store.
type Outbox interface {
	Take(ctx context.Context, n int, publish func(context.Context, []Event) (int, error)) (taken int, err error)
	Woken() <-chan struct{}
	Backlog(ctx context.Context) (Backlog, error)
}

// Backlog describes the events that wait to be published.
type Backlog struct {
	Events int
	Oldest time.Time // time of the oldest event; zero if there is none
}

// Relay publishes the events in the outbox. All fields but Open are required. Every instance has
// a relay; the first one that wakes publishes, and the others find nothing left.
type Relay struct {
	Outbox   Outbox
	JS       jetstream.JetStream
	Replicas int // of the streams, if the relay creates them
	Log      *slog.Logger

	// Open converts a stored event into the published one: mails in the outbox are sealed with another key.
	// nil publishes events unchanged. The relay skips and logs an event for which Open returns an error, so
	// that it does not hold up the events behind it permanently. A skipped event counts as published; an
	// operator can publish it again after repairing the cause.
	Open func(Event) (Event, error)

	failed   atomic.Pointer[error] // result of Err
	counts   relayCounts
	prepared bool
}

// Run publishes until ctx ends, and then returns nil. While the database or the stream is unreachable, it
// keeps retrying; only the receivers wait for it.
func (r *Relay) Run(ctx context.Context) error {
	var said time.Time // time of the last log line about waiting events
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
	if failed != nil { // the database is unreachable, so the number is unknown
		r.Log.Error("events are not published; they wait", "err", err)
		return
	}
	r.Log.Error("events are not published; they wait", "err", err, "waiting", b.Events, "oldest", b.Oldest)
}

// Err returns the error of the latest attempt to publish, or nil if it succeeded.
func (r *Relay) Err() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// wait returns true after a wake-up or after relayEvery, and false if ctx has ended.
func (r *Relay) wait(ctx context.Context, away bool) bool {
	woken := r.Outbox.Woken()
	if away {
		woken = nil // only the timer triggers a retry
	}
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-time.After(relayEvery):
	}
	return true
}

// once publishes a batch. Before the first batch, and after a failed one, it ensures that the streams exist.
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
		r.prepared = false // the stream may be gone; a subscriber on its subject would hide that
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

// publish sends events and returns how many, counted from the first, their streams confirmed or it skipped.
// The second event of a user waits until all events before it are confirmed: if both were in flight, the
// stream could lose the first and accept the second.
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

// ofDifferentUsers returns how many events, counted from the first, have distinct subjects.
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

// publishAtOnce sends all events before it waits for the first confirmation. Its results are those of publish.
func (r *Relay) publishAtOnce(ctx context.Context, list []Event) (done int, err error) {
	sent := make([]jetstream.PubAckFuture, 0, len(list)) // nil for a skipped event
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

// startSpans begins a span for each event, in the trace of the request that caused it.
func startSpans(list []Event) []trace.Span {
	if !trace.On() {
		return nil
	}
	spans := make([]trace.Span, len(list))
	for i, e := range list {
		if e.Trace == "" {
			continue // the request was not traced
		}
		_, spans[i] = trace.Start(trace.Within(context.Background(), e.Trace), trace.Producer, "send "+e.Type)
		spans[i].Text("messaging.system", "nats")
		spans[i].Text("messaging.operation.type", "send")
		spans[i].Text("messaging.destination.name", e.Type)
		spans[i].Text("messaging.message.id", e.ID)
	}
	return spans
}

// endSpans ends the spans of a batch. The first done spans succeed; the others get the error of the batch.
func endSpans(spans []trace.Span, done int, failed error) {
	for i, s := range spans {
		if i < done {
			s.End(nil)
			continue
		}
		s.End(errors.Join(auth.ErrUnavailable, failed)) // it is published later
	}
}

// send sends one event. It returns nil if it skips the event.
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

// confirmed waits until the stream confirms an event. nil stands for a skipped event.
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
