package handlers_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/persistence"
)

// told returns the events since the last time, as "type subject", and their data.
func (s *service) told(t *testing.T) (lines []string, data []map[string]any) {
	t.Helper()
	_, err := s.store.Take(t.Context(), 1000, func(_ context.Context, list []events.Event) (int, error) {
		for _, e := range list {
			lines = append(lines, e.Type+" "+e.Subject)
			var d map[string]any
			if err := json.Unmarshal(e.Data, &d); err != nil {
				t.Error(err)
			}
			data = append(data, d)
		}
		return len(list), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, data
}

// Each change of an account or a session is told, once and with its reason, and nothing
// else is.
func TestEveryChangeIsTold(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.told(t) // of the first key
		expect := func(what string, wanted ...string) []map[string]any {
			t.Helper()
			lines, data := s.told(t)
			if !slices.Equal(lines, wanted) {
				t.Errorf("%s: %q, want %q", what, lines, wanted)
			}
			return data
		}
		id := s.register(t)
		data := expect("registration", "user.registered 1")
		if data[0]["email"] != "Ada@example.com" || data[0]["name"] != "Ada" || data[0]["createdAt"] != "2026-03-01T12:00:00.123456Z" || len(data[0]) != 4 {
			t.Errorf("%v", data[0])
		}
		first := s.loginFrom(t, auth.ClientInfo{IP: "192.0.2.1", UserAgent: "curl"}).Tokens
		data = expect("login", "session.created 1")
		if data[0]["sessionId"] != first.SessionID || data[0]["client"].(map[string]any)["ip"] != "192.0.2.1" || len(data[0]) != 6 {
			t.Errorf("%v", data[0])
		}
		first = s.refresh(t, first)
		expect("refresh")
		want(t, "verify", s.verify(t, first.AccessToken), nil)
		expect("verification")

		name := "Countess"
		if _, err := s.accounts.Update(t.Context(), auth.AccountUpdateRequest{Bearer: s.bearer(first), Name: &name}); err != nil {
			t.Fatal(err)
		}
		if data = expect("update", "user.updated 1"); data[0]["name"] != name {
			t.Errorf("%v", data[0])
		}

		want(t, "logout", s.logout(t, first.AccessToken, ""), nil)
		data = expect("logout", "session.revoked 1")
		if data[0]["reason"] != "logout" || data[0]["sessionId"] != first.SessionID || data[0]["revokedAt"] != "2026-03-01T12:00:00.123456Z" ||
			data[0]["expiresAt"] != "2026-03-01T12:15:00.123456Z" || len(data[0]) != 5 {
			t.Errorf("%v", data[0])
		}
		want(t, "logout again", s.logout(t, first.AccessToken, ""), nil)
		expect("a session that had ended")

		stolen := s.login(t).Tokens
		s.refresh(t, stolen)
		s.advance(time.Minute)
		_, err := s.tryRefresh(t, stolen.RefreshToken)
		want(t, "theft", err, auth.ErrTokenRevoked)
		if data = expect("theft", "session.created 1", "session.revoked 1"); data[1]["reason"] != "token_reuse" {
			t.Errorf("%v", data[1])
		}

		kept, other := s.login(t).Tokens, s.login(t).Tokens
		_, err = s.sessions.Revoke(t.Context(), auth.SessionsRevokeRequest{Bearer: s.bearer(kept), SessionID: other.SessionID})
		want(t, "revoke", err, nil)
		if data = expect("end one", "session.created 1", "session.created 1", "session.revoked 1"); data[2]["reason"] != "ended_by_user" {
			t.Errorf("%v", data[2])
		}
		s.login(t)
		renewed, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: s.bearer(kept), CurrentPassword: horse, NewPassword: horse})
		want(t, "change the password", err, nil)
		data = expect("password", "session.created 1", "user.password_changed 1", "session.revoked 1", "session.revoked 1", "session.created 1")
		if data[2]["reason"] != "password_changed" || data[3]["reason"] != "password_changed" || data[4]["sessionId"] != renewed.SessionID {
			t.Errorf("%v", data[2:])
		}
		s.sessions.Limit = 1
		last := s.login(t).Tokens
		if data = expect("limit", "session.created 1", "session.revoked 1"); data[1]["reason"] != "session_limit" || data[1]["sessionId"] != renewed.SessionID {
			t.Errorf("%v", data[1])
		}
		_, err = s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(last), Password: "wrong"})
		want(t, "delete", err, auth.ErrInvalidCredentials)
		expect("a deletion that is refused")
		_, err = s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(last), Password: horse})
		want(t, "delete", err, nil)
		if data = expect("deletion", "session.revoked 1", "user.deleted 1"); data[0]["reason"] != "user_deleted" || data[1]["userId"] != float64(id) {
			t.Errorf("%v", data)
		}

		if _, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: "ada", Password: horse}); err == nil {
			t.Error("no address")
		}
		s.register(t)
		if _, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse}); err == nil {
			t.Error("taken")
		}
		if _, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: "wrong horse"}); err == nil {
			t.Error("wrong password")
		}
		expect("what is refused", "user.registered 2")
	})
}

func TestKeysAreTold(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := keySet(t, s.keys)[0].KeyID
		if lines, _ := s.told(t); !slices.Equal(lines, []string{"key.rotated " + first}) {
			t.Errorf("%q", lines)
		}
		s.advance(time.Minute)
		next, _, err := s.keys.Rotate(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		lines, data := s.told(t)
		if !slices.Equal(lines, []string{"key.rotated " + next.ID}) || data[0]["kid"] != next.ID || data[0]["activeFrom"] != "2026-03-01T12:11:00.123456Z" {
			t.Errorf("%q, %v", lines, data)
		}
		if err := s.keys.Retire(t.Context(), next.ID); err != nil {
			t.Fatal(err)
		}
		if lines, _ := s.told(t); !slices.Equal(lines, []string{"key.rotated " + first}) { // look again
			t.Errorf("%q", lines)
		}
	})
}

func TestImportedAccountsAreTold(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.told(t)
		read := false
		i := handlers.Import{Store: s.store, Clock: s.now}
		_, err := i.Run(t.Context(), func(context.Context, int) ([]handlers.Candidate, error) {
			if read {
				return nil, nil
			}
			read = true
			return []handlers.Candidate{
				{ImportedUser: persistence.ImportedUser{ID: 7, Email: "bob@example.com", Password: ancestral(t), CreatedAt: begin}},
				{ImportedUser: persistence.ImportedUser{ID: 8, Email: "nobody", Password: ancestral(t)}},
				{ImportedUser: persistence.ImportedUser{Email: "eve@example.com", Password: ancestral(t)}, NoID: true},
			}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		lines, _ := s.told(t)
		if len(lines) != 2 || lines[0] != "user.registered 7" || !strings.HasPrefix(lines[1], "user.registered ") || lines[1] == "user.registered 0" {
			t.Errorf("%q", lines)
		}
	})
}
