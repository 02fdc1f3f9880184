package mail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// Failed is the data of mail.failed: a mail that was given up.
type Failed struct {
	ID        string          `json:"id"` // of the event that asked for it
	Kind      events.MailKind `json:"kind"`
	UserID    auth.UserID     `json:"userId"`
	To        string          `json:"to"`     // masked
	Reason    string          `json:"reason"` // addresses masked
	At        time.Time       `json:"at"`     // when it was given up
	ExpiresAt time.Time       `json:"expiresAt,omitzero"`
	Tries     int             `json:"tries"`
	Sealed    []byte          `json:"sealed,omitempty"` // what was asked for, as in the outbox; empty if it could not be opened
}

// Expired tells that putting the mail back would not send it.
func (f Failed) Expired(now time.Time) bool {
	return !f.ExpiresAt.IsZero() && !now.Before(f.ExpiresAt)
}

// keep publishes a mail that was given up. Its event's id follows from the mail's, so that the
// stream drops it if it is given up twice.
func (m *Mailer) keep(ctx context.Context, t try, cause error) error {
	sealed, err := m.seal(t)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	data, err := json.Marshal(Failed{
		ID: t.event.ID, Kind: t.mail.Kind, UserID: t.mail.UserID, To: Masked(t.mail.To), Reason: Masked(cause.Error()),
		At: now, ExpiresAt: t.mail.ExpiresAt, Tries: t.tries, Sealed: sealed,
	})
	if err != nil {
		return fmt.Errorf("encode %s: %w", events.MailFailedType, err)
	}
	e := events.Event{
		ID: t.event.ID + ".failed", Type: events.MailFailedType, Subject: fmt.Sprint(t.mail.UserID),
		Time: now, Data: data, Trace: t.event.Trace,
	}
	ctx, cancel := context.WithTimeout(ctx, busWithin)
	defer cancel()
	if _, err := m.JS.PublishMsg(ctx, e.Message()); err != nil {
		return fmt.Errorf("publish %s: %w", e.Type, err)
	}
	return nil
}

// seal seals a mail that is given up. One that was not opened is not kept.
func (m *Mailer) seal(t try) ([]byte, error) {
	if t.sealed {
		return nil, nil
	}
	plain, err := json.Marshal(t.mail)
	if err != nil {
		return nil, fmt.Errorf("encode mail: %w", err)
	}
	return m.Seal(plain)
}

// FailedMails hands the mails that were given up to fn, the oldest first, with their sequence in
// AUTH_MAIL_FAILED. It returns fn's error if fn returns one, and jetstream.ErrStreamNotFound if
// nobody has made the stream yet. What is in the stream and no such mail is passed over.
func FailedMails(ctx context.Context, js jetstream.JetStream, fn func(sequence uint64, f Failed) error) error {
	stream, err := js.Stream(ctx, events.MailFailedStream)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", events.MailFailedStream, err)
	}
	for next := uint64(1); ; {
		m, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(events.MailFailedType)) // that one or a later one
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read stream %s: %w", events.MailFailedStream, err)
		}
		next = m.Sequence + 1
		var f Failed
		if json.Unmarshal(m.Data, &f) != nil {
			continue
		}
		if err := fn(m.Sequence, f); err != nil {
			return err
		}
	}
}

// Forget takes a mail out of those that were given up, once it was put back. That it is not there
// any more is no error.
func Forget(ctx context.Context, js jetstream.JetStream, sequence uint64) error {
	stream, err := js.Stream(ctx, events.MailFailedStream)
	if err == nil {
		err = stream.DeleteMsg(ctx, sequence)
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("delete from stream %s: %w", events.MailFailedStream, err)
	}
	return nil
}

// Queue is how things stand with the mails.
type Queue struct {
	Waiting int       `json:"waiting"` // not sent yet, those that are tried again included
	Retried int       `json:"retried"` // of them, failed at least once
	Oldest  time.Time `json:"oldest,omitzero"`
	Failed  int       `json:"failed"` // given up
}

// Look tells how things stand. Without the streams, which the first relay makes, there are no
// mails, and the error is jetstream.ErrStreamNotFound.
func Look(ctx context.Context, js jetstream.JetStream) (q Queue, err error) {
	queue, err := js.Stream(ctx, events.MailStream)
	if err != nil {
		return q, fmt.Errorf("read stream %s: %w", events.MailStream, err)
	}
	failed, err := js.Stream(ctx, events.MailFailedStream)
	if err != nil {
		return q, fmt.Errorf("read stream %s: %w", events.MailFailedStream, err)
	}
	state := queue.CachedInfo().State
	q.Waiting, q.Failed = int(state.Msgs), int(failed.CachedInfo().State.Msgs)
	if q.Waiting > 0 {
		q.Oldest = state.FirstTime.UTC()
	}
	consumer, err := queue.Consumer(ctx, Consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound): // nobody has sent any yet
		return q, nil
	case err != nil:
		return q, fmt.Errorf("read consumer %s: %w", Consumer, err)
	}
	q.Retried = consumer.CachedInfo().NumRedelivered
	return q, nil
}
