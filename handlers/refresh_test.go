package handlers_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
)

func TestRefreshMovesToTheNextGeneration(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		s.advance(time.Hour)
		second := s.refresh(t, first)
		s.advance(time.Hour)
		third := s.refresh(t, second)

		for i, n := range []auth.Tokens{first, second, third} {
			hours := int64(i) * 3600
			r, a := read(t, n.RefreshToken), read(t, n.AccessToken)
			if r.Gen != int64(i+1) || r.Sid != first.SessionID || r.Iat != begin.Unix()+hours || r.Exp != begin.Add(idleTTL).Unix()+hours {
				t.Errorf("refresh token %d: %+v", i, r)
			}
			if a.AuthTime != begin.Unix() || !reflect.DeepEqual(a.AMR, []string{"pwd"}) || a.Sid != first.SessionID ||
				a.Iat != begin.Unix()+hours || a.Exp != a.Iat+900 {
				t.Errorf("access token %d: %+v", i, a)
			}
			if n.SessionID != first.SessionID || n.ExpiresIn != 900 || n.TokenType != "Bearer" {
				t.Errorf("%d: %+v", i, n)
			}
		}
		want(t, "verify", s.verify(t, third.AccessToken), nil)
	})
}

func TestRefreshRemembersWhereItCameFrom(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		if _, err := s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: tokens.RefreshToken, Sender: from("2001:DB8::1")}); err != nil {
			t.Fatal(err)
		}
		session, err := s.store.Session(t.Context(), tokens.SessionID)
		if err != nil || session.Used != (auth.ClientInfo{IP: "2001:db8::1", UserAgent: "curl"}) || session.Created != (auth.ClientInfo{}) {
			t.Errorf("%+v, %v", session, err)
		}
	})
}

func TestRefreshNeverLeadsPastMaxAge(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		deadline := begin.Add(maxAge)
		for range 2 {
			s.advance(idleTTL - time.Hour)
			tokens = s.refresh(t, tokens)
		}
		s.advance(deadline.Add(-time.Minute).Sub(s.now()))
		tokens = s.refresh(t, tokens)
		if r := read(t, tokens.RefreshToken); r.Exp != deadline.Unix() {
			t.Errorf("refresh token ends %v", time.Unix(r.Exp, 0).UTC())
		}
		if a := read(t, tokens.AccessToken); a.Exp != deadline.Unix() || tokens.ExpiresIn != 60 {
			t.Errorf("access token ends %v, in %d s", time.Unix(a.Exp, 0).UTC(), tokens.ExpiresIn)
		}
		s.advance(time.Minute)
		_, err := s.tryRefresh(t, tokens.RefreshToken)
		want(t, "refresh", err, auth.ErrTokenExpired)
		want(t, "verify", s.verify(t, tokens.AccessToken), auth.ErrTokenExpired)
	})
}

func TestLoginNeverLeadsPastMaxAge(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.sessions.MaxAge = time.Minute
		tokens := s.begun(t)
		for _, text := range []string{tokens.AccessToken, tokens.RefreshToken} {
			if exp := read(t, text).Exp; exp != begin.Unix()+60 {
				t.Errorf("exp is %d s away", exp-begin.Unix())
			}
		}
	})
}

func TestSpentTokenWithinGraceGetsTheSameSuccessor(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		s.advance(time.Hour)
		second := s.refresh(t, first)
		for _, wait := range []time.Duration{0, 4 * time.Second, grace - 4*time.Second} {
			s.advance(wait)
			again := s.refresh(t, first)
			if again.RefreshToken != second.RefreshToken {
				t.Errorf("another successor: %+v", read(t, again.RefreshToken))
			}
			want(t, "verify", s.verify(t, again.AccessToken), nil)
		}
		// The window counts from the refresh, not from the last replay.
		s.advance(time.Microsecond)
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "after the grace", err, auth.ErrTokenRevoked)
	})
}

func TestSpentTokenAfterGraceEndsTheSessionForGood(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		bystander := s.login(t)
		second := s.refresh(t, first)
		s.advance(grace + time.Microsecond)
		want(t, "before", s.verify(t, second.AccessToken), nil)
		for range 2 {
			for i, spent := range []auth.Tokens{first, second} {
				name := []string{"first", "second"}[i]
				_, err := s.tryRefresh(t, spent.RefreshToken)
				want(t, name, err, auth.ErrTokenRevoked)
				want(t, name+": access", s.verify(t, spent.AccessToken), auth.ErrTokenRevoked)
			}
		}
		var reason string
		err := s.store.DB().NewRaw("SELECT revoke_reason FROM login_sessions WHERE id = ?", first.SessionID).Scan(t.Context(), &reason)
		if err != nil || reason != string(auth.ReasonTokenReuse) {
			t.Errorf("reason %q, %v", reason, err)
		}
		want(t, "the user's other session", s.verify(t, bystander.AccessToken), nil)
	})
}

func TestOlderGenerationEndsTheSessionEvenWithinGrace(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		third := s.refresh(t, s.refresh(t, first))
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "first", err, auth.ErrTokenRevoked)
		_, err = s.tryRefresh(t, third.RefreshToken)
		want(t, "third", err, auth.ErrTokenRevoked)
		want(t, "access", s.verify(t, third.AccessToken), auth.ErrTokenRevoked)
	})
}

func TestWithoutGraceASpentTokenEndsTheSession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.sessions.Grace = 0
		first := s.begun(t)
		second := s.refresh(t, first)
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "first", err, auth.ErrTokenRevoked)
		_, err = s.tryRefresh(t, second.RefreshToken)
		want(t, "second", err, auth.ErrTokenRevoked)
	})
}

func TestSpentTokenWithinGraceOfAnEndedSessionIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		first := s.begun(t)
		second := s.refresh(t, first)
		want(t, "logout", s.logout(t, second.AccessToken, ""), nil)
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "first", err, auth.ErrTokenRevoked)
	})
}

func TestIdleSessionExpires(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		s.advance(time.Unix(read(t, tokens.RefreshToken).Exp, 0).Sub(s.now()))
		_, err := s.tryRefresh(t, tokens.RefreshToken)
		want(t, "at exp", err, auth.ErrTokenExpired)
		s.advance(-time.Microsecond)
		s.refresh(t, tokens)
	})
}

func TestTokensOfOneKindAreNotOfTheOther(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		_, err := s.tryRefresh(t, tokens.AccessToken)
		want(t, "access token as refresh token", err, auth.ErrInvalidToken)
		want(t, "refresh token as access token", s.verify(t, tokens.RefreshToken), auth.ErrInvalidToken)
		_, err = s.tryRefresh(t, "")
		want(t, "no refresh token", err, auth.ErrInvalidToken)
		want(t, "no access token", s.verify(t, ""), auth.ErrInvalidToken)
	})
}

func TestTokensOutliveTheRotationOfTheMasterSecret(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		rotated := start(t, s.url, secret.Generate()+","+s.master, s.clock)
		want(t, "access token", rotated.verify(t, tokens.AccessToken), nil)
		next := rotated.refresh(t, tokens)
		if again := rotated.refresh(t, tokens); again.RefreshToken != next.RefreshToken {
			t.Error("the old token's replay has another successor")
		}
		_, err := s.tryRefresh(t, next.RefreshToken)
		want(t, "new token, old secret alone", err, auth.ErrInvalidToken)
		rotated.sessions.Refreshes = rotated.sessions.Refreshes[:1]
		_, err = rotated.tryRefresh(t, tokens.RefreshToken)
		want(t, "old token, new secret alone", err, auth.ErrInvalidToken)
		rotated.refresh(t, next)
	})
}

// burst refreshes one token 50 times at once, spread over the instances.
func burst(t *testing.T, spent auth.Tokens, instances ...*service) (got []auth.Tokens, errs []error) {
	got = make([]auth.Tokens, 50)
	errs = atOnce(len(got), func(i int) (err error) {
		got[i], err = instances[i%len(instances)].tryRefresh(t, spent.RefreshToken)
		return err
	})
	return got, errs
}

func strictBurst(t *testing.T, instances ...*service) {
	for _, s := range instances {
		s.sessions.Grace = 0
	}
	_, errs := burst(t, instances[0].begun(t), instances...)
	succeeded := 0
	for _, err := range errs {
		if err == nil {
			succeeded++
			continue
		}
		want(t, "the others", err, auth.ErrTokenRevoked)
	}
	if succeeded != 1 {
		t.Errorf("%d succeeded", succeeded)
	}
}

func gracefulBurst(t *testing.T, instances ...*service) {
	s := instances[0]
	spent := s.begun(t)
	got, errs := burst(t, spent, instances...)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, n := range got {
		if n.RefreshToken != got[0].RefreshToken {
			t.Fatalf("two successors: %+v, %+v", read(t, n.RefreshToken), read(t, got[0].RefreshToken))
		}
		want(t, "verify", s.verify(t, n.AccessToken), nil)
	}
	if next := s.refresh(t, got[0]); read(t, next.RefreshToken).Gen != 3 {
		t.Error("the line is not at its third generation")
	}
}

func TestRefreshesAtOnceWithoutGrace(t *testing.T) {
	each(t, func(t *testing.T, s *service) { strictBurst(t, s) })
}

func TestRefreshesAtOnceWithinGrace(t *testing.T) {
	each(t, func(t *testing.T, s *service) { gracefulBurst(t, s) })
}

func TestRefreshesAtOnceOnTwoInstances(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*testing.T, ...*service){"strict": strictBurst, "grace": gracefulBurst} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, testdb.Postgres(t), secret.Generate(), &clock{})
			f(t, s, s.another(t))
		})
	}
}
