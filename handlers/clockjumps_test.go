package handlers_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	wall "github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testclock"
)

// eachMachine is each for a user's new session and the machine whose clock decides about it.
func eachMachine(t *testing.T, f func(t *testing.T, s *service, machine *testclock.Clock, first auth.Tokens)) {
	eachURL(t, func(t *testing.T, url string) {
		s := start(t, url, secret.Generate(), &clock{})
		machine := testclock.New(begin)
		c := wall.New(machine.Read, wall.Tolerance)
		s.sessions.Clock, s.accounts.Clock, s.sessions.Steady = c.Now, c.Now, c.Steady
		f(t, s, machine, s.begun(t))
	})
}

// isLive reports whether nobody has ended a session.
func (s *service) isLive(t *testing.T, id string) bool {
	t.Helper()
	session, err := s.store.Session(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return session.RevokedAt.IsZero()
}

func TestAClockThatJumpsAheadMakesNoThief(t *testing.T) {
	eachMachine(t, func(t *testing.T, s *service, machine *testclock.Clock, first auth.Tokens) {
		second := s.refresh(t, first)
		machine.Advance(time.Second)
		machine.Jump(time.Hour)
		_, err := s.tryRefresh(t, first.RefreshToken) // an honest second tab
		want(t, "a second after its use", err, auth.ErrInvalidToken)
		third := s.refresh(t, second)
		machine.Advance(grace)
		_, err = s.tryRefresh(t, second.RefreshToken)
		if err != nil || !s.isLive(t, first.SessionID) {
			t.Errorf("within the grace: %v", err)
		}
		machine.Advance(time.Second) // no honest one is left
		_, err = s.tryRefresh(t, second.RefreshToken)
		want(t, "after the grace", err, auth.ErrTokenRevoked)
		_, err = s.tryRefresh(t, third.RefreshToken)
		want(t, "the current one", err, auth.ErrTokenRevoked)
	})
}

func TestATokenThatWasSpentAheadOfTheClockHasNoGrace(t *testing.T) {
	eachMachine(t, func(t *testing.T, s *service, machine *testclock.Clock, first auth.Tokens) {
		machine.Jump(time.Hour)
		second := s.refresh(t, first)
		machine.Jump(-time.Hour)
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "spent an hour ahead", err, auth.ErrInvalidToken)
		if !s.isLive(t, first.SessionID) {
			t.Fatal("the session has ended")
		}
		_, err = s.tryRefresh(t, first.RefreshToken) // whose grace has not begun by that
		want(t, "presented again", err, auth.ErrInvalidToken)
		machine.Advance(time.Hour) // to where the clock had been
		_, err = s.tryRefresh(t, first.RefreshToken)
		want(t, "an hour later", err, auth.ErrTokenRevoked)
		_, err = s.tryRefresh(t, second.RefreshToken)
		want(t, "its successor", err, auth.ErrTokenRevoked)
	})
}

func TestClocksOfInstancesMayDifferALittle(t *testing.T) {
	eachMachine(t, func(t *testing.T, s *service, machine *testclock.Clock, first auth.Tokens) {
		ahead := s.another(t)
		ahead.sessions.Clock = func() time.Time { return machine.Read().Wall.Add(1500 * time.Millisecond) }
		second := ahead.refresh(t, first)
		if again := s.refresh(t, first); again.RefreshToken != second.RefreshToken {
			t.Error("another successor")
		}
	})
}

func TestARefreshAheadOfTheClockDoesNotHoldUpTheNext(t *testing.T) {
	eachMachine(t, func(t *testing.T, s *service, machine *testclock.Clock, tokens auth.Tokens) {
		s.limit(t, ratelimit.Policy{RefreshSession: gcra.Limit{Burst: 2, Interval: time.Minute}})
		s.sessions.Limits.Clock = s.sessions.Clock
		machine.Jump(time.Hour)
		tokens = s.refresh(t, s.refresh(t, tokens))
		_, err := s.tryRefresh(t, tokens.RefreshToken)
		waits(t, "at once", err, time.Minute)
		machine.Jump(-time.Hour)
		_, err = s.tryRefresh(t, tokens.RefreshToken)
		waits(t, "after the correction", err, time.Minute)
		machine.Advance(time.Minute)
		tokens = s.refresh(t, tokens)
		_, err = s.tryRefresh(t, tokens.RefreshToken)
		waits(t, "one each interval", err, time.Minute)
	})
}

func TestTriesAheadOfTheClockLockForAnIntervalAtMost(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.advance(24 * time.Hour)
		s.fails(t, 5, ada, home)
		waits(t, "at once", s.try(t.Context(), ada, horse, home), 30*time.Second)
		s.advance(-24 * time.Hour)
		for range 2 { // as the database knows, and as is remembered
			waits(t, "after the correction", s.try(t.Context(), ada, horse, home), 5*time.Minute) // the second tier's
		}
		s.advance(5 * time.Minute)
		want(t, "an interval later", s.try(t.Context(), ada, horse, home), nil)
		want(t, "and settled", s.try(t.Context(), ada, horse, home), nil)
	})
}

func TestAnInstanceForgetsABlockWhenItsClockGoesBack(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.advance(time.Hour)
		s.fails(t, 5, ada, home)
		waits(t, "at once", s.try(t.Context(), ada, horse, home), 30*time.Second)
		s.execute(t, "DELETE FROM limits") // by another instance
		s.advance(-time.Hour)
		want(t, "after the correction", s.try(t.Context(), ada, horse, home), nil)
	})
}

func TestALoginAheadOfTheClockIsNotRecent(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.accounts.Reauth = 5 * time.Minute
		s.advance(time.Hour)
		tokens := s.begun(t)
		s.advance(-time.Hour)
		s.accounts.Sessions.Clock = func() time.Time { return begin.Add(time.Hour) } // for which the token is good
		_, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(tokens)})
		want(t, "delete", err, auth.ErrReauthentication)
	})
}

func TestACallerThatLeavesDoesNotSpoilTheKeysForOthers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		other := s.another(t)
		if _, _, err := other.keys.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := other.keys.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh := other.login(t)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.sessions.Verify(gone, auth.VerifyRequest{Token: fresh.AccessToken}); err != nil && !errors.Is(err, auth.ErrUnavailable) && !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left: %v", err)
		}
		want(t, "the next caller", s.verify(t, fresh.AccessToken), nil)
	})
}

func TestKeysAreReadAtOnceOnAHint(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		old := s.login(t)
		changed := make(chan struct{}, 8)
		s.keys.Hints, s.keys.Changed, s.keys.Log = make(chan struct{}, 1), func() { changed <- struct{}{} }, slog.New(slog.DiscardHandler)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.keys.Run(ctx) }()
		for range 3 {
			list, err := s.keys.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			signs := slices.IndexFunc(list, func(k keyring.StoredKey) bool { return k.State == keyring.KeySigning })
			if err := s.another(t).keys.Retire(t.Context(), list[signs].ID); err != nil {
				t.Fatal(err)
			}
			s.keys.Hints <- struct{}{}
			<-changed
			want(t, "a token of the withdrawn key", s.verify(t, old.AccessToken), auth.ErrInvalidToken)
			old = s.login(t)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRevocationsHaveACursorForHints(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		first := s.login(t).Tokens
		want(t, "logout", s.logout(t, first.AccessToken, ""), nil)
		s.advance(10 * time.Second)
		page, err := s.sessions.Revocations(t.Context(), auth.RevocationsRequest{})
		if err != nil || len(page.Revoked) != 1 || page.Recent == "" {
			t.Fatalf("%+v, %v", page, err)
		}
		for cursor, n := range map[string]int{page.Cursor: 1, page.Recent: 0} {
			if got, _ := s.revocations(t, cursor); len(got) != n {
				t.Errorf("%d since %s", len(got), cursor)
			}
		}
		s.advance(-4 * time.Second) // by an instance that is behind, or that took a while
		second := s.login(t).Tokens
		want(t, "logout", s.logout(t, second.AccessToken, ""), nil)
		if got, _ := s.revocations(t, page.Recent); len(got) != 1 || got[0] != second.SessionID {
			t.Errorf("%v", got)
		}
	})
}
