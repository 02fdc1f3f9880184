package handlers_test

import (
	"context"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/token"
)

func TestWithoutADatabaseNothingIsValid(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.sessions.Verify(ctx, auth.VerifyRequest{Token: tokens.AccessToken})
		want(t, "verify", err, auth.ErrUnavailable)
		_, err = s.sessions.Refresh(ctx, auth.RefreshRequest{RefreshToken: tokens.RefreshToken})
		want(t, "refresh", err, auth.ErrUnavailable)
		_, err = s.sessions.Logout(ctx, auth.LogoutRequest{RefreshToken: tokens.RefreshToken})
		want(t, "logout", err, auth.ErrUnavailable)
		_, err = s.sessions.Login(ctx, auth.LoginRequest{Email: ada, Password: horse})
		want(t, "login", err, auth.ErrUnavailable)
		want(t, "verify when it is back", s.verify(t, tokens.AccessToken), nil)
		s.refresh(t, tokens)
	})
}

func TestTokensOfAnotherIssuerOrForAnotherAudience(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		for name, issuer := range map[string]token.Issuer{
			"issuer":   {Name: "https://other.example", Audience: "zyotra"},
			"audience": {Name: "https://auth.example", Audience: "other"},
		} {
			other := s.another(t)
			other.sessions.Issuer = issuer
			tokens := other.login(t).Tokens
			want(t, name, s.verify(t, tokens.AccessToken), auth.ErrInvalidToken)
			want(t, name+", to log out", s.logout(t, tokens.AccessToken, ""), auth.ErrInvalidToken)
			want(t, name+", where it was issued", other.verify(t, tokens.AccessToken), nil)
		}
	})
}

// Nobody but the service can write one, so its database went back in time or its secret
// is known.
func TestLaterGenerationEndsTheSession(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		later, err := token.SignRefresh(s.sessions.Refreshes[0], token.Refresh{
			UserID: 1, SessionID: tokens.SessionID, Generation: 2, IssuedAt: s.now(), ExpiresAt: s.now().Add(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.tryRefresh(t, later)
		want(t, "refresh", err, auth.ErrTokenRevoked)
		if !s.ended(t, tokens.SessionID) {
			t.Error("the session lives")
		}
	})
}

func TestStoredPasswordThatIsNoneOfOursIsOurFault(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.execute(t, "UPDATE users SET password = ?", horse)
		_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
		want(t, "login", err, password.ErrStored)
		if code := auth.Public(err).Code; code != auth.CodeInternal {
			t.Errorf("code %s", code)
		}
	})
}

func TestAccountWithoutAPasswordTakesNone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.execute(t, "UPDATE users SET password = ''")
		for _, plain := range []string{"", horse} {
			_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: plain})
			want(t, plain, err, auth.ErrInvalidCredentials)
		}
	})
}
