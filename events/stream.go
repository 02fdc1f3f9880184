package events

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stream is the name of the stream that keeps the events.
const Stream = "AUTH_EVENTS"

// stream is AUTH_EVENTS as the service makes it. What is in it is never changed; it goes by
// age, or sooner if there is too much of it. Purging stays open to the operator: events hold
// addresses, and who asks to be forgotten may be owed it.
func stream(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:         Stream,
		Description:  "What happened to accounts and sessions",
		Subjects:     []string{"user.>", "session.>", "apikey.>", "key.>"},
		Storage:      jetstream.FileStorage,
		Replicas:     replicas,
		Retention:    jetstream.LimitsPolicy,
		Discard:      jetstream.DiscardOld,
		MaxAge:       30 * 24 * time.Hour,
		MaxBytes:     1 << 30,
		MaxMsgSize:   64 << 10,
		MaxConsumers: 1000,
		Duplicates:   30 * time.Minute,
		DenyDelete:   true,
		AllowDirect:  true,
	}
}

// ensureStream makes the stream if it is not there, and returns how one that is differs from
// it: an operator's choice, or another's stream, which is not for us to change.
func ensureStream(ctx context.Context, js jetstream.JetStream, replicas int) (differences []string, err error) {
	found, err := js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, stream(replicas)) // the same twice is no error
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return differ(found.CachedInfo().Config, stream(replicas)), nil
}

// differ names the settings in which a stream is not what is wanted.
func differ(found, wanted jetstream.StreamConfig) (names []string) {
	slices.Sort(found.Subjects)
	slices.Sort(wanted.Subjects)
	for name, same := range map[string]bool{
		"subjects":         slices.Equal(found.Subjects, wanted.Subjects),
		"storage":          found.Storage == wanted.Storage,
		"replicas":         found.Replicas == wanted.Replicas,
		"retention":        found.Retention == wanted.Retention,
		"discard":          found.Discard == wanted.Discard,
		"max_age":          found.MaxAge == wanted.MaxAge,
		"max_bytes":        found.MaxBytes == wanted.MaxBytes,
		"max_consumers":    found.MaxConsumers == wanted.MaxConsumers,
		"duplicate_window": found.Duplicates == wanted.Duplicates,
		"deny_delete":      found.DenyDelete == wanted.DenyDelete,
	} {
		if !same {
			names = append(names, name+" differs")
		}
	}
	slices.Sort(names)
	return names
}
