package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// relayBatch is how many events are published before the first is waited for.
	relayBatch = 500
	// relayEvery is how often a relay looks although nobody woke it: for what the command line
	// and instances that died have left.
	relayEvery = time.Second
	// wrongLastMsgID is the server's error code for an event whose predecessor is not the last
	// one in the stream: it was refused, or has been there for a while.
	wrongLastMsgID jetstream.ErrorCode = 10070
	// ackWait is how long the stream may take to confirm an event. It ends before the database
	// takes a relay for dead that says nothing.
	ackWait = 5 * time.Second
)

// Outbox is where events wait to be published. It hands out the oldest ones, in their order,
// to one relay at a time. See persistence.Store.
type Outbox interface {
	Take(ctx context.Context, n int, publish func(context.Context, []Event) (int, error)) (taken int, err error)
	Woken() <-chan struct{}
}

// Relay publishes what is in the outbox. All fields are required. Every instance has one;
// whichever is woken first publishes, and the others find nothing left.
type Relay struct {
	Outbox   Outbox
	JS       jetstream.JetStream
	Replicas int // of the stream, if it is made
	Log      *slog.Logger

	prepared bool
	broken   bool // the last batch ended at an event that the next may begin with
}

// Run publishes until ctx ends. While database or stream are away it tries again and again;
// nobody but the receivers waits for it.
func (r *Relay) Run(ctx context.Context) error {
	for away := false; ; {
		n, err := r.once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away: // said once, not every second
			r.Log.Error("events are not published; they wait", "err", err)
		case err == nil && away:
			r.Log.Info("events are published again")
		}
		if away = err != nil; !away && (n == relayBatch || r.broken) {
			continue // there is more
		}
		if !r.wait(ctx, away) {
			return nil
		}
	}
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
	r.broken = false
	return r.Outbox.Take(ctx, relayBatch, func(ctx context.Context, list []Event) (int, error) {
		done, err := r.publish(ctx, list)
		// Somebody may have deleted the stream. The server says so only where nobody else
		// hears the subject; otherwise the confirmation just does not come.
		r.prepared = err == nil
		return done, err
	})
}

func (r *Relay) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	differences, err := ensureStream(ctx, r.JS, r.Replicas)
	if err != nil {
		return fmt.Errorf("stream %s: %w", Stream, err)
	}
	if differences != nil {
		r.Log.Warn("stream is not as the service would make it, and is left so", "stream", Stream, "differences", strings.Join(differences, ", "))
	}
	r.prepared = true
	return nil
}

// publish sends events and tells how many of the first are in the stream, once each has been
// confirmed or one has not. Each names the one before it, so that the stream takes none whose
// predecessor it refused, and the order stays.
func (r *Relay) publish(ctx context.Context, list []Event) (done int, err error) {
	futures := make([]jetstream.PubAckFuture, 0, len(list))
	for i, e := range list {
		options := []jetstream.PublishOpt{jetstream.WithRetryAttempts(0)}
		if i > 0 {
			options = append(options, jetstream.WithExpectLastMsgID(list[i-1].ID))
		}
		future, err := r.JS.PublishMsgAsync(e.message(), options...)
		if err != nil {
			return r.confirmed(ctx, futures, fmt.Errorf("publish %s: %w", e.Type, err))
		}
		futures = append(futures, future)
	}
	return r.confirmed(ctx, futures, nil)
}

// confirmed waits for confirmations in order and counts them up to the first that fails.
func (r *Relay) confirmed(ctx context.Context, futures []jetstream.PubAckFuture, failed error) (done int, err error) {
	late := time.NewTimer(ackWait)
	defer late.Stop()
	for _, f := range futures {
		select {
		case <-f.Ok():
			done++
		case err := <-f.Err():
			var refused *jetstream.APIError
			if done > 0 && errors.As(err, &refused) && refused.ErrorCode == wrongLastMsgID {
				r.broken = true
				return done, nil
			}
			return done, fmt.Errorf("publish %s: %w", f.Msg().Subject, err)
		case <-late.C:
			return done, fmt.Errorf("publish %s: not confirmed within %s", f.Msg().Subject, ackWait)
		case <-ctx.Done():
			return done, ctx.Err()
		}
	}
	return done, failed
}
