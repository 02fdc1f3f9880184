package persistence_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

func oneTime(digest, purpose string, user auth.UserID) persistence.OneTime {
	return persistence.OneTime{
		Digest: digest, Purpose: purpose, UserID: user, Email: "Ada@example.com", EmailKey: "ada@example.com",
		Password: "stored", Name: texts[1], SessionID: "s", CreatedAt: now, ExpiresAt: now.Add(time.Hour),
	}
}

func add(t *testing.T, s *persistence.Store, all ...persistence.OneTime) {
	t.Helper()
	for _, o := range all {
		if err := s.AddOneTime(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// has tells whether a link of a purpose is good at a time.
func has(t *testing.T, s *persistence.Store, digest, purpose string, at time.Time) bool {
	t.Helper()
	_, err := s.OneTime(t.Context(), purpose, at, "other", digest)
	if err != nil && !errors.Is(err, auth.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestAOneTimeTokenIsKeptAsItIs(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		id := newUser(t, s, "ada@example.com")
		with := oneTime("a", "verify", id)
		with.Code, with.CodeExpiresAt = "code", now.Add(time.Minute)
		without := oneTime("b", "reset", 0)
		add(t, s, with, without)
		for _, o := range []persistence.OneTime{with, without} {
			if got, err := s.OneTime(t.Context(), o.Purpose, now, "other", o.Digest); err != nil || got != o {
				t.Errorf("%+v, %v\nwant %+v", got, err, o)
			}
		}
		if got, err := s.OneTimeByCode(t.Context(), "verify", now, "code"); err != nil || got != with {
			t.Errorf("%+v, %v", got, err)
		}
		if got, err := s.LatestRegistration(t.Context(), "verify", "ada@example.com", now); err != nil || got != with {
			t.Errorf("%+v, %v", got, err)
		}
		_, err := s.OneTimeByCode(t.Context(), "verify", with.CodeExpiresAt, "code")
		_, other := s.OneTimeByCode(t.Context(), "login", now, "code")
		if !errors.Is(err, auth.ErrNotFound) || !errors.Is(other, auth.ErrNotFound) {
			t.Errorf("%v, %v", err, other)
		}
		if has(t, s, "a", "reset", now) || has(t, s, "a", "verify", with.ExpiresAt) || !has(t, s, "a", "verify", with.ExpiresAt.Add(-time.Microsecond)) {
			t.Error("a purpose or a time counts for nothing")
		}
	})
}

func TestAOneTimeTokenIsTakenOnceAlsoAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		add(t, s, oneTime("a", "reset", newUser(t, s, "ada@example.com")))
		if taken, err := s.TakeOneTime(t.Context(), "a", now.Add(time.Hour)); err != nil || taken {
			t.Errorf("when it is over: %v, %v", taken, err)
		}
		won := make(chan bool, 20)
		for _, err := range atOnce(20, func(int) error {
			taken, err := s.TakeOneTime(t.Context(), "a", now)
			won <- taken
			return err
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		n := 0
		for range 20 {
			if <-won {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d won", n)
		}
	})
}

func TestOneTimeTokensAreVoided(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		ada, bob := newUser(t, s, "ada@example.com"), newUser(t, s, "bob@example.com")
		for _, o := range []persistence.OneTime{
			oneTime("reset", "reset", ada), oneTime("undo", "undo", ada), oneTime("bob", "reset", bob),
			oneTime("nobody", "reset", 0), oneTime("verify", "verify", 0),
		} {
			o.Password = ""
			add(t, s, o)
		}
		left := func(what string, wanted ...string) {
			t.Helper()
			for _, digest := range []string{"reset", "undo", "bob", "nobody", "verify"} {
				purpose := map[string]string{"bob": "reset", "nobody": "reset"}[digest]
				if purpose == "" {
					purpose = digest
				}
				want := false
				for _, w := range wanted {
					want = want || w == digest
				}
				if has(t, s, digest, purpose, now) != want {
					t.Errorf("%s: %s is left: %v", what, digest, !want)
				}
			}
		}
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(s.VoidOlder(t.Context(), "reset", 0, "ada@example.com"))
		left("a newer one for nobody", "reset", "undo", "bob", "verify")
		check(s.VoidOlder(t.Context(), "reset", bob, "ada@example.com"))
		left("a newer one of bob's", "reset", "undo", "verify")
		check(s.VoidOneTimes(t.Context(), ada, "undo"))
		left("all of ada's but undo", "undo", "verify")
		check(s.VoidOneTimes(t.Context(), ada))
		left("all of ada's", "verify")
		if n, err := s.SweepOneTimes(t.Context(), now.Add(time.Hour), 10); n != 1 || err != nil {
			t.Errorf("%d swept, %v", n, err)
		}
		add(t, s, oneTime("reset", "reset", ada))
		execute(t, s, "DELETE FROM users")
		left("without users")
	})
}

func TestAnAddressIsGivenToOneUser(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var ids []auth.UserID
		for i := range 8 {
			ids = append(ids, newUser(t, s, fmt.Sprintf("user%d@example.com", i)))
		}
		won := 0
		for _, err := range atOnce(len(ids), func(i int) error { return s.SetEmail(t.Context(), ids[i], "A@example.com", "a@example.com", now) }) {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, auth.ErrEmailTaken):
				t.Error(err)
			}
		}
		if user, err := s.UserByEmail(t.Context(), "a@example.com"); won != 1 || err != nil || user.Email != "A@example.com" || !user.EmailVerified || !user.UpdatedAt.Equal(now) {
			t.Errorf("%d won, %+v, %v", won, user, err)
		}
	})
}

func TestOnlyAnotherDeviceIsNews(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		ada, bob := newUser(t, s, "ada"), newUser(t, s, "bob")
		for i, c := range []struct {
			user   auth.UserID
			device string
			news   bool
		}{{ada, "curl", false}, {ada, "curl", false}, {bob, "Firefox", false}, {ada, "Firefox", true}, {ada, texts[0], true}, {ada, "Firefox", false}} {
			if news, err := s.KnowDevice(t.Context(), c.user, c.device, now); err != nil || news != c.news {
				t.Errorf("%d: %v, %v", i, news, err)
			}
		}
	})
}
