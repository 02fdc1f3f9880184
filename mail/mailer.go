package mail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/trace"
)

const (
	// Consumer is the durable consumer on the stream AUTH_MAIL that all mailers share.
	Consumer = "mailer"

	// atOnce is the maximum number of mails that an instance sends concurrently. Few servers welcome
	// more connections from one client.
	atOnce = 4
	// sendWithin limits the time of an attempt, from reading the mail to the last packet.
	sendWithin = 30 * time.Second
	// heldFor is how long the stream waits for a progress message of a mail before it
	// considers the mailer dead.
	heldFor = 15 * time.Second
	// busWithin limits the time of a request to the bus.
	busWithin = 5 * time.Second
	// awayFor is the delay after a failed read of the queue.
	awayFor = time.Second

	defaultPatience = 24 * time.Hour
)

// defaultBackoff suits a server restart, then greylisting (RFC 6647), then an outage.
var defaultBackoff = []time.Duration{30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}

// Sender sends a letter. Send returns nil after the server has accepted the letter for delivery, and a
// Refused if the server permanently refuses it.
type Sender interface {
	Send(context.Context, Letter) error
}

// Refused is the error of a letter that no later attempt can deliver.
type Refused struct{ Cause error }

func (e *Refused) Error() string { return e.Cause.Error() }
func (e *Refused) Unwrap() error { return e.Cause }

// Mailer sends the requested mails. Read, Backoff and Patience are optional.
type Mailer struct {
	JS        jetstream.JetStream // in the role mailer
	Templates *Templates
	Sender    Sender
	Seal      func(mail []byte) ([]byte, error) // seals an abandoned mail for storage
	Log       *slog.Logger

	// Read opens the mail of an event: see events.OpenMail. nil reads only mails in plaintext.
	Read func(events.Event) (events.Mail, error)

	Backoff  []time.Duration // delays after failed attempts; the last repeats. Empty is 30s, 2m, 10m, 30m, 1h
	Patience time.Duration   // how long after its request a mail is retried. 0 is a day

	counts mailerCounts
}

// Stats counts the results of a Mailer's attempts since the start.
type Stats struct {
	Sent    int64
	Retried int64 // failed attempts that are retried
	GivenUp int64 // mails that became dead letters
	Expired int64 // mails whose link or code had expired
}

type mailerCounts struct{ sent, retried, givenUp, expired atomic.Int64 }

// Stats returns the counters of the mailer.
func (m *Mailer) Stats() Stats {
	c := &m.counts
	return Stats{Sent: c.sent.Load(), Retried: c.retried.Load(), GivenUp: c.givenUp.Load(), Expired: c.expired.Load()}
}

// Run sends mails until ctx ends; then it finishes the mails in flight and returns nil. It
// reconnects after outages of the bus and the stream.
func (m *Mailer) Run(ctx context.Context) error {
	var sending sync.WaitGroup
	defer sending.Wait()
	free := make(chan struct{}, atOnce)
	for away := false; ; {
		err := m.follow(ctx, free, &sending, &away)
		if ctx.Err() != nil {
			return nil
		}
		if !away && !errors.Is(err, jetstream.ErrStreamNotFound) { // the first relay creates the stream
			m.Log.Warn("mails cannot be taken from the queue; they wait", "err", err)
			away = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(awayFor):
		}
	}
}

// follow passes mails to goroutines until ctx ends or it cannot receive one. It requests a mail only
// when it can send the mail immediately, so that no mail waits in the instance.
func (m *Mailer) follow(ctx context.Context, free chan struct{}, sending *sync.WaitGroup, away *bool) error {
	consumer, err := m.ensure(ctx)
	if err != nil {
		return err
	}
	if *away {
		m.Log.Info("mails are taken from the queue again")
		*away = false
	}
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		msg, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil {
			<-free
			if err := ctx.Err(); err != nil {
				return err
			}
			if errors.Is(err, nats.ErrTimeout) {
				continue // no mail was requested within 30 s
			}
			return err
		}
		sending.Go(func() {
			defer func() { <-free }()
			m.receive(context.WithoutCancel(ctx), msg)
		})
	}
}

// ensure finds or creates the consumer. The Mailer counts the attempts, not the stream (MaxDeliver),
// which would drop a mail without a report. MaxAckPending is unlimited, because mails that wait for their
// next attempt are unacknowledged too; follow limits the mails in flight.
func (m *Mailer) ensure(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, busWithin)
	defer cancel()
	return m.JS.CreateOrUpdateConsumer(ctx, events.MailStream, jetstream.ConsumerConfig{
		Durable: Consumer, Description: "Sends mails", DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: heldFor, MaxDeliver: -1, MaxAckPending: -1,
	})
}

// receive sends one mail and reports the result to the stream.
func (m *Mailer) receive(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		m.Log.Error("mail is not one of the queue", "err", err)
		return
	}
	t := try{msg: msg, tries: int(min(meta.NumDelivered, 1<<20))}
	err = m.attempt(ctx, &t)
	log := m.Log.With("id", t.event.ID, "kind", string(t.mail.Kind), "userId", int64(t.mail.UserID), "to", Masked(t.mail.To), "tries", t.tries)
	var refused *Refused
	switch {
	case err == nil:
		m.counts.sent.Add(1)
		m.sent(ctx, log, msg)
	case errors.Is(err, errExpired):
		m.counts.expired.Add(1)
		log.Warn("mail has expired and is not sent", "expired", t.mail.ExpiresAt)
		m.settle(log, msg.TermWithReason("expired"))
	case errors.As(err, &refused) || time.Since(t.event.Time) > m.patience():
		m.giveUp(ctx, log, t, err)
	default:
		wait := m.backoff(t.tries)
		m.counts.retried.Add(1)
		log.Warn("mail is tried again", "in", wait.String(), "err", Masked(err.Error()))
		m.settle(log, msg.NakWithDelay(wait))
	}
}

// try is an attempt to send a mail.
type try struct {
	msg   jetstream.Msg
	tries int // number of attempts, including this one
	event events.Event
	mail  events.Mail

	sealed bool // no key opened the mail
}

var errExpired = errors.New("expired")

// attempt reads a mail, writes it and sends it. Until it returns, it sends progress messages to the
// stream. It returns a panic as an error.
func (m *Mailer) attempt(ctx context.Context, t *try) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	var held sync.WaitGroup
	held.Go(func() { hold(ctx, t.msg) })
	defer func() {
		cancel()
		held.Wait()
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := m.read(t); err != nil {
		return err
	}
	sending, span := t.startSpan(ctx)
	defer func() { span.End(err) }()
	if !t.mail.ExpiresAt.IsZero() && !time.Now().Before(t.mail.ExpiresAt) {
		return errExpired
	}
	letter, err := m.Templates.Write(t.event, t.mail)
	if err != nil {
		return err // a newer instance may have the template
	}
	return m.Sender.Send(sending, letter)
}

// startSpan begins the span of an attempt, in the trace of the request that caused the mail.
func (t *try) startSpan(ctx context.Context) (context.Context, trace.Span) {
	if t.event.Trace == "" {
		return ctx, trace.Span{}
	}
	ctx, span := trace.Start(trace.Within(ctx, t.event.Trace), trace.Consumer, "process "+events.MailType)
	span.Text("messaging.system", "nats")
	span.Text("messaging.operation.type", "process")
	span.Text("messaging.destination.name", events.MailType)
	span.Text("messaging.message.id", t.event.ID)
	return ctx, span
}

// read reads the requested mail. A mail that is sealed with another key is retried: another instance
// may have the key while SECRET_KEY is being replaced.
func (m *Mailer) read(t *try) (err error) {
	if t.event, err = events.Parse(t.msg.Headers(), t.msg.Data()); err != nil {
		return &Refused{fmt.Errorf("unreadable: %w", err)}
	}
	read := m.Read
	if read == nil {
		read = func(e events.Event) (events.Mail, error) { return events.OpenMail(e) }
	}
	t.mail, err = read(t.event)
	t.sealed = errors.Is(err, events.ErrMailSealed)
	if err != nil && !t.sealed {
		return &Refused{fmt.Errorf("unreadable: %w", err)}
	}
	return err
}

// hold keeps the stream from redelivering a mail until ctx ends.
func hold(ctx context.Context, msg jetstream.Msg) {
	tick := time.NewTicker(heldFor / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = msg.InProgress() // if it is lost, the mail may be sent twice
		}
	}
}

// sent acknowledges a sent mail and waits until the stream confirms the acknowledgement.
func (m *Mailer) sent(ctx context.Context, log *slog.Logger, msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(ctx, busWithin)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		log.Error("mail was sent, which could not be noted: it may be sent again", "err", err)
		return
	}
	log.Info("mail sent")
}

// giveUp publishes a mail to AUTH_MAIL_FAILED and then removes it from the queue, so that the mail is in
// one of the streams even if a step fails.
func (m *Mailer) giveUp(ctx context.Context, log *slog.Logger, t try, cause error) {
	log.Error("mail is given up", "err", Masked(cause.Error()))
	if err := m.keep(ctx, t, cause); err != nil {
		log.Error("mail that was given up cannot be kept; it is tried again", "err", err)
		m.settle(log, t.msg.NakWithDelay(m.backoff(t.tries)))
		return
	}
	m.counts.givenUp.Add(1)
	m.settle(log, t.msg.TermWithReason("given up"))
}

// settle logs that the result of a mail could not be reported to the stream, which then redelivers the mail.
func (m *Mailer) settle(log *slog.Logger, err error) {
	if err != nil {
		log.Error("what became of a mail could not be noted", "err", err)
	}
}

func (m *Mailer) patience() time.Duration {
	if m.Patience == 0 {
		return defaultPatience
	}
	return m.Patience
}

// backoff returns the delay after the given number of attempts.
func (m *Mailer) backoff(tries int) time.Duration {
	list := m.Backoff
	if len(list) == 0 {
		list = defaultBackoff
	}
	return list[min(tries, len(list))-1]
}
