package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
)

// opening starts a relay that opens events so, on a bus of its own.
func opening(t *testing.T, open func(events.Event) (events.Event, error)) (*outbox, jetstream.JetStream, *events.Relay) {
	t.Helper()
	js, box := relayJetStream(t), &outbox{woken: make(chan struct{}, 1)}
	relay := &events.Relay{Outbox: box, JS: js, Replicas: 1, Log: slog.New(slog.DiscardHandler), Open: open}
	relaying(t, relay)
	return box, js, relay
}

// relayJetStream is that of a bus of its own, in the role of the relay.
func relayJetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	bus, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: embedded.Off})
	check(t, err)
	t.Cleanup(bus.Shutdown)
	conn, err := nats.Connect("", bus.InProcess(), bus.As(embedded.Relay))
	check(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	check(t, err)
	return js
}

// relaying runs a relay until the test ends.
func relaying(t *testing.T, relay *events.Relay) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	t.Cleanup(func() { stop(); check(t, <-ended) })
}

// missing is a JetStream that does not get the first event of a user once, as when its leader changes:
// the event is lost on the way, and the publisher hears so later.
type missing struct {
	jetstream.JetStream
	user string
	once sync.Once
}

func (m *missing) PublishMsgAsync(msg *nats.Msg, opts ...jetstream.PublishOpt) (future jetstream.PubAckFuture, err error) {
	if msg.Header.Get("ce-subject") == m.user {
		m.once.Do(func() { future = lost{msg} })
	}
	if future != nil {
		return future, nil
	}
	return m.JetStream.PublishMsgAsync(msg, opts...)
}

// lost is the acknowledgement of a message that was lost.
type lost struct{ msg *nats.Msg }

func (l lost) Ok() <-chan *jetstream.PubAck { return nil }
func (l lost) Msg() *nats.Msg               { return l.msg }
func (l lost) Err() <-chan error {
	failed := make(chan error, 1)
	failed <- errors.New("no leader")
	return failed
}

// If the stream misses an event, the later ones of the same user are not there before it.
func TestAnEventThatIsMissedComesBeforeTheLaterOnesOfItsUser(t *testing.T) {
	t.Parallel()
	box, js := &outbox{woken: make(chan struct{}, 1)}, relayJetStream(t)
	box.add(made(registered(1)[0], registered(2)[0], events.UserUpdated{UserID: 1}, events.UserUpdated{UserID: 2}, events.UserDeleted{UserID: 1})...)
	relaying(t, &events.Relay{Outbox: box, JS: &missing{JetStream: js, user: "1"}, Replicas: 1, Log: slog.New(slog.DiscardHandler)})
	box.emptied(t)
	var types []string
	stream, err := js.Stream(t.Context(), events.Stream)
	check(t, err)
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		check(t, err)
		if m.Header.Get("ce-subject") == "1" {
			types = append(types, m.Header.Get("ce-type"))
		}
	}
	if want := []string{"user.registered", "user.updated", "user.deleted"}; !slices.Equal(types, want) {
		t.Errorf("the stream has %q, want %q", types, want)
	}
}

// emptied waits until nothing is in the outbox.
func (o *outbox) emptied(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is in the outbox", func() bool {
		b, _ := o.Backlog(t.Context())
		return b.Events == 0
	})
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// subjects are the users of what a stream has, in its order.
func subjects(t *testing.T, js jetstream.JetStream, stream string) (list []string) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	check(t, err)
	state := s.CachedInfo().State
	for seq := max(state.FirstSeq, 1); seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		check(t, err)
		list = append(list, m.Header.Get("ce-subject")+string(m.Data[:min(len(m.Data), 4)]))
	}
	return list
}

func mail(user auth.UserID) events.Data { return events.MailRequested{UserID: user} }

// Mails go to a stream of their own, opened, and the order of each stream stays, also where what
// is between was there already.
func TestMailsGoToTheirOwnStreamOpened(t *testing.T) {
	t.Parallel()
	box, js, _ := opening(t, func(e events.Event) (events.Event, error) {
		if e.Type == events.MailType {
			e.Data = json.RawMessage(`"m"`)
		}
		return e, nil
	})
	list := made(mail(1), registered(2)[0], mail(3), mail(4), registered(5)[0], mail(6))
	box.add(list...)
	box.emptied(t)
	wantMails := []string{`1"m"`, `3"m"`, `4"m"`, `6"m"`}
	if got := subjects(t, js, events.MailStream); !slices.Equal(got, wantMails) {
		t.Errorf("mails %q", got)
	}
	if got := subjects(t, js, events.Stream); len(got) != 2 || got[0][0] != '2' || got[1][0] != '5' {
		t.Errorf("events %q", got)
	}
	// As after a crash: all of it once more, between what is new.
	fresh := made(mail(7), registered(8)[0], mail(9))
	box.add(slices.Concat(fresh[:1], list, fresh[1:])...)
	box.emptied(t)
	if got := subjects(t, js, events.MailStream); !slices.Equal(got, append(wantMails, `7"m"`, `9"m"`)) {
		t.Errorf("mails %q", got)
	}
	if got := subjects(t, js, events.Stream); len(got) != 3 || got[2][0] != '8' {
		t.Errorf("events %q", got)
	}
}

// What cannot be opened is passed over, and those behind it are published.
func TestWhatCannotBeOpenedHoldsUpNobody(t *testing.T) {
	t.Parallel()
	box, js, relay := opening(t, func(e events.Event) (events.Event, error) {
		if strings.HasSuffix(e.Subject, "3") || e.Subject == "1" {
			return events.Event{}, errors.New("sealed with another key")
		}
		return e, nil
	})
	box.emit(mail(1), mail(2), mail(3), registered(4)[0], mail(5))
	box.emptied(t)
	if got := subjects(t, js, events.MailStream); len(got) != 2 || got[0][0] != '2' || got[1][0] != '5' {
		t.Errorf("mails %q", got)
	}
	if got := subjects(t, js, events.Stream); len(got) != 1 {
		t.Errorf("events %q", got)
	}
	if got := relay.Stats(); got.Published != 3 || got.PassedOver != 2 || got.Failures != 0 {
		t.Errorf("%+v", got)
	}
}

// away is an outbox whose database is away for some turns.
type away struct {
	*outbox
	turns     atomic.Int64 // that still fail
	isSilent  bool         // it does not say either what waits
	waits     atomic.Int64 // how often a relay began to wait
	wakeUps   atomic.Int64 // how many wake-ups were left at the first turn that did not fail
	beganTurn chan struct{}
	hold      chan struct{} // the last turn that fails waits until it is closed; nil does not wait
}

var errAway = errors.New("the database is away")

func (a *away) Take(ctx context.Context, n int, publish func(context.Context, []events.Event) (int, error)) (int, error) {
	if left := a.turns.Add(-1); left >= 0 {
		if left == 0 && a.hold != nil {
			<-a.hold
		}
		return 0, errAway
	}
	if a.beganTurn != nil {
		close(a.beganTurn)
		<-ctx.Done()
		return 0, ctx.Err()
	}
	a.wakeUps.CompareAndSwap(0, int64(len(a.woken)))
	return a.outbox.Take(ctx, n, publish)
}

func (a *away) Backlog(ctx context.Context) (events.Backlog, error) {
	if a.isSilent && a.turns.Load() >= 0 {
		return events.Backlog{}, errAway
	}
	return a.outbox.Backlog(ctx)
}

func (a *away) Woken() <-chan struct{} {
	a.waits.Add(1)
	return a.outbox.Woken()
}

// lines are those of a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// While the database is away the log says so once, and then that events are published again. The
// next time it says so again.
func TestTheLogSaysOnceThatEventsWait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		isSilent bool
		want     string
	}{
		"with what waits":    {false, `level=ERROR msg="events are not published; they wait" err="the database is away" waiting=1 oldest=0001-01-01T00:00:00.000Z`},
		"without what waits": {true, `level=ERROR msg="events are not published; they wait" err="the database is away"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box, log := &away{outbox: &outbox{woken: make(chan struct{}, 1)}, isSilent: c.isSilent, hold: make(chan struct{})}, &lines{}
			box.turns.Store(2)
			box.emit(registered(1)...)
			relay := &events.Relay{Outbox: box, JS: relayJetStream(t), Replicas: 1, Log: log.log()}
			if err := relay.Err(); err != nil {
				t.Errorf("before the first turn: %v", err)
			}
			relaying(t, relay)
			eventually(t, "the relay tells why events wait", func() bool { return errors.Is(relay.Err(), errAway) })
			close(box.hold)
			box.emptied(t)
			eventually(t, "the relay tells that none waits", func() bool { return relay.Err() == nil })
			want := c.want + "\nlevel=INFO msg=\"events are published again\"\n"
			if got := log.String(); got != want {
				t.Errorf("log:\n%swant:\n%s", got, want)
			}
			box.turns.Store(1)
			eventually(t, "the log says it again", func() bool { return strings.Count(log.String(), "level=ERROR") == 2 })
			eventually(t, "the failure is counted", func() bool { return relay.Stats().Failures == 3 })
			if s := relay.Stats(); s.Failures != 3 || s.Published != 1 || s.Turns == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// While the database is away, new events do not make a relay try more often. Afterwards they wake it.
func TestARelayDoesNotHurryWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	box := &away{outbox: &outbox{woken: make(chan struct{}, 1)}}
	box.turns.Store(2)
	box.emit(registered(1)...)
	relaying(t, &events.Relay{Outbox: box, JS: relayJetStream(t), Replicas: 1, Log: slog.New(slog.DiscardHandler)})
	box.emptied(t)
	if box.wakeUps.Load() != 1 {
		t.Error("the wake-up was taken during the outage")
	}
	eventually(t, "the wake-up is taken", func() bool { return len(box.woken) == 0 })
}

// lookups is a JetStream that counts requests for streams, and does not answer them while it is away.
type lookups struct {
	jetstream.JetStream
	n      atomic.Int64
	isAway atomic.Bool
}

func (l *lookups) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	l.n.Add(1)
	if l.isAway.Load() {
		return nil, nats.ErrTimeout
	}
	return l.JetStream.Stream(ctx, name)
}

// A relay looks for its streams once, and says which one it cannot find.
func TestARelayLooksForItsStreamsOnce(t *testing.T) {
	t.Parallel()
	box, js := &outbox{woken: make(chan struct{}, 1)}, &lookups{JetStream: relayJetStream(t)}
	js.isAway.Store(true)
	relay := &events.Relay{Outbox: box, JS: js, Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	relaying(t, relay)
	eventually(t, "the relay names the stream", func() bool {
		err := relay.Err()
		return errors.Is(err, nats.ErrTimeout) && strings.Contains(err.Error(), "stream "+events.Stream)
	})
	js.isAway.Store(false)
	box.emit(registered(1)...)
	box.emptied(t)
	before := js.n.Load()
	for user := range 3 {
		box.emit(registered(auth.UserID(user + 2))...)
		box.emptied(t)
	}
	if n := js.n.Load(); n != before {
		t.Errorf("the relay looked for its streams %d times more", n-before)
	}
}

// A relay that is stopped amid a turn says nothing.
func TestAStoppedRelaySaysNothing(t *testing.T) {
	t.Parallel()
	box, log := &away{outbox: &outbox{woken: make(chan struct{}, 1)}, beganTurn: make(chan struct{})}, &lines{}
	relay := &events.Relay{Outbox: box, JS: relayJetStream(t), Replicas: 1, Log: log.log()}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	<-box.beganTurn
	stop()
	check(t, <-ended)
	if got, s := log.String(), relay.Stats(); got != "" || s.Failures != 0 {
		t.Errorf("%+v, log:\n%s", s, got)
	}
}

// What does not fit into one turn is published in turns without a wait between.
func TestALongBacklogIsPublishedWithoutWaiting(t *testing.T) {
	t.Parallel()
	const turns = 3
	box := &away{outbox: &outbox{woken: make(chan struct{}, 1)}}
	var list []events.Data
	for user := range turns*500 - 1 {
		list = append(list, registered(auth.UserID(user+1))...)
	}
	box.emit(list...)
	before := int64(-1)
	relay := &events.Relay{Outbox: box, JS: relayJetStream(t), Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	relay.Open = func(e events.Event) (events.Event, error) {
		if e.Subject == list[len(list)-1].Subject() {
			before = box.waits.Load() - relay.Stats().Failures // it may wait after a batch that a slow machine did not confirm in time
		}
		return e, nil
	}
	relaying(t, relay)
	box.emptied(t)
	if before != 0 {
		t.Errorf("the relay waited %d times before the last event", before)
	}
	if s := relay.Stats(); s.Published != int64(len(list)) {
		t.Errorf("%+v", s)
	}
}

// refusing is a JetStream that takes no message about a user, once: its connection has no room.
type refusing struct {
	jetstream.JetStream
	user string
	once sync.Once
}

func (r *refusing) PublishMsgAsync(msg *nats.Msg, opts ...jetstream.PublishOpt) (_ jetstream.PubAckFuture, err error) {
	if msg.Header.Get("ce-subject") == r.user {
		r.once.Do(func() { err = jetstream.ErrTooManyStalledMsgs })
	}
	if err != nil {
		return nil, err
	}
	return r.JetStream.PublishMsgAsync(msg, opts...)
}

// Where an event cannot be sent, those before it are done with, and it is sent again with those
// behind it.
func TestAnEventThatIsNotSentIsSentAgain(t *testing.T) {
	t.Parallel()
	box, js, log := &outbox{woken: make(chan struct{}, 1)}, relayJetStream(t), &lines{}
	box.add(made(registered(1)[0], registered(2)[0], registered(3)[0])...)
	relay := &events.Relay{Outbox: box, JS: &refusing{JetStream: js, user: "2"}, Replicas: 1, Log: log.log()}
	relaying(t, relay)
	box.emptied(t)
	if got := subjects(t, js, events.Stream); len(got) != 3 || got[0][0] != '1' || got[1][0] != '2' || got[2][0] != '3' {
		t.Errorf("events %q", got)
	}
	if s := relay.Stats(); s.Published != 3 || s.Failures != 1 {
		t.Errorf("%+v", s)
	}
	if got := log.String(); !strings.Contains(got, "publish user.registered: ") || !strings.Contains(got, "waiting=2") {
		t.Errorf("log:\n%s", got)
	}
}

// A mail that nobody is to get is passed over and not counted.
func TestAMailToNobodyIsNotCounted(t *testing.T) {
	t.Parallel()
	box, js, relay := opening(t, func(e events.Event) (events.Event, error) {
		if e.Subject == "1" {
			return events.Event{}, fmt.Errorf("of a deleted account: %w", events.ErrNobody)
		}
		return e, nil
	})
	box.emit(mail(1), mail(2))
	box.emptied(t)
	if got := subjects(t, js, events.MailStream); len(got) != 1 || got[0][0] != '2' {
		t.Errorf("mails %q", got)
	}
	if s := relay.Stats(); s.Published != 1 || s.PassedOver != 0 {
		t.Errorf("%+v", s)
	}
}

// A stream that is deleted is made again, as is one that a server lost.
func TestADeletedStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	box, js, _ := opening(t, nil)
	box.emit(registered(1)...)
	box.emptied(t)
	check(t, js.DeleteStream(t.Context(), events.Stream))
	box.emit(registered(2)...)
	box.emptied(t)
	if got := subjects(t, js, events.Stream); len(got) != 1 || got[0][0] != '2' {
		t.Errorf("events %q", got)
	}
}

// A stream that an operator made otherwise is left so, and the log tells the differences.
func TestAStreamOfTheOperatorIsLeft(t *testing.T) {
	t.Parallel()
	box, js, log := &outbox{woken: make(chan struct{}, 1)}, relayJetStream(t), &lines{}
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.Stream, Subjects: []string{"user.>", "session.>", "key.>"}, MaxMsgs: 7})
	check(t, err)
	box.emit(registered(1)...)
	relaying(t, &events.Relay{Outbox: box, JS: js, Replicas: 1, Log: log.log()})
	box.emptied(t)
	stream, err := js.Stream(t.Context(), events.Stream)
	check(t, err)
	if got := stream.CachedInfo().Config.MaxMsgs; got != 7 {
		t.Errorf("the stream keeps %d messages", got)
	}
	if got := log.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "stream="+events.Stream) || strings.Contains(got, "stream="+events.MailStream) {
		t.Errorf("log:\n%s", got)
	}
}
