package handlers_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
)

// crowd gives the first user sessions beyond those there are, all used a minute from now.
func (s *service) crowd(t *testing.T, sessions int) {
	t.Helper()
	at := s.now().Add(time.Minute)
	s.execute(t, fmt.Sprintf(`INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent, expires_at, deadline_at, carrier, sweep_at, epoch)
		WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		SELECT 'crowd' || i, id, 1, 'pwd', ?, '', '', ?, '', '', ?, ?, 'body', ?, session_epoch FROM n, users WHERE users.id = 1`, sessions),
		at, at, at.Add(idleTTL), at.Add(maxAge), at.Add(idleTTL))
}

// rows counts the rows of sessions that have been ended, and those that have not.
func (s *service) rows(t *testing.T) (ended, open int) {
	t.Helper()
	err := s.store.DB().NewRaw("SELECT count(revoked_at), count(*) - count(revoked_at) FROM login_sessions").Scan(t.Context(), &ended, &open)
	if err != nil {
		t.Fatal(err)
	}
	return ended, open
}

func (s *service) finish(t *testing.T) {
	t.Helper()
	e := handlers.Endings{Sessions: s.sessions, Clock: s.now}
	if err := e.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.count(t, "session_endings"); n != 0 {
		t.Errorf("%d endings are left", n)
	}
}

// One transaction ends a thousand rows and no more, and from its commit on all sessions have ended.
func TestEndingThousandsOfSessionsTakesOneSmallTransaction(t *testing.T) {
	const batch, many = 1000, 2500
	for name, op := range map[string]struct {
		end    func(s *service, asks auth.Tokens) error
		reason auth.Reason
		begins int
	}{
		"change password": {func(s *service, asks auth.Tokens) error {
			_, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: s.bearer(asks), CurrentPassword: horse, NewPassword: staple})
			return err
		}, auth.ReasonPasswordChanged, 1},
		"disable": {func(s *service, _ auth.Tokens) error {
			_, err := s.admin().Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: 1})
			return err
		}, auth.ReasonUserDisabled, 0},
		"delete": {func(s *service, asks auth.Tokens) error {
			_, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(asks), Password: horse})
			return err
		}, auth.ReasonUserDeleted, 0},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *service) {
				asks := s.begun(t)
				spent := s.login(t).Tokens
				current := s.refresh(t, spent)
				s.crowd(t, many)
				if err := op.end(s, asks); err != nil {
					t.Fatal(err)
				}
				_, open := s.rows(t)
				if wanted := many + 2 - batch + op.begins; open != wanted {
					t.Errorf("%d rows are open, want %d", open, wanted)
				}
				for what, tokens := range map[string]auth.Tokens{"the current": current, "the spent": spent} {
					_, err := s.tryRefresh(t, tokens.RefreshToken)
					want(t, what+" refresh token", err, auth.ErrTokenRevoked)
				}
				want(t, "an access token", s.verify(t, current.AccessToken), auth.ErrTokenRevoked)
				want(t, "the former password", s.tryLogin(t, horse), auth.ErrInvalidCredentials)

				other := s.another(t) // after a crash, say
				other.finish(t)
				if _, open := s.rows(t); open != op.begins {
					t.Errorf("%d rows are open afterwards", open)
				}
				if n := s.count(t, "login_sessions"); name == "delete" && n != 0 {
					t.Errorf("%d rows of a deleted user", n)
				}
				s.wantRevoked(t, many+2, op.reason)
			})
		})
	}
}

// wantRevoked wants a number of sessions to have ended, each with one event, for one reason, and
// told to verifiers.
func (s *service) wantRevoked(t *testing.T, n int, reason auth.Reason) {
	t.Helper()
	_, revoked := s.lifecycle(t)
	listed, _ := s.revocations(t, "")
	if len(revoked) != n || len(listed) != n {
		t.Errorf("%d events, %d revocations, want %d", len(revoked), len(listed), n)
	}
	var others int
	err := s.store.DB().NewRaw("SELECT count(*) FROM outbox WHERE type = 'session.revoked' AND data NOT LIKE ?", fmt.Sprintf(`%%"reason":"%s"%%`, reason)).
		Scan(t.Context(), &others)
	if err != nil || others != 0 {
		t.Errorf("%d for another reason, %v", others, err)
	}
}

// What began after all sessions ended is not ended with those that are left.
func TestALoginAfterTheEndOfThousandsLives(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		kept := s.begun(t)
		s.crowd(t, 2100)
		if _, err := s.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: s.bearer(kept)}); err != nil {
			t.Fatal(err)
		}
		fresh := s.login(t).Tokens
		if live := s.list(t, fresh); len(live) != 2 {
			t.Errorf("%d sessions are listed", len(live))
		}
		if n := s.details(t, 1).Sessions; n != 2 {
			t.Errorf("%d sessions are counted", n)
		}
		errs := atOnce(4, func(int) error { // two instances, each twice
			return (&handlers.Endings{Sessions: s.sessions, Clock: s.now}).Once(t.Context())
		})
		for _, err := range errs {
			want(t, "end the others", err, nil)
		}
		s.finish(t)
		for what, tokens := range map[string]auth.Tokens{"kept": kept, "fresh": fresh} {
			want(t, what, s.verify(t, tokens.AccessToken), nil)
			s.refresh(t, tokens)
		}
		s.wantRevoked(t, 2100, auth.ReasonEndedByUser)
	})
}

// A session that is refreshed while all others end is neither ended nor taken for stolen.
func TestTheKeptSessionIsRefreshedMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		for range 8 {
			kept := s.login(t).Tokens
			var next auth.Tokens
			errs := atOnce(2, func(i int) (err error) {
				if i == 0 {
					_, err = s.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: s.bearer(kept)})
				} else {
					next, err = s.tryRefresh(t, kept.RefreshToken)
				}
				return err
			})
			for i, err := range errs {
				if err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			want(t, "verify", s.verify(t, next.AccessToken), nil)
		}
	})
}

// A limit that was lowered ends what is beyond it, a hundred sessions with each login.
func TestALoweredLimitEndsSessionsInSteps(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.begun(t)
		s.crowd(t, 250)
		s.sessions.Limit = 10
		s.advance(2 * time.Minute)
		for _, wanted := range []int{152, 53, 10, 10} {
			s.login(t)
			if _, open := s.rows(t); open != wanted {
				t.Errorf("%d sessions are live, want %d", open, wanted)
			}
		}
	})
}

func TestChangingThePasswordBeginsANewSession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		client := auth.ClientInfo{IP: "192.0.2.1", UserAgent: agentOfLaptop}
		login, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Carrier: auth.CarrierCookie, Sender: auth.Sender{Client: &client}})
		if err != nil {
			t.Fatal(err)
		}
		former := login.Tokens
		s.advance(time.Hour)
		tokens, err := s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: former.RefreshToken, Carrier: auth.CarrierCookie, Sender: auth.Sender{Client: &client}})
		if err != nil {
			t.Fatal(err)
		}
		s.told(t)
		done, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: s.bearer(tokens), CurrentPassword: horse, NewPassword: staple})
		if err != nil || done.Ended != 1 || done.Carrier != auth.CarrierCookie || done.SessionID == tokens.SessionID || done.TokenType != "Bearer" || done.ExpiresIn != 900 {
			t.Fatalf("%+v, %v", done, err)
		}
		lines, data := s.told(t)
		if !slices.Equal(lines, []string{"user.password_changed 1", "session.revoked 1", "session.created 1"}) ||
			data[1]["reason"] != "password_changed" || data[1]["sessionId"] != tokens.SessionID || data[2]["sessionId"] != done.SessionID {
			t.Errorf("%q, %v", lines, data)
		}
		want(t, "the former access token", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		_, err = s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: tokens.RefreshToken, Carrier: auth.CarrierCookie})
		want(t, "the former refresh token", err, auth.ErrTokenRevoked)

		if c := read(t, done.AccessToken); c.AuthTime != s.now().Unix() || !slices.Equal(c.AMR, []string{"pwd"}) {
			t.Errorf("%+v", c)
		}
		live := s.list(t, done.Tokens)
		if len(live) != 1 || live[0].IP != client.IP || live[0].CreatedUserAgent != agentOfLaptop || !live[0].Current {
			t.Errorf("%+v", live)
		}
		_, err = s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: done.RefreshToken})
		want(t, "in another carrier", err, auth.ErrInvalidToken)
		_, err = s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: done.RefreshToken, Carrier: auth.CarrierCookie})
		want(t, "in the former one's", err, nil)
	})
}

func TestSessionsComeInPages(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		var wanted []string
		var last auth.Tokens
		for range 7 {
			last = s.login(t).Tokens
			wanted = append([]string{last.SessionID}, wanted...)
			s.advance(time.Second)
		}
		page := func(after string, limit int) (auth.SessionsListReply, error) {
			return s.sessions.List(t.Context(), auth.SessionsListRequest{Bearer: s.bearer(last), After: after, Limit: limit})
		}
		var got []string
		for after, pages := "", 0; pages == 0 || after != ""; pages++ {
			list, err := page(after, 3)
			if err != nil || len(list.Sessions) > 3 {
				t.Fatalf("%+v, %v", list, err)
			}
			for _, l := range list.Sessions {
				got = append(got, l.SessionID)
			}
			if pages == 0 { // a refresh changes no place in the list
				last = s.refresh(t, last)
			}
			after = list.Next
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("got  %q\nwant %q", got, wanted)
		}
		for _, bad := range []struct {
			after string
			limit int
			field string
		}{{"", -1, "limit"}, {"", 101, "limit"}, {"x", 0, "after"}, {"\x00", 0, "after"}, {"' OR 1=1", 0, "after"}} {
			_, err := page(bad.after, bad.limit)
			if fields := auth.Public(err).Fields; len(fields) != 1 || fields[0].Field != bad.field {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		_, err := s.sessions.Revoke(t.Context(), auth.SessionsRevokeRequest{Bearer: s.bearer(last), SessionID: "\x00"})
		want(t, "end a session with a NUL", err, auth.ErrNotFound)
	})
}

// The longest page of the longest user agents fits into a message of NATS.
func TestAPageOfSessionsFitsIntoAMessage(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		agent := ""
		for len(agent) < 512 {
			agent += "<"
		}
		last := s.loginFrom(t, auth.ClientInfo{IP: "2001:db8:1234:5678:9abc:def0:1234:5678", UserAgent: agent}).Tokens
		s.crowd(t, 200)
		s.execute(t, "UPDATE login_sessions SET created_agent = ?, used_agent = ?", agent, agent)
		list, err := s.sessions.List(t.Context(), auth.SessionsListRequest{Bearer: s.bearer(last)})
		if err != nil || len(list.Sessions) != 100 {
			t.Fatalf("%d sessions, %v", len(list.Sessions), err)
		}
		if text, err := json.Marshal(list); err != nil || len(text) > 1<<20 {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	})
}

// issuing is an instance with another lifetime of access tokens.
func (s *service) issuing(t *testing.T, lifetime time.Duration) *service {
	t.Helper()
	other := s.another(t)
	other.sessions.AccessTTL = lifetime
	other.keys = &keyring.Keys{Store: other.store, Master: parse(t, s.master), AccessTTL: lifetime, Clock: s.now}
	other.sessions.Keys = other.keys
	if err := other.keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return other
}

// A session that ended stays in the list of revocations until its last access token has expired,
// whatever ACCESS_TOKEN_TTL was when the token was issued, when the session ended, and now.
func TestRevocationsOutliveAChangeOfTheLifetime(t *testing.T) {
	for name, lifetimes := range map[string]struct{ issued, ended, now time.Duration }{
		"shortened after the end":  {time.Hour, time.Hour, time.Minute},
		"shortened before the end": {time.Hour, time.Minute, time.Minute},
		"lengthened":               {time.Minute, time.Minute, time.Hour},
		"there and back":           {time.Hour, time.Minute, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *service) {
				s.execute(t, "DELETE FROM access_lifetimes")
				s.register(t)
				tokens := s.issuing(t, lifetimes.issued).login(t).Tokens
				expires := s.now().Add(lifetimes.issued)
				s.advance(time.Second)
				want(t, "logout", s.issuing(t, lifetimes.ended).logout(t, "", tokens.RefreshToken), nil)
				now := s.issuing(t, lifetimes.now)
				for s.now().Before(expires) {
					page, err := now.sessions.Revocations(t.Context(), auth.RevocationsRequest{})
					if err != nil || len(page.Revoked) != 1 || page.Revoked[0].ExpiresAt.Before(expires) {
						t.Fatalf("after %v: %+v, %v", s.now().Sub(begin), page, err)
					}
					s.advance(lifetimes.issued / 4)
				}
				s.advance(48*time.Hour + time.Hour)
				if err := now.keys.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				longest, err := s.store.LongestLifetime(t.Context())
				if err != nil || longest != lifetimes.now {
					t.Errorf("two days later: %v, %v", longest, err)
				}
			})
		})
	}
}

// A key that no longer signs verifies until its last token has expired, whatever ACCESS_TOKEN_TTL is.
func TestKeysOutliveAChangeOfTheLifetime(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		long := s.issuing(t, time.Hour)
		tokens := long.login(t).Tokens
		short := s.issuing(t, time.Minute)
		if _, _, err := short.keys.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		s.advance(59 * time.Minute)
		if err := short.keys.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "within its hour", short.verify(t, tokens.AccessToken), nil)
	})
}

// What the settings of the time gave to a session, a link or a limit stays as it was given.
func TestSessionsKeepTheLifetimesTheyBeganWith(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		s.sessions.IdleTTL, s.sessions.MaxAge = time.Minute, 2*time.Minute
		s.advance(time.Hour)
		tokens = s.refresh(t, tokens) // lives by the former setting, and goes on by the new one
		s.advance(time.Minute)
		_, err := s.tryRefresh(t, tokens.RefreshToken)
		want(t, "idle for longer than is allowed now", err, auth.ErrTokenExpired)

		tokens = s.login(t).Tokens
		s.sessions.IdleTTL, s.sessions.MaxAge = idleTTL, maxAge
		s.advance(59 * time.Second)
		tokens = s.refresh(t, tokens)
		if r := read(t, tokens.RefreshToken); time.Unix(r.Exp, 0).After(s.now().Add(2 * time.Minute)) {
			t.Errorf("a longer SESSION_MAX_AGE prolongs a session: %v", time.Unix(r.Exp, 0))
		}
	})
}
