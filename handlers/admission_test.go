package handlers_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/network"
	"github.com/zyotra/auth/internal/password"
)

// pooled gives an instance a pool of one core in which three requests may wait.
func (s *service) pooled(t *testing.T) *password.Pool {
	t.Helper()
	pool := password.NewPool(1, 4*time.Hour, time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- pool.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	passwords := *s.sessions.Passwords
	passwords.Pool = pool
	s.sessions.Passwords, s.accounts.Passwords = &passwords, &passwords
	return pool
}

// fill takes the pool's places and queue, one request for each network, until release is called.
func fill(t *testing.T, pool *password.Pool, networks ...string) (release func()) {
	t.Helper()
	const places = 2
	done := make(chan struct{})
	left := make(chan struct{})
	for i, name := range networks {
		entered := make(chan struct{})
		go func() {
			_, leave, _ := pool.Enter(t.Context(), password.Class{Network: name}) // or a newcomer has taken its turn
			close(entered)
			<-done
			leave()
			left <- struct{}{}
		}()
		if i < places {
			<-entered
		}
		for pool.Stats().Waiting != int64(max(0, i+1-places)) {
			time.Sleep(time.Millisecond)
		}
	}
	return func() {
		close(done)
		for range networks {
			<-left
		}
	}
}

// An attempt that is refused as overloaded counts against its source, here and, once another one of
// it is counted, everywhere. It never counts against the account.
func TestARefusedAttemptCountsAgainstItsSourceAlone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		limits := rules
		limits.Login = []gcra.Limit{{Burst: 2, Interval: time.Minute}}
		limits.LoginAccount = []gcra.Limit{{Burst: 2, Interval: time.Minute}}
		limits.LoginSource = []gcra.Limit{{Burst: 3, Interval: time.Minute}}
		s.limit(t, limits)
		other := s.another(t)
		other.limit(t, limits)
		pool := s.pooled(t)
		flooding := network.Of(away)
		release := fill(t, pool, flooding, flooding, flooding, flooding)
		for i := range 3 {
			err := s.try(t.Context(), ada, "wrong", away)
			if !errors.Is(err, auth.ErrOverloaded) || !errors.Is(err, password.ErrExcess) {
				t.Fatalf("try %d of a flood: %v", i, err)
			}
		}
		want(t, "one more", s.try(t.Context(), ada, "wrong", away), auth.ErrOverloaded)
		waits(t, "and another", s.try(t.Context(), ada, "wrong", away), time.Minute)
		want(t, "from another source of the network", s.try(t.Context(), ada, "wrong", "198.51.100.2"), auth.ErrOverloaded)
		release()
		waits(t, "when the pool is free", s.try(t.Context(), ada, horse, away), time.Minute)
		want(t, "the owner, at home", s.try(t.Context(), ada, horse, home), nil)
		want(t, "elsewhere, where nobody knows of it yet", other.try(t.Context(), "eve@example.com", horse, away), auth.ErrInvalidCredentials)

		want(t, "one from the other source", s.try(t.Context(), "eve@example.com", horse, "198.51.100.2"), auth.ErrInvalidCredentials)
		want(t, "another, on another instance", other.try(t.Context(), "bob@example.com", horse, "198.51.100.2"), auth.ErrInvalidCredentials)
		waits(t, "which has counted the refused one too", other.try(t.Context(), "joe@example.com", horse, "198.51.100.2"), time.Minute)
	})
}

// What a source owes for refused attempts is still owed after an attempt that is not counted.
func TestADebtOutlivesAnAttemptThatIsNotCounted(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		limits := rules
		limits.Login = []gcra.Limit{{Burst: 1, Interval: time.Hour}}
		limits.LoginSource = []gcra.Limit{{Burst: 4, Interval: time.Minute}}
		s.limit(t, limits)
		other := s.another(t)
		other.limit(t, limits)
		release := fill(t, s.pooled(t), network.Of(away), network.Of(away), network.Of(away), network.Of(away))
		want(t, "bob, on another instance", other.try(t.Context(), "bob@example.com", horse, away), auth.ErrInvalidCredentials)
		for range 2 {
			want(t, "a flood", s.try(t.Context(), "ann@example.com", horse, away), auth.ErrOverloaded)
		}
		release()
		waits(t, "bob again", s.try(t.Context(), "bob@example.com", horse, away), time.Hour)
		want(t, "the last of four", s.try(t.Context(), "eve@example.com", horse, away), auth.ErrInvalidCredentials)
		waits(t, "a fifth", s.try(t.Context(), "joe@example.com", horse, away), time.Minute)
	})
}

// An attempt that is refused because all networks together are too much counts for nothing.
func TestAnAttemptThatIsNotToBlameIsNotCounted(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		limits := rules
		limits.LoginSource = []gcra.Limit{{Burst: 1, Interval: time.Minute}}
		s.limit(t, limits)
		release := fill(t, s.pooled(t), "a", "b", "c", "d")
		for i := range 5 {
			err := s.try(t.Context(), ada, horse, home)
			if !errors.Is(err, auth.ErrOverloaded) || errors.Is(err, password.ErrExcess) {
				t.Fatalf("try %d: %v", i, err)
			}
		}
		release()
		want(t, "when there is room", s.try(t.Context(), ada, horse, home), nil)
	})
}

// Where an account was logged in to before, its owner gets in through a flood from any number of networks.
func TestAKnownSourceHasALaneOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		pool := s.pooled(t)
		want(t, "a first login", s.try(t.Context(), ada, horse, home), nil)
		release := fill(t, pool, "a", "b", "c", "d")
		want(t, "the owner elsewhere", s.try(t.Context(), ada, horse, away), auth.ErrOverloaded)
		want(t, "another account at home", s.try(t.Context(), "eve@example.com", horse, home), auth.ErrOverloaded)
		refused := pool.Stats().Refused
		answer := make(chan error)
		go func() { answer <- s.try(context.Background(), ada, horse, home) }()
		for pool.Stats().Refused != refused+1 { // one of the flood has made room
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-answer:
			t.Errorf("did not wait: %v", err)
		default:
		}
		release()
		want(t, "the owner at home", <-answer, nil)
	})
}

// A flood costs the database nothing: nothing is asked of it before an attempt has a place.
func TestARefusedAttemptAsksTheDatabaseNothing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		release := fill(t, s.pooled(t), "a", "b", "c", "d")
		defer release()
		if err := s.store.Close(); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			want(t, "login "+strconv.Itoa(i), s.try(t.Context(), ada, horse, home), auth.ErrOverloaded)
		}
		_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: "bob@example.com", Password: horse})
		want(t, "registration", err, auth.ErrOverloaded)
	})
}
