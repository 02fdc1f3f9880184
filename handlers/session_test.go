package handlers_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
)

func TestLoginBeginsASession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		id := s.register(t)
		reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{
			Email: "ADA@example.com", Password: horse, Sender: from("::ffff:192.0.2.1"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if reply.Message != "Login successful" || reply.UserID != id || reply.TokenType != "Bearer" || reply.ExpiresIn != 900 {
			t.Errorf("%+v", reply)
		}
		session, err := s.store.Session(t.Context(), reply.SessionID)
		if err != nil {
			t.Fatal(err)
		}
		if session.UserID != id || session.Generation != 1 || session.CreatedAt != begin ||
			session.Created != (auth.ClientInfo{IP: "192.0.2.1", UserAgent: "curl"}) ||
			session.ExpiresAt != begin.Add(idleTTL) || session.DeadlineAt != begin.Add(maxAge) {
			t.Errorf("%+v", session)
		}
		if other := s.login(t); other.SessionID == reply.SessionID || other.RefreshToken == reply.RefreshToken {
			t.Error("two logins are one session")
		}
	})
}

func TestLoginRefusesAlikeWhateverIsWrong(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		for _, tt := range []struct{ name, email, password string }{
			{"wrong password", ada, "wrong horse battery"},
			{"another case", ada, strings.ToUpper(horse)},
			{"more", ada, horse + " "},
			{"unknown address", "eve@example.com", horse},
			{"over-long password", ada, strings.Repeat(horse, 500)},
			{"over-long address", strings.Repeat("a", 10000) + "@example.com", horse},
			{"control characters", ada, horse + "\x00"},
			{"control characters in the address", ada + "\x00", horse},
			{"invalid UTF-8", ada, horse + "\xff"},
			{"malformed address", "ada", horse},
			{"no password", ada, ""},
			{"no address", "", horse},
			{"nothing", "", ""},
		} {
			reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: tt.email, Password: tt.password})
			want(t, tt.name, err, auth.ErrInvalidCredentials)
			if len(auth.Public(err).Fields) != 0 || reply != (auth.LoginReply{}) {
				t.Errorf("%s: %v, %+v", tt.name, auth.Public(err).Fields, reply)
			}
		}
		if n := s.count(t, "login_sessions"); n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestLoginAndRefreshRefuseWhatIsNoIP(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		_, login := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Sender: from("localhost")})
		_, refresh := s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: tokens.RefreshToken, Sender: from("localhost")})
		want(t, "login", login, auth.ErrInvalid)
		want(t, "refresh", refresh, auth.ErrInvalid)
		if n := s.count(t, "login_sessions"); n != 1 {
			t.Errorf("%d sessions", n)
		}
		if next := s.refresh(t, tokens); read(t, next.RefreshToken).Gen != 2 {
			t.Error("the refused one counted")
		}
	})
}

func TestLoginTakesEquivalentSpellingOfThePassword(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		if _, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: "Zoë's Ångström"}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: "Zoe\u0308's \u212bngstro\u0308m"}); err != nil {
			t.Error(err)
		}
	})
}

// ancestral is a stored string as the service's ancestor wrote it.
func ancestral(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(horse), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestLoginRewritesAnAncestorsPassword(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		old := ancestral(t)
		s.execute(t, "UPDATE users SET password = ?", old)
		_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: "wrong horse"})
		want(t, "wrong password", err, auth.ErrInvalidCredentials)
		if got := s.stored(t); got != old {
			t.Errorf("a wrong password rewrote it: %s", got)
		}
		s.login(t)
		fresh := s.stored(t)
		if !strings.HasPrefix(fresh, "$bcrypt-hmac-sha256$") {
			t.Errorf("stored: %s", fresh)
		}
		s.login(t)
		if got := s.stored(t); got != fresh {
			t.Error("rewritten again")
		}
	})
}

func TestLoginsAtOnceWithAnAncestorsPasswordSucceed(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		old := ancestral(t)
		for range 10 {
			s.execute(t, "UPDATE users SET password = ?", old)
			errs := atOnce(2, func(int) error {
				_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
				return err
			})
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.count(t, "login_sessions"); n != 20 {
			t.Errorf("%d sessions", n)
		}
	})
}

func TestLoginRewritesWhenCostOrPepperChanged(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		for name, hasher := range map[string]*password.Hasher{
			"cost":   hasher(t, s.master, bcrypt.MinCost+1),
			"pepper": hasher(t, secret.Generate()+","+s.master, bcrypt.MinCost),
		} {
			before, err := s.sessions.Passwords.Hash(t.Context(), horse)
			if err != nil {
				t.Fatal(err)
			}
			s.execute(t, "UPDATE users SET password = ?", before)
			changed := *s.sessions
			changed.Passwords = hasher
			if _, err := changed.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			found, err := hasher.Compare(t.Context(), s.stored(t), horse)
			if err != nil || found != (password.Result{Match: true}) {
				t.Errorf("%s: %+v, %v", name, found, err)
			}
		}
	})
}

func TestLoginIsRefusedIfThePasswordChangesMeanwhile(t *testing.T) {
	t.Parallel()
	s := start(t, testdb.Postgres(t), secret.Generate(), &clock{})
	s.register(t)
	other, err := s.sessions.Passwords.Hash(t.Context(), "another password")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "login", s.loginWhileStored(t, other), auth.ErrInvalidCredentials)
	if n := s.count(t, "login_sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// During a roll-out an instance that knows a higher cost stores the same password afresh
// between another's comparison and its session.
func TestRightPasswordIsTakenWhileItIsStoredAfresh(t *testing.T) {
	t.Parallel()
	s := start(t, testdb.Postgres(t), secret.Generate(), &clock{})
	s.register(t)
	afresh, err := hasher(t, s.master, bcrypt.MinCost+1).Hash(t.Context(), horse)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "login", s.loginWhileStored(t, afresh), nil)
}

// loginWhileStored logs in while another transaction stores a password, which commits once
// the login waits for it: the comparison is over then, and the session not stored yet.
// SQLite cannot be stopped there.
func (s *service) loginWhileStored(t *testing.T, stored string) error {
	t.Helper()
	login := make(chan error, 1)
	err := s.store.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.ExecContext(ctx, "UPDATE users SET password = ?", stored); err != nil {
			return err
		}
		go func() {
			_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
			login <- err
		}()
		for waiting := 0; waiting == 0; {
			err := s.store.DB().NewRaw("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").
				Scan(ctx, &waiting)
			if err != nil {
				return err
			}
			if len(login) > 0 {
				return errors.New("the login did not wait")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return <-login
}

func TestVerifyTellsWhatTheTokenSays(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		login := func() auth.LoginReply { s.register(t); return s.login(t) }()
		s.advance(time.Minute)
		got, err := s.sessions.Verify(t.Context(), auth.VerifyRequest{Token: login.AccessToken})
		issued := begin.Truncate(time.Second)
		wanted := auth.VerifyReply{Principal: auth.Principal{
			UserID: login.UserID, SessionID: login.SessionID, Scopes: []string{}, AMR: []string{"pwd"},
			AuthTime: issued, IssuedAt: issued, ExpiresAt: issued.Add(accessTTL),
		}}
		if err != nil || !reflect.DeepEqual(got, wanted) {
			t.Errorf("got %+v, %v, want %+v", got, err, wanted)
		}
	})
}

func TestVerifyRefusesFromTheSecondOfExp(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		access := s.begun(t).AccessToken
		s.advance(time.Unix(read(t, access).Exp, 0).Sub(s.now()) - time.Microsecond)
		want(t, "just before", s.verify(t, access), nil)
		s.advance(time.Microsecond)
		want(t, "at exp", s.verify(t, access), auth.ErrTokenExpired)
	})
}

func TestVerifyRefusesATokenWithoutAScope(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		access := s.begun(t).AccessToken
		reply, err := s.sessions.Verify(t.Context(), auth.VerifyRequest{Token: access, Scopes: []string{"admin"}})
		want(t, "scope", err, auth.ErrInsufficientScope)
		if !reflect.DeepEqual(reply, auth.VerifyReply{}) {
			t.Errorf("%+v", reply)
		}
		s.advance(accessTTL)
		_, err = s.sessions.Verify(t.Context(), auth.VerifyRequest{Token: access, Scopes: []string{"admin"}})
		want(t, "expired as well", err, auth.ErrTokenExpired)
	})
}

func TestTokensEndWithTheUser(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		s.execute(t, "DELETE FROM users")
		want(t, "verify", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		_, err := s.tryRefresh(t, tokens.RefreshToken)
		want(t, "refresh", err, auth.ErrTokenRevoked)
		_, err = s.accounts.Get(t.Context(), auth.AccountGetRequest{Bearer: auth.Bearer{AccessToken: tokens.AccessToken}})
		want(t, "account", err, auth.ErrTokenRevoked)
		want(t, "logout", s.logout(t, tokens.AccessToken, ""), nil)
	})
}

func TestLogoutByEitherTokenEndsThatSession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		bystander := s.begun(t)
		for name, logout := range map[string]func(auth.Tokens) error{
			"access":  func(n auth.Tokens) error { return s.logout(t, n.AccessToken, "") },
			"refresh": func(n auth.Tokens) error { return s.logout(t, "", n.RefreshToken) },
		} {
			tokens := s.login(t).Tokens
			want(t, name, logout(tokens), nil)
			want(t, name+": verify", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
			_, err := s.tryRefresh(t, tokens.RefreshToken)
			want(t, name+": refresh", err, auth.ErrTokenRevoked)
			want(t, name+": again", logout(tokens), nil)
		}
		want(t, "the other session", s.verify(t, bystander.AccessToken), nil)
		s.refresh(t, bystander)
	})
}

func TestLogoutNeedsOneCredential(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		want(t, "both", s.logout(t, tokens.AccessToken, tokens.RefreshToken), auth.ErrMalformed)
		want(t, "none", s.logout(t, "", ""), auth.ErrUnauthenticated)
		want(t, "exchanged", s.logout(t, tokens.RefreshToken, ""), auth.ErrInvalidToken)
		want(t, "exchanged", s.logout(t, "", tokens.AccessToken), auth.ErrInvalidToken)
		want(t, "verify", s.verify(t, tokens.AccessToken), nil)
	})
}

func TestLogoutTakesAnExpiredRefreshTokenOnly(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		s.advance(maxAge + time.Hour)
		want(t, "access", s.logout(t, tokens.AccessToken, ""), auth.ErrTokenExpired)
		if s.ended(t, tokens.SessionID) {
			t.Error("ended by an expired access token")
		}
		want(t, "refresh", s.logout(t, "", tokens.RefreshToken), nil)
		if !s.ended(t, tokens.SessionID) {
			t.Error("not ended")
		}
	})
}

func TestLogoutTakesASpentRefreshToken(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		second := s.refresh(t, first)
		want(t, "logout", s.logout(t, "", first.RefreshToken), nil)
		want(t, "verify", s.verify(t, second.AccessToken), auth.ErrTokenRevoked)
	})
}
