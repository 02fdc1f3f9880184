package testoutbox

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/persistence"
)

// Settled waits until an authd writes no more and all events are published, and compares the
// stream with the tables of its database. It returns the database.
func Settled(t testing.TB, url string, asReader *nats.Conn) *persistence.Store {
	t.Helper()
	store := Open(t, url)
	quiet(t, store)
	Published(t, store)
	list := Recorded(t, asReader)
	Compare(t, store, list)
	kinds := map[string]int{}
	for _, e := range list {
		kinds[e.Type]++
	}
	t.Logf("%d events: %v", len(list), kinds)
	if kinds["session.revoked"] == 0 {
		t.Error("too few events to mean anything")
	}
	return store
}

// quiet waits until the requests whose callers gave up have ended too.
func quiet(t testing.TB, store *persistence.Store) {
	t.Helper()
	var last int64
	since := time.Now()
	testauthd.Until(t, "the outbox grows no more", func() bool {
		var seq int64
		testauthd.Check(t, store.DB().NewRaw("SELECT COALESCE(max(seq), 0) FROM outbox").Scan(t.Context(), &seq))
		if seq != last {
			last, since = seq, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// Compare compares the events of the stream with the tables: each change has one event and each
// event one change, in the order of each user's changes. The changes of one user must not have
// run concurrently.
func Compare(t testing.TB, store *persistence.Store, list []events.Event) {
	t.Helper()
	type story struct {
		events   []string
		name     string              // in the last event
		sessions map[string][]string // the events of each
	}
	seen := map[string]bool{}
	told := map[string]story{} // by user
	for _, e := range list {
		if seen[e.ID] {
			t.Errorf("%s twice", e.ID)
		}
		seen[e.ID] = true
		if e.Type == "key.rotated" {
			continue
		}
		var d struct{ SessionID, Reason, Name string }
		testauthd.Check(t, json.Unmarshal(e.Data, &d))
		s, ok := told[e.Subject]
		if !ok {
			s.sessions = map[string][]string{}
		}
		s.events = append(s.events, e.Type)
		switch e.Type {
		case "user.registered", "user.updated":
			s.name = d.Name
		case "session.created", "session.revoked":
			s.sessions[d.SessionID] = append(s.sessions[d.SessionID], strings.TrimSpace(e.Type+" "+d.Reason))
		}
		told[e.Subject] = s
	}

	var outbox []struct{ ID, Subject string } // where each event was written with its change
	testauthd.Check(t, store.DB().NewRaw("SELECT id, subject FROM outbox WHERE type <> 'mail.requested' ORDER BY seq").Scan(t.Context(), &outbox))
	written, inStream := map[string][]string{}, map[string][]string{}
	for _, r := range outbox {
		written[r.Subject] = append(written[r.Subject], r.ID)
	}
	for _, e := range list {
		inStream[e.Subject] = append(inStream[e.Subject], e.ID)
	}
	if !maps.EqualFunc(written, inStream, slices.Equal[[]string]) {
		t.Errorf("%d events of %d subjects in the stream, %d of %d in the outbox, or in another order", len(list), len(inStream), len(outbox), len(written))
	}

	var users []struct{ ID, Name string }
	testauthd.Check(t, store.DB().NewRaw("SELECT CAST(id AS TEXT) AS id, name FROM users").Scan(t.Context(), &users))
	var sessions []struct {
		ID, UserID string
		Reason     *string
	}
	testauthd.Check(t, store.DB().NewRaw("SELECT id, CAST(user_id AS TEXT) AS user_id, revoke_reason AS reason FROM login_sessions").Scan(t.Context(), &sessions))
	for _, s := range sessions {
		want := []string{"session.created"}
		if s.Reason != nil {
			want = append(want, "session.revoked "+*s.Reason)
		}
		if got := told[s.UserID].sessions[s.ID]; !slices.Equal(got, want) {
			t.Errorf("session %s: %v, want %v", s.ID, got, want)
		}
		delete(told[s.UserID].sessions, s.ID)
	}
	for _, u := range users {
		s, ok := told[u.ID]
		if !ok || s.name != u.Name || len(s.sessions) != 0 || slices.Contains(s.events, "user.deleted") {
			t.Errorf("user %s, %q: %+v", u.ID, u.Name, s)
		}
	}
	for id, s := range told {
		if s.events[0] != "user.registered" || slices.Contains(s.events[1:], "user.registered") {
			t.Errorf("user %s: %v", id, s.events)
		}
		if slices.ContainsFunc(users, func(u struct{ ID, Name string }) bool { return u.ID == id }) {
			continue
		}
		if slices.Index(s.events, "user.deleted") != len(s.events)-1 {
			t.Errorf("user %s, who is gone: %v", id, s.events)
		}
		for session, story := range s.sessions {
			if len(story) != 2 || story[0] != "session.created" || !strings.HasPrefix(story[1], "session.revoked ") {
				t.Errorf("session %s, whose user is gone: %v", session, story)
			}
		}
	}
}
