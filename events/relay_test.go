package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
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
	for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if b, _ := o.Backlog(t.Context()); b.Events == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatal("events wait")
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
