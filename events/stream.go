package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The names of the streams.
const (
	Stream           = "AUTH_EVENTS"      // keeps the events
	MailStream       = "AUTH_MAIL"        // the mails to be sent
	MailFailedStream = "AUTH_MAIL_FAILED" // those that were given up
)

// MailKept is how long AUTH_MAIL keeps a mail that nobody takes. It is longer than a mail is tried
// (a day), so that one that cannot be sent is given up and not dropped by the stream.
const MailKept = 48 * time.Hour

// streams are all streams as the service makes them.
func streams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{eventStream(replicas), mailStream(replicas), failedStream(replicas)}
}

// eventStream is AUTH_EVENTS. What is in it is never changed; it goes by
// age, or sooner if there is too much of it. Purging stays open to the operator: events hold
// addresses, and who asks to be forgotten may be owed it.
func eventStream(replicas int) jetstream.StreamConfig {
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

// mailStream is AUTH_MAIL, a queue: what was sent is gone. Where there is too much, the oldest
// goes: a relay that is refused would hold up the events as well. There is no direct access, which
// would let more people read than may consume.
func mailStream(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:         MailStream,
		Description:  "Mails to be sent",
		Subjects:     []string{MailType},
		Storage:      jetstream.FileStorage,
		Replicas:     replicas,
		Retention:    jetstream.WorkQueuePolicy,
		Discard:      jetstream.DiscardOld,
		MaxAge:       MailKept,
		MaxBytes:     256 << 20,
		MaxMsgSize:   64 << 10,
		MaxConsumers: 10,
		Duplicates:   30 * time.Minute,
	}
}

// failedStream is AUTH_MAIL_FAILED. Operators take mails out of it.
func failedStream(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:         MailFailedStream,
		Description:  "Mails that were given up",
		Subjects:     []string{MailFailedType},
		Storage:      jetstream.FileStorage,
		Replicas:     replicas,
		Retention:    jetstream.LimitsPolicy,
		Discard:      jetstream.DiscardOld,
		MaxAge:       30 * 24 * time.Hour,
		MaxBytes:     64 << 20,
		MaxMsgSize:   128 << 10, // a sealed mail is longer than the mail
		MaxConsumers: 10,
		Duplicates:   30 * time.Minute,
	}
}

// ensureStream makes a stream if it is not there, and returns how one that is differs from
// it: an operator's choice, or another's stream, which is not for us to change.
func ensureStream(ctx context.Context, js jetstream.JetStream, wanted jetstream.StreamConfig) (differences []string, err error) {
	found, err := js.Stream(ctx, wanted.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, wanted) // the same twice is no error
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return differ(found.CachedInfo().Config, wanted), nil
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

// StreamState is how a stream of the service is.
type StreamState struct {
	Name        string
	Exists      bool     // a relay makes those that do not, once it runs
	Differences []string // from what the service would make, as in "max_age differs"
	Messages    uint64
	Bytes, Most uint64 // kept, and that may be
	Replicas    int
	Clustered   bool
	Leader      string   // "" if the cluster has chosen none
	Behind      []string // replicas that are away or not up to date
	Consumers   int
	Ahead       time.Duration // of the server's clock before ours, as exact as Latency
	Latency     time.Duration
}

// Inspect looks how the streams are, which it does not change. Replicas is how many copies there
// should be. An error means that they cannot be looked at.
func Inspect(ctx context.Context, js jetstream.JetStream, replicas int) (list []StreamState, err error) {
	for _, wanted := range streams(replicas) {
		state, err := inspect(ctx, js, wanted)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", wanted.Name, err)
		}
		list = append(list, state)
	}
	return list, nil
}

func inspect(ctx context.Context, js jetstream.JetStream, wanted jetstream.StreamConfig) (s StreamState, err error) {
	s = StreamState{Name: wanted.Name, Most: uint64(wanted.MaxBytes)}
	begun := time.Now()
	stream, err := js.Stream(ctx, wanted.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	info := stream.CachedInfo()
	s.Latency = time.Since(begun)
	s.Ahead = info.TimeStamp.Sub(begun.Add(s.Latency / 2))
	s.Exists, s.Differences = true, differ(info.Config, wanted)
	s.Messages, s.Bytes, s.Consumers = info.State.Msgs, info.State.Bytes, info.State.Consumers
	s.Replicas, s.Most = info.Config.Replicas, uint64(max(0, info.Config.MaxBytes))
	if info.Cluster == nil {
		return s, nil
	}
	s.Clustered, s.Leader = info.Cluster.Name != "", info.Cluster.Leader
	for _, peer := range info.Cluster.Replicas {
		switch {
		case peer.Offline:
			s.Behind = append(s.Behind, peer.Name+" is away")
		case !peer.Current:
			s.Behind = append(s.Behind, fmt.Sprintf("%s is %d behind", peer.Name, peer.Lag))
		}
	}
	return s, nil
}
