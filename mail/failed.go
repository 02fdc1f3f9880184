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

// Failed is the data of mail.failed: an abandoned mail.
type Failed struct {
	ID        string          `json:"id"` // of the event that requested the mail
	Kind      events.MailKind `json:"kind"`
	UserID    auth.UserID     `json:"userId"`
	To        string          `json:"to"`     // masked
	Reason    string          `json:"reason"` // addresses masked
	At        time.Time       `json:"at"`     // when the mail was abandoned
	ExpiresAt time.Time       `json:"expiresAt,omitzero"`
	Tries     int             `json:"tries"`
	Sealed    []byte          `json:"sealed,omitempty"` // the requested mail, sealed as in the outbox; empty if it could not be opened
}

// Expired reports whether the mail has expired, so that putting it back would not send it.
func (f Failed) Expired(now time.Time) bool {
	return !f.ExpiresAt.IsZero() && !now.Before(f.ExpiresAt)
}

// keep publishes an abandoned mail. The id of its event derives from the id of the mail, so that the
// stream drops the repeat if the mail is abandoned twice.
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

// seal seals an abandoned mail. It returns nil for a mail that could not be opened.
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

// FailedMails calls fn with each abandoned mail, the oldest first, and its sequence in
// AUTH_MAIL_FAILED. It returns fn's error if fn returns one, and jetstream.ErrStreamNotFound if
// the stream does not exist yet. It skips messages that are not abandoned mails.
func FailedMails(ctx context.Context, js jetstream.JetStream, fn func(sequence uint64, f Failed) error) error {
	stream, err := js.Stream(ctx, events.MailFailedStream)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", events.MailFailedStream, err)
	}
	for next := uint64(1); ; {
		m, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(events.MailFailedType)) // the message at next, or the first later one
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

// Forget deletes an abandoned mail from its stream after it was put back. A mail that is already
// deleted is no error.
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

// Queue is the state of the mail queue.
type Queue struct {
	Waiting int       `json:"waiting"` // not sent yet, including retries
	Retried int       `json:"retried"` // waiting mails that failed at least once
	Oldest  time.Time `json:"oldest,omitzero"`
	Failed  int       `json:"failed"` // abandoned
}

// Look returns the state of the mail queue. It returns jetstream.ErrStreamNotFound if the streams,
// which the first relay creates, do not exist.
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
	case errors.Is(err, jetstream.ErrConsumerNotFound): // no mailer has run yet
		return q, nil
	case err != nil:
		return q, fmt.Errorf("read consumer %s: %w", Consumer, err)
	}
	q.Retried = consumer.CachedInfo().NumRedelivered
	return q, nil
}
