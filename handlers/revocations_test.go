package handlers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/token"
)

// revocations reads all pages from a cursor on and returns the sessions and the last cursor.
func (s *service) revocations(t *testing.T, cursor string) (sessions []string, next string) {
	t.Helper()
	seen := map[string]bool{}
	for more := true; more; {
		page, err := s.sessions.Revocations(t.Context(), auth.RevocationsRequest{Since: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Revoked {
			if !seen[r.SessionID] {
				seen[r.SessionID] = true
				sessions = append(sessions, r.SessionID)
			}
		}
		if page.Now != s.now() {
			t.Errorf("now %v", page.Now)
		}
		cursor, more = page.Cursor, page.More
	}
	return sessions, cursor
}

func TestRevocationsTellWhatEndedWhileItMatters(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		if got, _ := s.revocations(t, ""); got != nil {
			t.Errorf("%v", got)
		}
		first := s.login(t).Tokens
		want(t, "logout", s.logout(t, first.AccessToken, ""), nil)
		page, err := s.sessions.Revocations(t.Context(), auth.RevocationsRequest{})
		if err != nil || len(page.Revoked) != 1 || page.Revoked[0] != (auth.Revocation{
			SessionID: first.SessionID, RevokedAt: begin, ExpiresAt: begin.Add(accessTTL),
		}) {
			t.Errorf("%+v, %v", page, err)
		}
		_, cursor := s.revocations(t, "")
		s.advance(10 * time.Minute)
		second := s.login(t).Tokens
		want(t, "logout", s.logout(t, second.AccessToken, ""), nil)
		if got, _ := s.revocations(t, cursor); len(got) != 2 || got[1] != second.SessionID { // the last minute is told again
			t.Errorf("%v", got)
		}
		_, cursor = s.revocations(t, "")
		if got, _ := s.revocations(t, cursor); len(got) != 1 || got[0] != second.SessionID {
			t.Errorf("%v", got)
		}

		// Deleting the account leaves no gap.
		last := s.login(t).Tokens
		if _, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(last), Password: horse}); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.revocations(t, cursor); len(got) != 2 || got[1] != last.SessionID {
			t.Errorf("%v", got)
		}
		s.advance(accessTTL + token.Leeway + time.Minute + time.Microsecond)
		if got, _ := s.revocations(t, ""); got != nil {
			t.Errorf("none matters any more: %v", got)
		}
		if got, _ := s.revocations(t, cursor); got != nil {
			t.Errorf("nor by an old cursor: %v", got)
		}
		for _, bad := range []string{"x", "1", "1.x", "-1.0", "1.-1", "99999999999999999999.0"} {
			_, err := s.sessions.Revocations(t.Context(), auth.RevocationsRequest{Since: bad})
			want(t, bad, err, auth.ErrInvalid)
		}
	})
}

// An instance whose clock is behind, or whose transaction takes long, writes an end that is older than
// the cursor of another instance's reply. The overlap repeats it.
func TestRevocationsThatBecomeVisibleLateAreTold(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		behind := start(t, s.url, s.master, &clock{})
		mine, late := s.login(t).Tokens, s.login(t).Tokens
		s.advance(time.Minute)
		want(t, "logout", s.logout(t, mine.AccessToken, ""), nil)
		got, cursor := s.revocations(t, "")
		if !slices.Equal(got, []string{mine.SessionID}) {
			t.Fatalf("%v", got)
		}
		behind.advance(time.Second)
		want(t, "logout by a clock that is 59 s behind", behind.logout(t, late.AccessToken, ""), nil)
		if got, _ := s.revocations(t, cursor); !slices.Contains(got, late.SessionID) {
			t.Errorf("%v, want %s too", got, late.SessionID)
		}
	})
}

func TestRevocationsComeInPages(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.execute(t, `INSERT INTO outbox (id, type, subject, time, data)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1234)
			SELECT 'e' || i, 'session.revoked', '1', ?, '{"sessionId":"s' || i || '","userId":1}' FROM n`, begin)
		got, cursor := s.revocations(t, "")
		if len(got) != 1234 || got[0] != "s1" || got[1233] != "s1234" {
			t.Errorf("%d: %.50s", len(got), fmt.Sprint(got))
		}
		if again, next := s.revocations(t, cursor); len(again) != 1234 || next != cursor { // within the last minute
			t.Errorf("%d, %s then %s", len(again), cursor, next)
		}
	})
}
