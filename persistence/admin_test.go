package persistence_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

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

func TestCountLiveSessions(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		first := newSession(t, s, "s")
		newSession(t, s, "another user's")
		ended, expired := first, first
		ended.ID, expired.ID, expired.ExpiresAt = "ended", "expired", now
		for _, n := range []persistence.Session{ended, expired} {
			if err := s.CreateSession(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.EndSession(t.Context(), "ended", auth.ReasonAdmin, now); err != nil {
			t.Fatal(err)
		}
		if n, err := s.CountLiveSessions(t.Context(), first.UserID, now); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
	})
}
