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
	Stream           = "AUTH_EVENTS"      // events
	MailStream       = "AUTH_MAIL"        // mails to be sent
	MailFailedStream = "AUTH_MAIL_FAILED" // abandoned mails
)

// MailKept is how long AUTH_MAIL keeps a mail that no mailer acknowledges. It is longer than the period of
// attempts (a day), so that the mailer abandons an undeliverable mail before the stream drops it.
const MailKept = 48 * time.Hour

// streams returns the configurations of all streams of the service.
func streams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{eventStream(replicas), mailStream(replicas), failedStream(replicas)}
}

// eventStream returns the configuration of AUTH_EVENTS. Its events are never changed. The stream drops them
// by age, or earlier if it is full. Operators may purge it: events hold addresses, and a user may have a
// right to erasure.
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

// mailStream returns the configuration of AUTH_MAIL, a queue: sent mails are removed. A full stream drops
// the oldest mails: if it refused new mails, the relay would hold up the events as well. Direct access is
// off, because it would let clients read that may not consume.
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

// failedStream returns the configuration of AUTH_MAIL_FAILED. Operators remove mails from it.
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

// ensureStream creates a stream that does not exist. For an existing stream, it returns the differences from
// the wanted configuration and changes nothing: an operator may have set them, or the stream may belong to
// another service.
func ensureStream(ctx context.Context, js jetstream.JetStream, wanted jetstream.StreamConfig) (differences []string, err error) {
	found, err := js.Stream(ctx, wanted.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, wanted) // creating the same stream twice is no error
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return differ(found.CachedInfo().Config, wanted), nil
}

// differ returns the settings in which a stream differs from the wanted configuration.
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

// StreamState is the state of a stream of the service.
type StreamState struct {
	Name        string
	Exists      bool     // a running relay creates missing streams
	Differences []string // from the configuration that the service would create, as in "max_age differs"
	Messages    uint64
	Bytes, Most uint64 // stored bytes and their limit
	Replicas    int
	Clustered   bool
	Leader      string   // "" if the cluster has elected none
	Behind      []string // replicas that are unreachable or not up to date
	Consumers   int
	Ahead       time.Duration // how far the server's clock is ahead of the local one, accurate to Latency
	Latency     time.Duration
}

// Inspect returns the state of the streams and does not change them. replicas is the wanted number of
// copies. It returns an error if it cannot read a stream.
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
