package persistence_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// texts are strings that a careless query would take for something else.
var texts = []string{
	"'; DROP TABLE users; --",
	`O'Brien "the \' one\\" \`,
	"?0 ?email ?? $1 :name %s {{.}}",
	"E'\\x41' U&'\\0041' $$x$$",
	"Zoë 🦊 \u202e ﷽ \U0010ffff",
	"two\nlines\tand\ra tab",
	" spaces ",
	"",
}

func TestCreateUserTakesAnAddressOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		first := newUser(t, s, "ada@example.com")
		_, err := s.CreateUser(t.Context(), persistence.NewUser{Email: "Ada@example.com", EmailKey: "ada@example.com", Name: "other", At: now})
		if !errors.Is(err, auth.ErrEmailTaken) {
			t.Errorf("the same key: %v", err)
		}
		if a, err := s.Account(t.Context(), first); err != nil || a.Email != "ada@example.com" || a.Name != "" {
			t.Errorf("the first account: %+v, %v", a, err)
		}
		if other := newUser(t, s, "ADA@example.com"); other == first {
			t.Error("another key got the same user")
		}
		if n := users(t, s); n != 2 {
			t.Errorf("%d users", n)
		}
	})
}

func TestCreateUserTakesAnAddressOnceAlsoAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		won := 0
		for _, err := range atOnce(20, func(i int) error {
			_, err := s.CreateUser(t.Context(), persistence.NewUser{EmailKey: "ada@example.com", Name: fmt.Sprint(i), At: now})
			return err
		}) {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, auth.ErrEmailTaken):
				t.Error(err)
			}
		}
		if won != 1 || users(t, s) != 1 {
			t.Errorf("%d won, %d users", won, users(t, s))
		}
	})
}

func TestUserIDsAreNotReused(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		first := newUser(t, s, "a")
		execute(t, s, "DELETE FROM users WHERE id = ?", first)
		if second := newUser(t, s, "a"); second <= first {
			t.Errorf("%d after %d", second, first)
		}
	})
}

func TestDeletingAUserEndsTheirSessionsOnly(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		gone, stays := newSession(t, s, "gone"), newSession(t, s, "stays")
		execute(t, s, "DELETE FROM users WHERE id = ?", gone.UserID)
		if got := stored(t, s, gone.ID); !got.HasEnded() {
			t.Errorf("the deleted user's session: %+v", got)
		}
		if _, err := s.AdvanceSession(t.Context(), step(gone, now)); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("a refresh of the deleted user's session: %v", err)
		}
		if got := stored(t, s, stays.ID); got.HasEnded() {
			t.Errorf("the other user's session: %+v", got)
		}
		if n, err := s.DeleteSessions(t.Context(), gone.UserID, 10); err != nil || n != 0 {
			t.Errorf("%d deleted before their rows have ended, %v", n, err)
		}
	})
}

func TestUserTextComesBackByteForByte(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for _, text := range texts {
			id, err := s.CreateUser(t.Context(), persistence.NewUser{Email: text, EmailKey: text, Password: text, Name: text, At: now})
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if a, err := s.Account(t.Context(), id); err != nil || a.Email != text || a.Name != text {
				t.Errorf("%q: %+v, %v", text, a, err)
			}
			if c, err := s.Credentials(t.Context(), text); err != nil || c.UserID != id || c.Password != text {
				t.Errorf("%q: %+v, %v", text, c, err)
			}
			if ok, err := s.ReplacePassword(t.Context(), id, text, text+"'"); err != nil || !ok {
				t.Errorf("%q: %v, %v", text, ok, err)
			}
			if p, err := s.HoldPassword(t.Context(), id); err != nil || p != text+"'" {
				t.Errorf("%q: %q, %v", text, p, err)
			}
		}
		if n := users(t, s); n != len(texts) {
			t.Errorf("%d users", n)
		}
	})
}

func TestAccountTimesComeBackExactly(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for i, at := range moments {
			id, err := s.CreateUser(t.Context(), persistence.NewUser{EmailKey: fmt.Sprint(i), At: at})
			if err != nil {
				t.Fatal(err)
			}
			a, err := s.Account(t.Context(), id)
			if err != nil || a.CreatedAt != at || a.UpdatedAt != at { // == sees the time zone too
				t.Errorf("%v came back as %v and %v, %v", at, a.CreatedAt, a.UpdatedAt, err)
			}
		}
		elsewhere := now.In(time.FixedZone("", 5*3600+1800))
		id, err := s.CreateUser(t.Context(), persistence.NewUser{EmailKey: "elsewhere", At: elsewhere})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := s.Account(t.Context(), id); err != nil || a.CreatedAt != now {
			t.Errorf("%v came back as %v, %v", elsewhere, a.CreatedAt, err)
		}
	})
}

func TestNoSuchUser(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		newUser(t, s, "a")
		if a, err := s.Account(t.Context(), 99); !errors.Is(err, auth.ErrNotFound) || a != (auth.Account{}) {
			t.Errorf("Account = %+v, %v", a, err)
		}
		if c, err := s.Credentials(t.Context(), "b"); !errors.Is(err, auth.ErrNotFound) || c != (persistence.Credentials{}) {
			t.Errorf("Credentials = %+v, %v", c, err)
		}
		if p, err := s.HoldPassword(t.Context(), 99); !errors.Is(err, auth.ErrNotFound) || p != "" {
			t.Errorf("HoldPassword = %q, %v", p, err)
		}
		if ok, err := s.ReplacePassword(t.Context(), 99, "stored", "fresh"); err != nil || ok {
			t.Errorf("ReplacePassword = %v, %v", ok, err)
		}
	})
}

func TestReplacePasswordOfOneThatWasReplaced(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		id, other := newUser(t, s, "a"), newUser(t, s, "b")
		if ok, err := s.ReplacePassword(t.Context(), id, "stored", "fresh"); err != nil || !ok {
			t.Errorf("the stored one: %v, %v", ok, err)
		}
		if ok, err := s.ReplacePassword(t.Context(), id, "stored", "late"); err != nil || ok {
			t.Errorf("one that is not stored any more: %v, %v", ok, err)
		}
		if p, err := s.HoldPassword(t.Context(), id); err != nil || p != "fresh" {
			t.Errorf("%q, %v", p, err)
		}
		if p, err := s.HoldPassword(t.Context(), other); err != nil || p != "stored" {
			t.Errorf("the other user's: %q, %v", p, err)
		}
	})
}

// What a disabled user still had under way comes to nothing.
func TestADisabledUsersRowStaysAsItIs(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		session := newSession(t, s, "s")
		id, later := session.UserID, now.Add(time.Minute)
		step := persistence.Step{SessionID: "s", Generation: 1, At: later, ExpiresAt: later.Add(time.Hour)}
		if err := s.SetDisabled(t.Context(), id, now, now); err != nil {
			t.Fatal(err)
		}
		refusals := func() map[string]error {
			errs := map[string]error{}
			_, errs["hold"] = s.HoldPassword(t.Context(), id)
			_, errs["rename"] = s.UpdateUser(t.Context(), id, persistence.Change{Name: new("other")}, later)
			_, errs["refresh"] = s.AdvanceSession(t.Context(), step)
			return errs
		}
		for what, err := range refusals() {
			if !errors.Is(err, auth.ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if deleted, err := s.DeleteUser(t.Context(), id, "stored"); err != nil || deleted {
			t.Errorf("delete: %v, %v", deleted, err)
		}
		if c, err := s.Credentials(t.Context(), "s@example.com"); err != nil || !c.Disabled || c.Password != "stored" {
			t.Errorf("%+v, %v", c, err)
		}
		if got, err := s.Session(t.Context(), "s"); err != nil || !got.UserEnded || got.Generation != 1 {
			t.Errorf("%+v, %v", got, err)
		}

		if err := s.SetDisabled(t.Context(), id, time.Time{}, later); err != nil {
			t.Fatal(err)
		}
		for what, err := range refusals() {
			if err != nil {
				t.Errorf("%s, when enabled: %v", what, err)
			}
		}
		if c, err := s.Credentials(t.Context(), "s@example.com"); err != nil || c.Disabled {
			t.Errorf("%+v, %v", c, err)
		}
		if got, err := s.Session(t.Context(), "s"); err != nil || got.UserEnded {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestUsersAreFoundByIDAndAddress(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		id, other := newUser(t, s, "ada@example.com"), newUser(t, s, "bob@example.com")
		if err := s.SetDisabled(t.Context(), id, now, now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		want := auth.User{
			Account:    auth.Account{UserID: id, Email: "ada@example.com", CreatedAt: now, UpdatedAt: now.Add(time.Second)},
			DisabledAt: now,
		}
		for what, find := range map[string]func() (auth.User, error){
			"id":      func() (auth.User, error) { return s.User(t.Context(), id) },
			"address": func() (auth.User, error) { return s.UserByEmail(t.Context(), "ada@example.com") },
			"hold": func() (user auth.User, err error) {
				err = s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
					user, err = tx.HoldUser(ctx, id)
					return err
				})
				return user, err
			},
			"page": func() (auth.User, error) {
				list, err := s.Users(t.Context(), 0, 2)
				if len(list) != 2 || list[1].UserID != other || !list[1].DisabledAt.IsZero() {
					t.Errorf("%+v", list)
				}
				return list[0], err
			},
		} {
			if got, err := find(); err != nil || got != want {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		}
		for what, find := range map[string]func() (auth.User, error){
			"id":      func() (auth.User, error) { return s.User(t.Context(), 99) },
			"address": func() (auth.User, error) { return s.UserByEmail(t.Context(), "eve@example.com") },
			"hold":    func() (auth.User, error) { return s.HoldUser(t.Context(), 99) },
		} {
			if got, err := find(); !errors.Is(err, auth.ErrNotFound) || got != (auth.User{}) {
				t.Errorf("nobody's %s: %+v, %v", what, got, err)
			}
		}
	})
}
