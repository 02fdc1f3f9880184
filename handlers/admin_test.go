package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/persistence"
)

func (s *service) admin() *handlers.Admin {
	return &handlers.Admin{Store: s.store, Accounts: s.accounts, Sessions: s.sessions, Clock: s.now}
}

func (s *service) disable(t *testing.T, id auth.UserID) auth.AdminUsersDisableReply {
	t.Helper()
	done, err := s.admin().Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: id})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (s *service) enable(t *testing.T, id auth.UserID) {
	t.Helper()
	if _, err := s.admin().Enable(t.Context(), auth.AdminUsersEnableRequest{UserID: id}); err != nil {
		t.Fatal(err)
	}
}

func (s *service) details(t *testing.T, id auth.UserID) auth.AdminUsersGetReply {
	t.Helper()
	user, err := s.admin().Get(t.Context(), auth.AdminUsersGetRequest{UserID: id})
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func (s *service) tryLogin(t *testing.T, plain string) error {
	_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: plain})
	return err
}

// bound are the requests that need a session, and that must come to nothing.
func (s *service) bound(t *testing.T, tokens auth.Tokens) map[string]error {
	ctx, own, name := t.Context(), s.bearer(tokens), "Mallory"
	errs := map[string]error{"verify": s.verify(t, tokens.AccessToken)}
	_, errs["refresh"] = s.tryRefresh(t, tokens.RefreshToken)
	_, errs["account"] = s.accounts.Get(ctx, auth.AccountGetRequest{Bearer: own})
	_, errs["update"] = s.accounts.Update(ctx, auth.AccountUpdateRequest{Bearer: own, Name: &name})
	_, errs["delete"] = s.accounts.Delete(ctx, auth.AccountDeleteRequest{Bearer: own, Password: horse})
	_, errs["change"] = s.accounts.ChangePassword(ctx, auth.PasswordChangeRequest{Bearer: own, CurrentPassword: horse, NewPassword: "battery horse correct"})
	_, errs["list"] = s.sessions.List(ctx, auth.SessionsListRequest{Bearer: own})
	_, errs["revoke"] = s.sessions.Revoke(ctx, auth.SessionsRevokeRequest{Bearer: own, SessionID: tokens.SessionID})
	_, errs["revoke others"] = s.sessions.RevokeOthers(ctx, auth.SessionsRevokeOthersRequest{Bearer: own})
	return errs
}

func TestADisabledUserIsRefusedOnEveryPath(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		sessions := []auth.Tokens{s.login(t).Tokens, s.refresh(t, s.login(t).Tokens)}
		stranger := s.stranger(t)
		s.told(t)
		s.advance(time.Minute)
		since := s.now()
		if done := s.disable(t, id); done.Ended != 2 || done.DisabledAt != since {
			t.Errorf("%+v", done)
		}
		lines, data := s.told(t)
		if !slices.Equal(lines, []string{"user.disabled 1", "session.revoked 1", "session.revoked 1"}) ||
			data[0]["disabledAt"] != "2026-03-01T12:01:00.123456Z" || len(data[0]) != 2 ||
			data[1]["reason"] != "user_disabled" || data[2]["reason"] != "user_disabled" {
			t.Errorf("%q, %v", lines, data)
		}

		s.advance(time.Second)
		want(t, "login", s.tryLogin(t, horse), auth.ErrInvalidCredentials)
		want(t, "login with a wrong password", s.tryLogin(t, "wrong"), auth.ErrInvalidCredentials)
		for _, tokens := range sessions {
			for what, err := range s.bound(t, tokens) {
				want(t, what, err, auth.ErrTokenRevoked)
			}
			want(t, "logout", s.logout(t, tokens.AccessToken, ""), nil)
		}
		if done := s.disable(t, id); done.Ended != 0 || done.DisabledAt != since {
			t.Errorf("again: %+v", done)
		}
		if user := s.details(t, id); user.DisabledAt != since || user.UpdatedAt != since || user.Sessions != 0 || user.Name != "Ada" {
			t.Errorf("%+v", user)
		}
		if lines, _ := s.told(t); lines != nil {
			t.Errorf("nothing was done: %q", lines)
		}
		want(t, "somebody else", s.verify(t, stranger.AccessToken), nil)

		s.enable(t, id)
		s.enable(t, id)
		if lines, data := s.told(t); !slices.Equal(lines, []string{"user.enabled 1"}) || data[0]["enabledAt"] != "2026-03-01T12:01:01.123456Z" || len(data[0]) != 2 {
			t.Errorf("%q, %v", lines, data)
		}
		want(t, "verify", s.verify(t, s.login(t).AccessToken), nil)
		if user := s.details(t, id); !user.DisabledAt.IsZero() || user.UpdatedAt != s.now() || user.Sessions != 1 {
			t.Errorf("%+v", user)
		}
		for _, tokens := range sessions {
			want(t, "a session from before", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		}
	})
}

// The stored password is looked at all the same, and not stored afresh.
func TestADisabledUsersPasswordIsCompared(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		s.disable(t, id)
		before := s.stored(t)
		s.sessions.Passwords.Cost = bcrypt.MinCost + 1
		want(t, "right", s.tryLogin(t, horse), auth.ErrInvalidCredentials)
		if s.stored(t) != before {
			t.Error("stored afresh")
		}
		s.execute(t, "UPDATE users SET password = 'noise'")
		want(t, "unreadable", s.tryLogin(t, horse), password.ErrStored)
	})
}

// Logins and refreshes under way while the user is disabled leave no session that lives, and
// none begins afterwards.
func TestNothingThatRacesADisableLeavesASession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		const rounds, logins = 25, 6
		id := s.register(t)
		other := s.another(t)
		var began, met int
		for round := range rounds {
			held := s.login(t).Tokens
			var mu sync.Mutex
			given := []auth.Tokens{held}
			keep := func(tokens auth.Tokens, err error) error {
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					given = append(given, tokens)
				}
				return err
			}
			for i, err := range atOnce(logins+2, func(i int) error {
				instance := []*service{s, other}[i%2]
				switch i {
				case 0:
					for range round % 5 { // let some of the logins go first
						if _, err := s.store.Password(t.Context(), id); err != nil {
							return err
						}
					}
					_, err := s.admin().Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: id})
					return err
				case 1:
					return keep(instance.tryRefresh(t, held.RefreshToken))
				}
				reply, err := instance.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
				return keep(reply.Tokens, err)
			}) {
				switch {
				case err == nil && i > 1:
					began++
				case i > 1:
					met++
					want(t, "login", err, auth.ErrInvalidCredentials)
				case i == 1 && err != nil:
					want(t, "refresh", err, auth.ErrTokenRevoked)
				case err != nil:
					t.Fatal(err)
				}
			}
			for _, tokens := range given {
				want(t, "verify", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
				_, err := s.tryRefresh(t, tokens.RefreshToken)
				want(t, "refresh", err, auth.ErrTokenRevoked)
			}
			if n := s.details(t, id).Sessions; n != 0 {
				t.Errorf("%d sessions live", n)
			}
			s.enable(t, id)
		}
		if began == 0 || met == 0 {
			t.Logf("no race: %d logins before, %d after", began, met)
		}
		disabled := false
		lines, _ := s.told(t)
		for _, line := range lines {
			switch line {
			case "user.disabled 1":
				disabled = true
			case "user.enabled 1":
				disabled = false
			case "session.created 1":
				if disabled {
					t.Error("a session began while its user was disabled")
				}
			}
		}
	})
}

// Whoever disables a user in the database alone still keeps them out, though not at once
// where tokens are verified locally.
func TestADisabledUsersSessionsAreRefusedThoughNobodyEndedThem(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		spent := s.begun(t)
		tokens := s.refresh(t, spent)
		s.execute(t, "UPDATE users SET disabled_at = ?", s.now())
		for what, err := range s.bound(t, tokens) {
			want(t, what, err, auth.ErrTokenRevoked)
		}
		_, err := s.tryRefresh(t, spent.RefreshToken)
		want(t, "refresh within the grace window", err, auth.ErrTokenRevoked)
		want(t, "login", s.tryLogin(t, horse), auth.ErrInvalidCredentials)
		if done := s.disable(t, 1); done.Ended != 1 {
			t.Errorf("%+v", done)
		}
	})
}

func TestOperatorsSetPasswords(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		tokens := s.login(t).Tokens
		s.told(t)
		set := func(id auth.UserID, plain string) (auth.SessionsEnded, error) {
			return s.admin().SetPassword(t.Context(), auth.AdminUsersSetPasswordRequest{UserID: id, Password: plain})
		}
		for plain, reason := range map[string]string{"": "required", "short": "too_short", "password": "too_common", "Ada@Example.com": "contains_context"} {
			_, err := set(id, plain)
			want(t, plain, err, auth.ErrInvalid)
			if fields := auth.Public(err).Fields; !slices.Equal(fields, []auth.Field{{Field: "password", Reason: reason}}) {
				t.Errorf("%q: %v", plain, fields)
			}
		}
		want(t, "verify", s.verify(t, tokens.AccessToken), nil)
		if done, err := set(id, "battery horse correct"); err != nil || done.Ended != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		lines, data := s.told(t)
		if !slices.Equal(lines, []string{"user.password_changed 1", "session.revoked 1"}) || data[1]["reason"] != "admin" {
			t.Errorf("%q, %v", lines, data)
		}
		want(t, "verify", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		want(t, "the former one", s.tryLogin(t, horse), auth.ErrInvalidCredentials)
		want(t, "the new one", s.tryLogin(t, "battery horse correct"), nil)

		s.disable(t, id)
		if done, err := set(id, horse); err != nil || done.Ended != 0 {
			t.Errorf("while disabled: %+v, %v", done, err)
		}
		want(t, "still disabled", s.tryLogin(t, horse), auth.ErrInvalidCredentials)
		s.enable(t, id)
		want(t, "enabled", s.tryLogin(t, horse), nil)
	})
}

func TestOperatorsEndSessions(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		tokens := s.login(t).Tokens
		s.login(t)
		stranger := s.stranger(t)
		s.told(t)
		for _, ended := range []int{2, 0} {
			done, err := s.admin().EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: id})
			if err != nil || done.Ended != ended {
				t.Errorf("%+v, %v", done, err)
			}
		}
		lines, data := s.told(t)
		if !slices.Equal(lines, []string{"session.revoked 1", "session.revoked 1"}) || data[0]["reason"] != "admin" || data[1]["reason"] != "admin" {
			t.Errorf("%q, %v", lines, data)
		}
		want(t, "verify", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		want(t, "somebody else", s.verify(t, stranger.AccessToken), nil)
		want(t, "login", s.tryLogin(t, horse), nil)
	})
}

func TestOperatorsFindAUser(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		s.login(t)
		s.advance(idleTTL)
		s.login(t)
		byID := s.details(t, id)
		if byID.Email != "Ada@example.com" || byID.CreatedAt != begin || byID.Sessions != 1 || !byID.DisabledAt.IsZero() {
			t.Errorf("%+v", byID)
		}
		get := func(id auth.UserID, email string) (auth.AdminUsersGetReply, error) {
			return s.admin().Get(t.Context(), auth.AdminUsersGetRequest{UserID: id, Email: email})
		}
		if byEmail, err := get(0, "ADA@example.COM"); err != nil || byEmail != byID {
			t.Errorf("%+v, %v", byEmail, err)
		}
		for name, c := range map[string]struct {
			id     auth.UserID
			email  string
			err    error
			fields []auth.Field
		}{
			"neither":      {0, "", auth.ErrInvalid, []auth.Field{{Field: "userId", Reason: "required"}}},
			"both":         {id, ada, auth.ErrInvalid, []auth.Field{{Field: "userId", Reason: "invalid"}, {Field: "email", Reason: "invalid"}}},
			"negative":     {-1, "", auth.ErrInvalid, []auth.Field{{Field: "userId", Reason: "invalid"}}},
			"no address":   {0, "ada", auth.ErrInvalid, []auth.Field{{Field: "email", Reason: "invalid"}}},
			"unknown":      {99, "", auth.ErrNotFound, nil},
			"unknown mail": {0, bob, auth.ErrNotFound, nil},
		} {
			user, err := get(c.id, c.email)
			want(t, name, err, c.err)
			if fields := auth.Public(err).Fields; !slices.Equal(fields, c.fields) || user != (auth.AdminUsersGetReply{}) {
				t.Errorf("%s: %+v, %v", name, user, fields)
			}
		}
	})
}

func TestOperatorsChangeOnlyWhoIsThere(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		admin, ctx := s.admin(), t.Context()
		for id, wanted := range map[auth.UserID]error{0: auth.ErrInvalid, -1: auth.ErrInvalid, 99: auth.ErrNotFound} {
			errs := map[string]error{}
			_, errs["disable"] = admin.Disable(ctx, auth.AdminUsersDisableRequest{UserID: id})
			_, errs["enable"] = admin.Enable(ctx, auth.AdminUsersEnableRequest{UserID: id})
			_, errs["end sessions"] = admin.EndSessions(ctx, auth.AdminUsersEndSessionsRequest{UserID: id})
			_, errs["set password"] = admin.SetPassword(ctx, auth.AdminUsersSetPasswordRequest{UserID: id, Password: horse})
			for what, err := range errs {
				want(t, fmt.Sprint(what, " ", id), err, wanted)
			}
		}
	})
}

// Everybody who is there before the first page is on one of them, once and in order, while
// others register.
func TestPagesHaveEverybodyOnceWhileOthersRegister(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		create := func(ctx context.Context, email string) (auth.UserID, error) {
			return s.store.CreateUser(ctx, persistence.NewUser{Email: email, EmailKey: email, Password: "stored", At: begin})
		}
		var there []auth.UserID
		err := s.store.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
			for i := range 1200 {
				email := fmt.Sprintf("u%d@example.com", i)
				id, err := tx.CreateUser(ctx, persistence.NewUser{Email: email, EmailKey: email, Password: "stored", At: begin})
				if err != nil {
					return err
				}
				there = append(there, id)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		gone := there[600]
		s.execute(t, "DELETE FROM users WHERE id = ?", gone)
		there = slices.Delete(there, 600, 601)

		ctx, stop := context.WithCancel(t.Context())
		var registering sync.WaitGroup
		for w := range 2 {
			registering.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					if _, err := create(ctx, fmt.Sprintf("late%d.%d@example.com", w, i)); err != nil && !errors.Is(err, auth.ErrUnavailable) {
						t.Error(err)
					}
				}
			})
		}
		for _, limit := range []int{0, 7, 500} {
			var got []auth.UserID
			for request := (auth.AdminUsersListRequest{Limit: limit}); ; {
				page, err := s.admin().List(t.Context(), request)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range page.Users {
					got = append(got, u.UserID)
				}
				// Those who register meanwhile may keep the list from ending.
				if request.After = page.Next; page.Next == 0 || page.Next > there[len(there)-1] {
					break
				}
			}
			if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("pages of %d: out of order, or twice", limit)
			}
			if len(got) < len(there) || !slices.Equal(got[:len(there)], there) {
				t.Errorf("pages of %d: %d of %d", limit, len(got), len(there))
			}
		}
		stop()
		registering.Wait()
	})
}

func TestPagesAreRefusedAndFiltered(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		s.stranger(t)
		s.disable(t, id)
		list := func(request auth.AdminUsersListRequest) (auth.AdminUsersListReply, error) {
			return s.admin().List(t.Context(), request)
		}
		for field, request := range map[string]auth.AdminUsersListRequest{"limit": {Limit: 501}, "limit ": {Limit: -1}, "after": {After: -1}, "email": {Email: "ada"}} {
			_, err := list(request)
			want(t, field, err, auth.ErrInvalid)
			if fields := auth.Public(err).Fields; !slices.Equal(fields, []auth.Field{{Field: strings.TrimSpace(field), Reason: "invalid"}}) {
				t.Errorf("%s: %v", field, fields)
			}
		}
		first, err := list(auth.AdminUsersListRequest{Limit: 1})
		if err != nil || len(first.Users) != 1 || first.Users[0].DisabledAt != begin || first.Next != id {
			t.Errorf("%+v, %v", first, err)
		}
		filtered, err := list(auth.AdminUsersListRequest{Email: "ada@EXAMPLE.com"})
		if err != nil || !reflect.DeepEqual(filtered.Users, first.Users) || filtered.Next != 0 {
			t.Errorf("%+v, %v", filtered, err)
		}
		for _, request := range []auth.AdminUsersListRequest{{Email: "eve@example.com"}, {Email: ada, After: id}, {After: 99}} {
			if page, err := list(request); err != nil || page.Users == nil || len(page.Users) != 0 || page.Next != 0 {
				t.Errorf("%+v: %+v, %v", request, page, err)
			}
		}
	})
}

// A service that begins with the snapshot knows who is disabled, which the stream tells for
// thirty days only.
func TestTheSnapshotTellsWhoIsDisabled(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.disable(t, s.register(t))
		s.stranger(t)
		snapshot := handlers.Snapshot{Store: s.store, Sequence: sequence(0)}
		page, err := snapshot.Users(t.Context(), auth.UsersSnapshotRequest{})
		if err != nil || page.Users[0].DisabledAt != begin || !page.Users[1].DisabledAt.IsZero() {
			t.Errorf("%+v, %v", page, err)
		}
	})
}

func TestImportLeavesDisabledUsersAlone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		s.disable(t, id)
		batches := [][]handlers.Candidate{{
			{ImportedUser: persistence.ImportedUser{ID: id, Email: ada, Password: ancestral(t)}},
			{ImportedUser: persistence.ImportedUser{ID: 7, Email: bob, Password: ancestral(t)}},
		}, nil}
		i := handlers.Import{Store: s.store, Clock: s.now}
		counts, err := i.Run(t.Context(), func(context.Context, int) ([]handlers.Candidate, error) {
			next := batches[0]
			batches = batches[1:]
			return next, nil
		})
		if err != nil || counts.Present != 1 || counts.Imported != 1 {
			t.Errorf("%+v, %v", counts, err)
		}
		if ada, bob := s.details(t, id), s.details(t, 7); ada.DisabledAt != begin || !bob.DisabledAt.IsZero() {
			t.Errorf("%+v, %+v", ada, bob)
		}
	})
}
