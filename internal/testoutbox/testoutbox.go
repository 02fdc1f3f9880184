// Package testoutbox reads the events and the mails that an authd wrote into its outbox and into
// the streams, and compares the events with the tables.
//
//	testoutbox.go  events and mails
//	compare.go     the stream against the tables
//
// It must not be used outside of tests.
package testoutbox

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/persistence"
)

// Open opens the database of an authd until the test ends.
func Open(t testing.TB, url string) *persistence.Store {
	t.Helper()
	store, err := persistence.Open(t.Context(), url)
	testauthd.Check(t, err)
	t.Cleanup(func() { testauthd.Check(t, store.Close()) })
	return store
}

// Receive waits for the next event and checks its headers, its type and its subject.
func Receive(t testing.TB, sub *nats.Subscription, kind, subject string) (id string, data map[string]any) {
	t.Helper()
	m, err := sub.NextMsg(testauthd.Patience)
	testauthd.Check(t, err)
	for name, want := range map[string]string{
		"ce-specversion": "1.0", "ce-source": "/zyotra/auth", "ce-type": kind, "ce-subject": subject,
		"ce-datacontenttype": "application/json", "Content-Type": "application/json", "Nats-Msg-Id": m.Header.Get("ce-id"),
	} {
		if got := m.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %s is %q, want %q", kind, name, got, want)
		}
	}
	if at, err := time.Parse(time.RFC3339, m.Header.Get("ce-time")); err != nil || time.Since(at) > testauthd.Patience {
		t.Errorf("%s: ce-time %q, %v", kind, m.Header.Get("ce-time"), err)
	}
	if m.Subject != kind {
		t.Errorf("%s on %s", kind, m.Subject)
	}
	testauthd.Check(t, testauthd.EventAsDescribed(m.Subject, m.Header, m.Data))
	testauthd.Check(t, json.Unmarshal(m.Data, &data))
	return m.Header.Get("ce-id"), data
}

// PublishedOf waits until no event of an instance on SQLite waits to be published, by its directory.
func PublishedOf(t testing.TB, dir string) {
	t.Helper()
	store, err := persistence.Open(t.Context(), "sqlite://"+dir+"/data/authd.db")
	testauthd.Check(t, err)
	defer func() { testauthd.Check(t, store.Close()) }()
	Published(t, store)
}

// Published waits until no event in the outbox waits to be published.
func Published(t testing.TB, store *persistence.Store) {
	t.Helper()
	testauthd.Until(t, "all events are published", func() bool {
		b, err := store.Backlog(t.Context())
		return err == nil && b.Events == 0
	})
}

// Recorded returns the events in the stream, in its order.
func Recorded(t testing.TB, conn *nats.Conn) (list []events.Event) {
	t.Helper()
	for _, m := range InStream(t, conn) {
		e, err := events.Parse(m.Header, m.Data)
		testauthd.Check(t, err)
		list = append(list, e)
	}
	return list
}

// InStream returns the messages in the stream, in its order, and expects each to be as
// asyncapi.json describes it.
func InStream(t testing.TB, conn *nats.Conn) (list []*jetstream.RawStreamMsg) {
	t.Helper()
	js, err := jetstream.New(conn)
	testauthd.Check(t, err)
	stream, err := js.Stream(t.Context(), events.Stream)
	testauthd.Check(t, err)
	info, err := stream.Info(t.Context())
	testauthd.Check(t, err)
	for seq := max(info.State.FirstSeq, 1); seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		testauthd.Check(t, err)
		if err := testauthd.EventAsDescribed(m.Subject, m.Header, m.Data); err != nil {
			t.Error(err)
		}
		list = append(list, m)
	}
	return list
}

// Letters are the mails that an authd asks for, as they wait in its outbox.
type Letters struct {
	Store *persistence.Store
	mails handlers.Mails
	read  int64 // sequence number of the last mail that was returned
}

// OpenLetters reads the mails in a database whose secrets the master secret opens.
func OpenLetters(t testing.TB, database, master string) *Letters {
	t.Helper()
	keys, err := secret.Parse(master)
	testauthd.Check(t, err)
	return &Letters{Store: Open(t, database), mails: handlers.Mails{Keys: keys}}
}

// LettersOf reads the mails of an instance on SQLite, by its directory.
func LettersOf(t testing.TB, dir string) *Letters {
	t.Helper()
	master, err := os.ReadFile(filepath.Join(dir, "data", "secret.key"))
	testauthd.Check(t, err)
	return OpenLetters(t, "sqlite://"+dir+"/data/authd.db", string(master))
}

// All returns the mails since the last call.
func (l *Letters) All(t testing.TB) (mails []events.Mail) {
	t.Helper()
	var rows []struct {
		Seq  int64
		Data string
	}
	testauthd.Check(t, l.Store.DB().NewRaw("SELECT seq, data FROM outbox WHERE type = ? AND seq > ? ORDER BY seq", events.MailType, l.read).Scan(t.Context(), &rows))
	for _, r := range rows {
		l.read = r.Seq
		opened, err := l.mails.Open(events.Event{Type: events.MailType, Data: json.RawMessage(r.Data)})
		if errors.Is(err, events.ErrNobody) {
			continue
		}
		testauthd.Check(t, err)
		var m events.Mail
		testauthd.Check(t, json.Unmarshal(opened.Data, &m))
		mails = append(mails, m)
	}
	return mails
}

// Next returns the last mail since the last call, which must be of the kind.
func (l *Letters) Next(t testing.TB, kind events.MailKind) events.Mail {
	t.Helper()
	mails := l.All(t)
	if len(mails) == 0 || mails[len(mails)-1].Kind != kind {
		t.Fatalf("mails %+v, want a %s", mails, kind)
	}
	return mails[len(mails)-1]
}

// Token returns the token in the link of a mail.
func Token(t testing.TB, m events.Mail) string {
	t.Helper()
	_, token, ok := strings.Cut(m.Link, "#token=")
	if !ok {
		t.Fatalf("link %q", m.Link)
	}
	token, _, _ = strings.Cut(token, "&")
	return token
}
