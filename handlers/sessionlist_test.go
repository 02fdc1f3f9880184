package handlers_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/zyotra/auth"
)

const bob = "bob@example.com"

const (
	agentOfPhone  = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
	agentOfLaptop = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
)

func (s *service) loginFrom(t *testing.T, from auth.ClientInfo) auth.LoginReply {
	t.Helper()
	reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Sender: auth.Sender{Client: &from}})
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func (s *service) bearer(tokens auth.Tokens) auth.Bearer {
	return auth.Bearer{AccessToken: tokens.AccessToken}
}

// stranger is a session of somebody else.
func (s *service) stranger(t *testing.T) auth.Tokens {
	t.Helper()
	if _, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: bob, Password: horse}); err != nil {
		t.Fatal(err)
	}
	reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: bob, Password: horse})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Tokens
}

func (s *service) list(t *testing.T, tokens auth.Tokens) []auth.Session {
	t.Helper()
	list, err := s.sessions.List(t.Context(), auth.SessionsListRequest{Bearer: s.bearer(tokens)})
	if err != nil {
		t.Fatal(err)
	}
	return list.Sessions
}

func TestSessionsAreListedNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		phone := s.begun(t)
		s.stranger(t)
		s.advance(time.Minute)
		laptop := s.loginFrom(t, auth.ClientInfo{IP: "192.0.2.1", UserAgent: agentOfLaptop}).Tokens
		ended := s.login(t).Tokens
		want(t, "logout", s.logout(t, ended.AccessToken, ""), nil)
		s.advance(time.Minute)
		next, err := s.sessions.Refresh(t.Context(), auth.RefreshRequest{
			RefreshToken: phone.RefreshToken,
			Sender:       auth.Sender{Client: &auth.ClientInfo{IP: "2001:db8::1", UserAgent: agentOfPhone}},
		})
		if err != nil {
			t.Fatal(err)
		}

		got := s.list(t, next)
		wanted := []auth.Session{
			{SessionID: laptop.SessionID, CreatedAt: begin.Add(time.Minute), LastUsedAt: begin.Add(time.Minute), ExpiresAt: begin.Add(time.Minute + idleTTL),
				IP: "192.0.2.1", UserAgent: agentOfLaptop, Device: "Firefox 128 on Windows",
				CreatedIP: "192.0.2.1", CreatedUserAgent: agentOfLaptop, CreatedDevice: "Firefox 128 on Windows"},
			{SessionID: phone.SessionID, CreatedAt: begin, LastUsedAt: begin.Add(2 * time.Minute), ExpiresAt: begin.Add(2*time.Minute + idleTTL),
				IP: "2001:db8::1", UserAgent: agentOfPhone, Device: "Safari 17 on iPhone", Current: true},
		}
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("got  %+v\nwant %+v", got, wanted)
		}
	})
}

func TestExpiredSessionsAreNotListed(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.begun(t)
		s.advance(idleTTL)
		now := s.login(t).Tokens
		if got := s.list(t, now); len(got) != 1 || got[0].SessionID != now.SessionID {
			t.Errorf("%+v", got)
		}
	})
}

func TestEndingASessionEndsItsTokens(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		phone := s.begun(t)
		laptop := s.login(t).Tokens
		revoke := func(by auth.Tokens, id string) error {
			_, err := s.sessions.Revoke(t.Context(), auth.SessionsRevokeRequest{Bearer: s.bearer(by), SessionID: id})
			return err
		}
		want(t, "end the phone's", revoke(laptop, phone.SessionID), nil)
		want(t, "its access token", s.verify(t, phone.AccessToken), auth.ErrTokenRevoked)
		_, err := s.tryRefresh(t, phone.RefreshToken)
		want(t, "its refresh token", err, auth.ErrTokenRevoked)
		want(t, "end it again", revoke(laptop, phone.SessionID), auth.ErrNotFound)
		want(t, "the laptop's", s.verify(t, laptop.AccessToken), nil)

		stranger := s.stranger(t)
		want(t, "end somebody else's", revoke(laptop, stranger.SessionID), auth.ErrNotFound)
		want(t, "end none", revoke(laptop, ""), auth.ErrNotFound)
		want(t, "somebody else's", s.verify(t, stranger.AccessToken), nil)

		want(t, "end one's own", revoke(laptop, laptop.SessionID), nil)
		want(t, "with an ended session", revoke(laptop, laptop.SessionID), auth.ErrTokenRevoked)
	})
}

func TestEndingAllOthersKeepsTheOneThatAsks(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		kept := s.begun(t)
		others := []auth.Tokens{s.login(t).Tokens, s.login(t).Tokens}
		stranger := s.stranger(t)
		for _, ended := range []int{2, 0} {
			reply, err := s.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: s.bearer(kept)})
			if err != nil || reply.Ended != ended {
				t.Errorf("%+v, %v, want %d ended", reply, err, ended)
			}
		}
		for _, o := range others {
			want(t, "another", s.verify(t, o.AccessToken), auth.ErrTokenRevoked)
		}
		want(t, "the one that asks", s.verify(t, kept.AccessToken), nil)
		want(t, "somebody else's", s.verify(t, stranger.AccessToken), nil)
	})
}

func TestSessionsNeedAToken(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		_, err := s.sessions.List(t.Context(), auth.SessionsListRequest{})
		want(t, "list", err, auth.ErrUnauthenticated)
		_, err = s.sessions.Revoke(t.Context(), auth.SessionsRevokeRequest{})
		want(t, "revoke", err, auth.ErrUnauthenticated)
		_, err = s.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{})
		want(t, "revoke others", err, auth.ErrUnauthenticated)
	})
}

func TestSessionsBeyondTheLimitEndOldestFirst(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.sessions.Limit = 2
		first := s.begun(t)
		stranger := s.stranger(t)
		s.advance(time.Minute)
		second := s.login(t).Tokens
		s.advance(time.Minute)
		first = s.refresh(t, first) // used last, and still the oldest
		s.advance(time.Minute)
		third := s.login(t).Tokens
		want(t, "the oldest", s.verify(t, first.AccessToken), auth.ErrTokenRevoked)
		_, err := s.tryRefresh(t, first.RefreshToken)
		want(t, "its refresh token", err, auth.ErrTokenRevoked)
		for what, tokens := range map[string]auth.Tokens{"second": second, "third": third, "somebody else's": stranger} {
			want(t, what, s.verify(t, tokens.AccessToken), nil)
		}
		var reason string
		err = s.store.DB().NewRaw("SELECT revoke_reason FROM login_sessions WHERE id = ?", first.SessionID).Scan(t.Context(), &reason)
		if err != nil || reason != "session_limit" {
			t.Errorf("%q, %v", reason, err)
		}

		s.sessions.Limit = 1 // the ancestor's
		last := s.login(t).Tokens
		if got := s.list(t, last); len(got) != 1 || got[0].SessionID != last.SessionID {
			t.Errorf("%+v", got)
		}
	})
}

func TestLoginsAtOnceKeepToTheLimit(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.sessions.Limit = 3
		errs := atOnce(12, func(int) error {
			_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
			return err
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if got := s.list(t, s.login(t).Tokens); len(got) != 3 {
			t.Errorf("%d live sessions", len(got))
		}
	})
}

func TestRefreshTokenIsGoodInItsCarrierAlone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		refresh := func(token string, carrier auth.Carrier) error {
			_, err := s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: token, Carrier: carrier})
			return err
		}
		for own, other := range map[auth.Carrier]auth.Carrier{"": "cookie", "body": "cookie", "cookie": "body"} {
			login, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Carrier: own})
			if err != nil {
				t.Fatal(err)
			}
			want(t, "in another", refresh(login.RefreshToken, other), auth.ErrInvalidToken)
			want(t, "in its own", refresh(login.RefreshToken, own), nil)
			want(t, "spent, in another", refresh(login.RefreshToken, other), auth.ErrInvalidToken)
			want(t, "its access token", s.verify(t, login.AccessToken), nil)
		}
		_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Carrier: "pigeon"})
		want(t, "an unknown carrier", err, auth.ErrInvalid)
	})
}
