package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// asSubscriber is a service that may follow the events of an embedded bus.
func asSubscriber(t *testing.T, a *instance) *nats.Conn {
	t.Helper()
	return connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Subscriber))
}

// directory is another service's list of users: its id, and address and name.
type directory struct {
	mu    sync.Mutex
	users map[auth.UserID]string
}

func (d *directory) put(id auth.UserID, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if value == "" {
		delete(d.users, id)
		return
	}
	d.users[id] = value
}

// handlers keep it up to date.
func (d *directory) handlers() []events.Handler {
	return []events.Handler{
		events.On(func(_ context.Context, _ events.Event, e events.UserRegistered) error {
			d.put(e.UserID, e.Email+" "+e.Name)
			return nil
		}),
		events.On(func(_ context.Context, _ events.Event, e events.UserUpdated) error {
			d.mu.Lock()
			email, _, known := strings.Cut(d.users[e.UserID], " ")
			d.mu.Unlock()
			if known {
				d.put(e.UserID, email+" "+e.Name)
			}
			return nil
		}),
		events.On(func(_ context.Context, _ events.Event, e events.UserDeleted) error {
			d.put(e.UserID, "")
			return nil
		}),
	}
}

// A service that begins while people come, change and go has them all in the end: it pages
// through the snapshot and follows the events from there.
func TestSnapshotAndTailMissNobody(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(t *testing.T, dir string) string{
		"SQLite":   func(_ *testing.T, dir string) string { return "sqlite://" + filepath.Join(dir, "data", "authd.db") },
		"Postgres": func(t *testing.T, _ string) string { return testpg.URL(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			database := url(t, dir)
			a := launch(t, dir, append(withPostgres(database), "--data-dir="+filepath.Join(dir, "data"))...).ready(t)
			app, conn := a.asApp(t), asSubscriber(t, a)

			half, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				const workers, each = 3, 8
				var begun sync.WaitGroup
				begun.Add(workers)
				go func() { begun.Wait(); close(half) }()
				ended <- all(workers, func(w int) error {
					for n := range each {
						if n == each/2 {
							begun.Done()
						}
						if err := comeAndGo(t.Context(), app, fmt.Sprintf("u%d.%d@example.com", w, n), n%3); err != nil {
							return err
						}
					}
					return nil
				})
			}()
			select {
			case <-half:
			case err := <-ended:
				t.Fatal("ended too early: ", err)
			}

			d := &directory{users: map[auth.UserID]string{}}
			var first auth.UsersSnapshotReply
			for request := (auth.UsersSnapshotRequest{Limit: 3}); ; {
				page, err := bus.Call(t.Context(), conn, auth.UsersSnapshot, request)
				check(t, err)
				if request.After == 0 {
					first = page
				}
				for _, u := range page.Users {
					d.put(u.UserID, u.Email+" "+u.Name)
				}
				if request.After = page.Next; page.Next == 0 {
					break
				}
			}
			if len(first.Users) != 3 || first.Sequence == 0 {
				t.Errorf("%+v", first)
			}
			sub, err := events.Subscribe(t.Context(), conn, events.Consumer{Name: "directory", From: first.Sequence + 1}, d.handlers()...)
			check(t, err)
			ctx, stop := context.WithCancel(t.Context())
			followed := make(chan error, 1)
			go func() { followed <- sub.Run(ctx) }()

			check(t, <-ended)
			store, err := persistence.Open(t.Context(), database)
			check(t, err)
			defer func() { check(t, store.Close()) }()
			published(t, store)
			js, err := jetstream.New(conn)
			check(t, err)
			until(t, "everything is handled", func() bool {
				c, err := js.Consumer(t.Context(), events.Stream, "directory")
				return err == nil && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
			})
			stop()
			check(t, <-followed)

			users, err := store.Users(t.Context(), 0, 1000)
			check(t, err)
			want := map[auth.UserID]string{}
			for _, u := range users {
				want[u.UserID] = u.Email + " " + u.Name
			}
			if !maps.Equal(d.users, want) || len(want) != 18 {
				t.Errorf("%d: %v\nwant %d: %v", len(d.users), d.users, len(want), want)
			}
		})
	}
}

// comeAndGo registers somebody, who then is given another name (1), or goes (2), or neither.
func comeAndGo(ctx context.Context, conn *nats.Conn, email string, then int) error {
	const password = "correct horse battery"
	if _, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: email, Password: password, Name: "new"}); err != nil || then == 0 {
		return err
	}
	login, err := bus.Call(ctx, conn, auth.Login, auth.LoginRequest{Email: email, Password: password})
	if err != nil {
		return err
	}
	own := auth.Bearer{AccessToken: login.AccessToken}
	if then == 2 {
		_, err := bus.Call(ctx, conn, auth.AccountDelete, auth.AccountDeleteRequest{Bearer: own, Password: password})
		return err
	}
	renamed := "renamed"
	_, err = bus.Call(ctx, conn, auth.AccountUpdate, auth.AccountUpdateRequest{Bearer: own, Name: &renamed})
	return err
}

// The snapshot tells everybody's address, so apps and the edge cannot ask for it, nor may
// they make consumers.
func TestWhoIsNoSubscriberGetsNoSnapshot(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	for name, conn := range map[string]*nats.Conn{"app": connect(t, a.nats), "edge": asEdge(t, a)} {
		violation := make(chan error, 1)
		conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violation <- err })
		for _, subject := range []string{"auth.users.snapshot", "$JS.API.CONSUMER.CREATE.AUTH_EVENTS.x"} {
			check(t, conn.PublishRequest(subject, conn.NewInbox(), nil))
			if err := <-violation; !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	ask(t, asSubscriber(t, a), "auth.users.snapshot", nil, `{"limit":501}`).refused(t, 422, "validation_failed", `[{"field":"limit","reason":"invalid"}]`)
	ask(t, asSubscriber(t, a), "auth.users.snapshot", nil, "").replied(t, `{"users":[],"sequence":"<sequence>"}`)
}
