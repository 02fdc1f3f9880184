package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Reading says which events Read reads. The zero value is all that the stream keeps.
type Reading struct {
	Subject string    // only what this matches, as in "user.>"; "" is everything
	Since   time.Time // only what was published since then
	Follow  bool      // go on with what comes
}

// Read hands the events of the stream to fn, in their order, and leaves no trace there. It
// returns nil after the last event that there was when it began, or when ctx ends, and fn's
// error if fn returns one. What is in the stream and no event is passed over.
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

// LastSequence is the number of the latest event in the stream, 0 if there is none. Without a
// stream there is none either, and the error is jetstream.ErrStreamNotFound.
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
