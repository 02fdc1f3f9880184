package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/internal/trace"
)

const (
	// handledWithin is how long the stream waits for an acknowledgement or a progress message
	// before it considers the receiver dead.
	handledWithin = 30 * time.Second
	// pullFor and pullHeartbeat are the lifetime of a pull request for an event, and the interval
	// of the heartbeats that the stream sends during it.
	pullFor       = 30 * time.Second
	pullHeartbeat = 5 * time.Second

	defaultTries   = 10
	defaultTimeout = time.Minute
)

// defaultBackoff and ten attempts bridge about fifty minutes.
var defaultBackoff = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}

// Consumer configures a receiver of events. Only Name is required. Subscribe refuses a negative
// Tries, Timeout or value of Backoff.
type Consumer struct {
	// Name is the name of the durable consumer on the stream, which stores the handled position:
	// letters, digits, - and _. Instances of one service use one name and share the events.
	Name string
	// From is the sequence of the first event, if the consumer is new: one more than the sequence of
	// the snapshot that the caller took before. 0 is the oldest event in the stream.
	From uint64
	// Tries is the number of attempts before an event becomes a DeadLetter. 0 is 10.
	Tries int
	// Backoff lists the delays after failed attempts; the last value repeats. Empty is
	// 1s, 5s, 30s, 2m, 10m.
	Backoff []time.Duration
	// Timeout ends the context of a handler. 0 is a minute.
	Timeout time.Duration
	// Dead is called with each event that becomes a DeadLetter, and the reason, before the stream
	// drops the event for this consumer.
	Dead func(Event, error)
	// Log receives failures. nil is slog.Default.
	Log *slog.Logger
}

// Handler handles the events of one type. See On.
type Handler struct {
	subject string
	handle  func(context.Context, Event) error
}

// On returns a Handler that calls fn; the last argument of fn determines the type of the events. An
// event is acknowledged when fn returns nil, and is redelivered when fn returns an error.
func On[D Data](fn func(context.Context, Event, D) error) Handler {
	var none D
	return Handler{none.Type(), func(ctx context.Context, e Event) error {
		var d D
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return &unreadableError{err}
		}
		return fn(ctx, e, d)
	}}
}

// unreadableError is the error of a message that no later attempt can read.
type unreadableError struct{ cause error }

func (e *unreadableError) Error() string { return "unreadable event: " + e.cause.Error() }
func (e *unreadableError) Unwrap() error { return e.cause }

// Subscription is a durable consumer whose events are handled while Run runs.
type Subscription struct {
	Consumer

	conn     *nats.Conn
	js       jetstream.JetStream
	handlers map[string]Handler // by type
	subjects []string
	consumer jetstream.Consumer // nil if it has to be found or created again
}

// Subscribe finds or creates a durable consumer of the event types of the handlers. An existing
// consumer continues from its position. If it had other types, removed types are no longer
// delivered, and new types are delivered from that position on.
//
//	s, err := events.Subscribe(ctx, conn, events.Consumer{Name: "mailer"}, events.On(welcome), events.On(forget))
//	err = s.Run(ctx)
//
// It returns an error for an invalid Consumer, and if the stream does not exist or the
// connection's user may not consume it: on the embedded server, the role subscriber may.
func Subscribe(ctx context.Context, conn *nats.Conn, c Consumer, handlers ...Handler) (*Subscription, error) {
	c, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", c.Name, err)
	}
	s := &Subscription{Consumer: c, conn: conn, handlers: map[string]Handler{}}
	for _, h := range handlers {
		if _, twice := s.handlers[h.subject]; twice {
			return nil, fmt.Errorf("subscribe %s: two handlers for %s", c.Name, h.subject)
		}
		s.handlers[h.subject] = h
		s.subjects = append(s.subjects, h.subject)
	}
	if len(handlers) == 0 {
		return nil, fmt.Errorf("subscribe %s: no handlers", c.Name)
	}
	slices.Sort(s.subjects)
	if s.js, err = jetstream.New(conn); err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", c.Name, err)
	}
	if err := s.ensure(ctx, c.From); err != nil {
		return nil, err
	}
	return s, nil
}

// check returns the consumer with its defaults, or an error for a negative value.
func (c Consumer) check() (Consumer, error) {
	isNegative := func(d time.Duration) bool { return d < 0 }
	switch i := slices.IndexFunc(c.Backoff, isNegative); {
	case c.Tries < 0:
		return c, fmt.Errorf("the field Tries is %d, but must not be negative", c.Tries)
	case c.Timeout < 0:
		return c, fmt.Errorf("the field Timeout is %s, but must not be negative", c.Timeout)
	case i >= 0:
		return c, fmt.Errorf("the field Backoff has the value %s, but must not be negative", c.Backoff[i])
	}
	if c.Tries == 0 {
		c.Tries = defaultTries
	}
	if len(c.Backoff) == 0 {
		c.Backoff = defaultBackoff
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("consumer", c.Name)
	return c, nil
}

// ensure finds or creates the consumer. An existing consumer keeps its position and its start.
//
// One event is in flight at a time, across all instances: with more, later events of the same
// user would overtake an event that is retried. So a failed event holds up the events behind it
// until it succeeds or becomes a DeadLetter. Subscription counts the attempts, not the stream
// (MaxDeliver), which would drop an event without a call of Dead.
func (s *Subscription) ensure(ctx context.Context, from uint64) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	config := jetstream.ConsumerConfig{
		Durable: s.Name, FilterSubjects: s.subjects, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: handledWithin, MaxDeliver: -1, MaxAckPending: 1,
	}
	if from > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	found, err := s.js.Consumer(ctx, Stream, s.Name)
	if err == nil {
		old := found.CachedInfo().Config
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = old.DeliverPolicy, old.OptStartSeq, old.OptStartTime
		config.Metadata = old.Metadata
	}
	if err == nil || errors.Is(err, jetstream.ErrConsumerNotFound) {
		s.consumer, err = s.js.CreateOrUpdateConsumer(ctx, Stream, config)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer; is the user allowed to consume the stream? %w", err)
	}
	if err != nil {
		return fmt.Errorf("subscribe %s to stream %s: %w", s.Name, Stream, err)
	}
	return nil
}

// Run handles events until ctx ends; then it finishes the current event and returns nil. It
// reconnects after outages of the bus and the stream. It returns an error if the connection is closed.
func (s *Subscription) Run(ctx context.Context) error {
	for away := false; ; {
		err := s.follow(ctx, &away)
		switch {
		case ctx.Err() != nil:
			return nil
		case s.conn.IsClosed():
			return fmt.Errorf("events for %s: %w", s.Name, err)
		case !away:
			s.Log.Warn("events do not arrive; they wait", "err", err)
		}
		away = true
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(relayEvery):
		}
	}
}

// follow handles events until ctx ends or it cannot receive one. A consumer that has to be created
// again begins with the oldest event: the stream may be a new one.
func (s *Subscription) follow(ctx context.Context, away *bool) error {
	if s.consumer == nil {
		if err := s.ensure(ctx, 0); err != nil {
			return err
		}
	}
	messages, err := s.consumer.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullFor), jetstream.PullHeartbeat(pullHeartbeat))
	s.consumer = nil
	if err != nil {
		return err
	}
	defer messages.Stop()
	if *away {
		s.Log.Info("events arrive again")
		*away = false
	}
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if err := s.receive(context.WithoutCancel(ctx), m); err != nil {
			s.Log.Warn("event is not acknowledged; it comes again", "err", err)
		}
	}
}

// receive handles one message and reports the result to the stream.
func (s *Subscription) receive(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	tried := int(min(meta.NumDelivered, 1<<20))
	e, err := Parse(m.Headers(), m.Data())
	switch {
	case err != nil:
		e = Event{ID: m.Headers().Get(headerID), Type: m.Subject(), Data: m.Data()}
		err = &unreadableError{err}
	case e.Type != m.Subject():
		err = &unreadableError{fmt.Errorf("%s on subject %s", e.Type, m.Subject())}
	case tried > s.Tries:
		err = errors.New("the receiver died of it, or was away, each time")
	default:
		err = s.handle(ctx, m, e)
	}
	var unreadable *unreadableError
	switch {
	case err == nil:
		return m.Ack()
	case errors.As(err, &unreadable):
		return s.bury(ctx, m, e, err, "unreadable")
	case tried >= s.Tries:
		return s.bury(ctx, m, e, err, fmt.Sprintf("failed %d times", s.Tries))
	}
	wait := s.Backoff[min(tried, len(s.Backoff))-1]
	s.Log.Warn("event is tried again", "id", e.ID, "type", e.Type, "tried", tried, "in", wait.String(), "err", err)
	return m.NakWithDelay(wait)
}

// handle calls the event's handler, as part of the event's trace, and sends progress messages to
// the stream until the handler returns. A panic counts as the handler's error.
func (s *Subscription) handle(ctx context.Context, m jetstream.Msg, e Event) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(handledWithin / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = m.InProgress() // if it is lost, the event is redelivered
			}
		}
	}()
	defer func() {
		cancel()
		<-stopped
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.handlers[e.Type].handle(trace.Within(ctx, e.Trace), e)
}

// DeadLetter is an event that a consumer has given up. The metadata of the consumer holds the
// latest dead letters under "dead_letters", where "nats consumer info" shows them. The event
// itself stays in the stream under its sequence until the stream drops it.
type DeadLetter struct {
	Sequence uint64    `json:"sequence"`
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	Reason   string    `json:"reason"` // without the handler's error, which is for its own log
	At       time.Time `json:"at"`
}

const (
	metaDead = "dead_letters"
	maxDead  = 20 // dead letters in the metadata, which is small
)

// bury gives up an event. It logs the event and calls Dead before it notes and terminates the event,
// so that Dead is called even if a later step fails.
func (s *Subscription) bury(ctx context.Context, m jetstream.Msg, e Event, cause error, reason string) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	letter := DeadLetter{meta.Sequence.Stream, e.ID, e.Type, reason, time.Now().UTC().Truncate(time.Second)}
	s.Log.Error("event is given up", "sequence", letter.Sequence, "id", e.ID, "type", e.Type, "reason", reason, "err", cause)
	if s.Dead != nil {
		s.Dead(e, cause)
	}
	if err := s.note(ctx, letter); err != nil {
		s.Log.Warn("dead letter is not noted at the consumer", "sequence", letter.Sequence, "err", err)
	}
	return m.TermWithReason(reason)
}

// note writes a dead letter into the consumer's metadata.
func (s *Subscription) note(ctx context.Context, letter DeadLetter) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	consumer, err := s.js.Consumer(ctx, Stream, s.Name)
	if err != nil {
		return err
	}
	config := consumer.CachedInfo().Config
	var letters []DeadLetter
	_ = json.Unmarshal([]byte(config.Metadata[metaDead]), &letters) // the value may be missing, or written by another program
	letters = append(letters, letter)
	text, err := json.Marshal(letters[max(0, len(letters)-maxDead):])
	if err != nil {
		return err
	}
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[metaDead] = string(text)
	_, err = s.js.UpdateConsumer(ctx, Stream, config)
	return err
}
