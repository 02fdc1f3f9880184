package persistence_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// emit commits events of users, in their order, each in a transaction of its own.
func emit(t *testing.T, s *persistence.Store, users ...auth.UserID) {
	t.Helper()
	for _, u := range users {
		err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
			return tx.Emit(ctx, now, events.UserDeleted{UserID: u, DeletedAt: now})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// take publishes what is there, at most n, and returns the subjects.
func take(t *testing.T, s *persistence.Store, n int) (subjects []string) {
	t.Helper()
	_, err := s.Take(t.Context(), n, func(_ context.Context, list []events.Event) (int, error) {
		for _, e := range list {
			subjects = append(subjects, e.Subject)
		}
		return len(list), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return subjects
}

func TestEventsAreTakenOnceInTheirOrder(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		emit(t, s, 3, 1, 2)
		var got events.Event
		n, err := s.Take(t.Context(), 1, func(_ context.Context, list []events.Event) (int, error) {
			got = list[0]
			return 1, nil
		})
		if err != nil || n != 1 || got.Type != "user.deleted" || got.Subject != "3" || got.Time != now || len(got.ID) != 36 || got.ID[14] != '7' ||
			string(got.Data) != `{"userId":3,"deletedAt":"2026-03-01T12:00:00.123456Z"}` {
			t.Errorf("%d, %+v, %v", n, got, err)
		}
		emit(t, s, 4)
		if got := take(t, s, 10); !slices.Equal(got, []string{"1", "2", "4"}) {
			t.Errorf("%v", got)
		}
		if got := take(t, s, 10); got != nil {
			t.Errorf("again: %v", got)
		}
	})
}

func TestAnEventExistsIfItsTransactionCommits(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		broken := errors.New("broken")
		err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
			if err := tx.Emit(ctx, now, events.UserDeleted{UserID: 1}); err != nil {
				t.Error(err)
			}
			return broken
		})
		if !errors.Is(err, broken) || take(t, s, 1) != nil {
			t.Errorf("%v", err)
		}
		if err := s.Emit(t.Context(), now, events.UserDeleted{UserID: 1}); err == nil || take(t, s, 1) != nil {
			t.Errorf("outside of a transaction: %v", err)
		}
		select {
		case <-s.Woken(): // once for the transaction that had something to tell
		default:
		}
		emit(t, s, 1, 2)
		<-s.Woken()
		select {
		case <-s.Woken():
			t.Error("woken twice for what is there together")
		default:
		}
		if err := s.Tx(t.Context(), func(context.Context, *persistence.Store) error { return nil }); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.Woken():
			t.Error("woken for nothing")
		default:
		}
	})
}

func TestWhatIsNotPublishedIsTakenAgain(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		emit(t, s, 1, 2, 3)
		broken := errors.New("broken")
		n, err := s.Take(t.Context(), 10, func(context.Context, []events.Event) (int, error) { return 1, broken })
		if n != 3 || !errors.Is(err, broken) {
			t.Errorf("%d, %v", n, err)
		}
		b, err := s.Backlog(t.Context())
		if err != nil || b.Events != 2 || b.Oldest != now {
			t.Errorf("%+v, %v", b, err)
		}
		if got := take(t, s, 10); !slices.Equal(got, []string{"2", "3"}) {
			t.Errorf("%v", got)
		}
		if b, err := s.Backlog(t.Context()); err != nil || b != (events.Backlog{}) {
			t.Errorf("%+v, %v", b, err)
		}
		// One whose context ends while it publishes has published all the same.
		emit(t, s, 4)
		ctx, cancel := context.WithCancel(t.Context())
		_, _ = s.Take(ctx, 10, func(context.Context, []events.Event) (int, error) {
			if !strings.Contains(fmt.Sprint(s.DB().Dialect().Name()), "pg") {
				cancel()
			}
			return 1, nil
		})
		cancel()
		if got := take(t, s, 10); got != nil {
			t.Errorf("%v", got)
		}
	})
}

func TestPublishedEventsAreKeptAWhileAndCanBePublishedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		emit(t, s, 1, 2)
		first := take(t, s, 10)
		emit(t, s, 3)
		if n, err := s.Republish(t.Context(), now.Add(time.Microsecond), false); n != 0 || err != nil {
			t.Errorf("since later: %d, %v", n, err)
		}
		if n, err := s.Republish(t.Context(), now, false); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if got := take(t, s, 10); !slices.Equal(got, append([]string{"3"}, first...)) { // what is new goes first
			t.Errorf("%v", got)
		}
		emit(t, s, 4)
		for _, want := range []int{2, 1, 0} {
			if n, err := s.SweepOutbox(t.Context(), now, 2); n != want || err != nil {
				t.Errorf("%d, %v, want %d", n, err, want)
			}
		}
		if got := take(t, s, 10); !slices.Equal(got, []string{"4"}) { // unpublished, however old
			t.Errorf("%v", got)
		}
	})
}

// An event may be deleted just when somebody lets it be published once more.
func TestAMarkWithoutItsEventHoldsUpNothing(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		execute(t, s, "INSERT INTO outbox_pending (seq) VALUES (0)")
		emit(t, s, 1)
		if got := take(t, s, 1); !slices.Equal(got, []string{"1"}) { // it is urgent
			t.Errorf("%v", got)
		}
		if got := take(t, s, 1); got != nil {
			t.Errorf("%v", got)
		}
		if b, err := s.Backlog(t.Context()); err != nil || b != (events.Backlog{}) {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

// Mails are published again on their own, and go sooner.
func TestMailsAreNotPublishedAgainUnlessAskedFor(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		emit(t, s, 1)
		err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
			return tx.Emit(ctx, now, events.MailRequested{UserID: 2}, events.MailRequested{UserID: 3})
		})
		if err != nil {
			t.Fatal(err)
		}
		take(t, s, 10)
		for _, c := range []struct {
			mails bool
			want  []string
		}{{false, []string{"1"}}, {true, []string{"2", "3"}}} {
			if n, err := s.Republish(t.Context(), now, c.mails); n != len(c.want) || err != nil {
				t.Errorf("mails %v: %d, %v", c.mails, n, err)
			}
			if got := take(t, s, 10); !slices.Equal(got, c.want) {
				t.Errorf("mails %v: %v", c.mails, got)
			}
		}
		for _, c := range []struct {
			before time.Time
			want   int
		}{{now.Add(-time.Microsecond), 0}, {now, 2}, {now, 0}} {
			if n, err := s.SweepMails(t.Context(), c.before, 10); n != c.want || err != nil {
				t.Errorf("before %s: %d, %v", c.before, n, err)
			}
		}
		if n, err := s.Republish(t.Context(), now, false); n != 1 || err != nil {
			t.Errorf("events: %d, %v", n, err)
		}
	})
}

// Instances take turns: what one has is not handed to another, and order is kept.
func TestInstancesTakeTurns(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	stores := []*persistence.Store{open(t, url), open(t, url), open(t, url)}
	var users []auth.UserID
	for i := range 100 {
		users = append(users, auth.UserID(i+1))
	}
	emit(t, stores[0], users...)
	var mu sync.Mutex
	var got []string
	errs := atOnce(len(stores), func(i int) error {
		for {
			n, err := stores[i].Take(context.Background(), 7, func(_ context.Context, list []events.Event) (int, error) {
				if !mu.TryLock() {
					return 0, errors.New("two at a time")
				}
				defer mu.Unlock()
				for _, e := range list {
					got = append(got, e.Subject)
				}
				return len(list), nil
			})
			if err != nil || n == 0 {
				return err
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, subject := range got {
		if subject != fmt.Sprint(i+1) {
			t.Fatalf("%v", got)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d taken", len(got))
	}
}

// wait commits an event of each kind in one transaction, in their order: they wait to be published.
func wait(t *testing.T, s *persistence.Store, data ...events.Data) {
	t.Helper()
	err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error { return tx.Emit(ctx, now, data...) })
	if err != nil {
		t.Fatal(err)
	}
}

// taken publishes a batch of at most n and returns what it was, as in "user.updated 7".
func taken(t *testing.T, s *persistence.Store, n int) (list []string) {
	t.Helper()
	return batch(t, s, n, true)
}

// offered is taken, but the events stay unpublished.
func offered(t *testing.T, s *persistence.Store, n int) []string {
	t.Helper()
	return batch(t, s, n, false)
}

func batch(t *testing.T, s *persistence.Store, n int, isPublished bool) (list []string) {
	t.Helper()
	_, err := s.Take(t.Context(), n, func(_ context.Context, batch []events.Event) (int, error) {
		for _, e := range batch {
			list = append(list, e.Type+" "+e.Subject)
		}
		if isPublished {
			return len(batch), nil
		}
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func registrations(users ...auth.UserID) (list []events.Data) {
	for _, u := range users {
		list = append(list, events.UserRegistered{UserID: u})
	}
	return list
}

// The end of a session goes before what waits of other users, and after what waits of its own.
func TestARevocationDoesNotWaitBehindAnImport(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var many []auth.UserID
		for u := range 300 {
			many = append(many, auth.UserID(u+1))
		}
		wait(t, s, registrations(many...)...)
		wait(t, s, events.SessionCreated{UserID: 250}, events.SessionRevoked{UserID: 250}, events.SessionCreated{UserID: 250},
			events.SessionRevoked{UserID: 999}, events.UserUpdated{UserID: 999}, events.SessionRevoked{UserID: 3})
		want := []string{
			"user.registered 3", "user.registered 250", "session.revoked 999", // the first of each
			"session.created 250", "session.revoked 3", "session.revoked 250",
			"user.registered 1", "user.registered 2", "user.registered 4", "user.registered 5",
		}
		if got := taken(t, s, 10); !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		rest := taken(t, s, 1000)
		if len(rest) != 300-6+2 || !slices.Equal(rest[len(rest)-2:], []string{"session.created 250", "user.updated 999"}) {
			t.Errorf("%d left: %q", len(rest), rest[max(0, len(rest)-3):])
		}
	})
}

// A user with more events than fit into a batch holds up nobody, and their own order stays.
func TestAUserWithManyEventsHoldsUpNobody(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for range 25 {
			wait(t, s, events.UserUpdated{UserID: 1})
		}
		wait(t, s, events.SessionRevoked{UserID: 1}, events.UserUpdated{UserID: 1}, events.SessionRevoked{UserID: 2})
		first := taken(t, s, 10)
		if !slices.Contains(first, "session.revoked 2") {
			t.Errorf("it waits behind another user: %q", first)
		}
		var own []string
		for batch := first; len(batch) > 0; batch = taken(t, s, 10) {
			for _, e := range batch {
				if strings.HasSuffix(e, " 1") {
					own = append(own, e)
				}
			}
		}
		if at := slices.Index(own, "session.revoked 1"); len(own) != 27 || at != 25 {
			t.Errorf("place %d of %d: %q", at, len(own), own)
		}
	})
}

// A batch that holds all waiting events and one that holds all but the last have the same order: only the
// second reads the backlog with several queries.
func TestTheOrderDoesNotDependOnTheSizeOfABatch(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			count := 2 + random.IntN(30)
			wait(t, s, events.UserRegistered{UserID: 1})
			for range count - 1 {
				user := auth.UserID(1 + random.IntN(6))
				wait(t, s, []events.Data{events.SessionRevoked{UserID: user}, events.UserUpdated{UserID: user}, events.SessionCreated{UserID: user}}[random.IntN(3)])
			}
			most, all := offered(t, s, count-1), taken(t, s, count)
			if len(all) != count || !slices.Equal(most, all[:count-1]) {
				t.Fatalf("%q, with one more %q", most, all)
			}
		}
	})
}

// Rows that an instance of an earlier version writes have neither subject nor urgency.
func TestRowsOfAnEarlierVersionKeepTheirOrder(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		wait(t, s, registrations(1, 2, 3)...)
		wait(t, s, events.SessionRevoked{UserID: 3}, events.SessionRevoked{UserID: 2})
		execute(t, s, "UPDATE outbox_pending SET subject = NULL, urgent = FALSE WHERE seq <> (SELECT max(seq) FROM outbox_pending)")
		if got, want := taken(t, s, 2), []string{"user.registered 2", "user.registered 3"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got, want := taken(t, s, 10), []string{"session.revoked 3", "session.revoked 2", "user.registered 1"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// Published once more, the end of a session is not urgent: those of today go before it.
func TestRepublishedEventsYield(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		wait(t, s, events.SessionRevoked{UserID: 1}, events.SessionRevoked{UserID: 2})
		taken(t, s, 10)
		if _, err := s.Republish(t.Context(), now, false); err != nil {
			t.Fatal(err)
		}
		wait(t, s, events.SessionRevoked{UserID: 3})
		if got, want := taken(t, s, 1), []string{"session.revoked 3"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
