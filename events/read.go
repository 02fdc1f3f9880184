package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Reading selects the events that Read reads. The zero value selects all events in the stream.
type Reading struct {
	Subject string    // only events whose subject matches, as in "user.>"; "" matches all
	Since   time.Time // only events published since then
	Follow  bool      // continue with new events
}

// Read calls fn with each event of the stream, in order, and leaves no consumer behind. It
// returns nil after the last event that existed when it began, or when ctx ends, and fn's
// error if fn returns one. It skips messages that are not events.
func Read(ctx context.Context, js jetstream.JetStream, r Reading, fn func(Event) error) error {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if r.Subject != "" {
		config.FilterSubjects = []string{r.Subject}
	}
	if !r.Since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.Since
	}
	last, err := LastSequence(ctx, js)
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, Stream, config)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", Stream, err)
	}
	if !r.Follow && consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read stream %s: %w", Stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read stream %s: %w", Stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read stream %s: %w", Stream, err)
		}
		if !r.Follow && meta.Sequence.Stream > last {
			return nil
		}
		if e, err := Parse(m.Headers(), m.Data()); err == nil {
			if err := fn(e); err != nil {
				return err
			}
		}
		if !r.Follow && meta.NumPending == 0 {
			return nil
		}
	}
}

// LastSequence returns the sequence number of the latest event in the stream, 0 if the stream is
// empty. If the stream does not exist, it returns jetstream.ErrStreamNotFound.
func LastSequence(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	stream, err := js.Stream(ctx, Stream)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer; is the user allowed to read the stream? %w", err)
	}
	if err != nil {
		return 0, fmt.Errorf("read stream %s: %w", Stream, err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}
