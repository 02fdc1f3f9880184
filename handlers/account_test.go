package handlers_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
)

func TestRegisterMakesAnAccount(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		reply, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: "Ada@EXAMPLE.com", Password: horse, Name: "Ada"})
		if err != nil || reply.Message != "User registered successfully" || reply.UserID <= 0 {
			t.Fatalf("%+v, %v", reply, err)
		}
		s.advance(time.Second)
		got, err := s.accounts.Get(t.Context(), auth.AccountGetRequest{Bearer: auth.Bearer{AccessToken: s.login(t).AccessToken}})
		account := auth.Account{UserID: reply.UserID, Email: "Ada@example.com", Name: "Ada", CreatedAt: begin, UpdatedAt: begin}
		if err != nil || got != account {
			t.Errorf("got %+v, %v, want %+v", got, err, account)
		}
	})
}

func TestRegisterNamesAllFaultsAndStoresNothing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		for _, tt := range []struct {
			name   string
			req    auth.RegisterRequest
			faults []auth.Field
		}{
			{"nothing", auth.RegisterRequest{}, []auth.Field{{Field: "email", Reason: "required"}, {Field: "password", Reason: "required"}}},
			{"all wrong", auth.RegisterRequest{Email: "ada", Password: "short", Name: strings.Repeat("a", 201)},
				[]auth.Field{{Field: "email", Reason: "invalid"}, {Field: "password", Reason: "too_short"}, {Field: "name", Reason: "too_long"}}},
			{"control characters", auth.RegisterRequest{Email: ada, Password: horse + "\n", Name: "A\x00"},
				[]auth.Field{{Field: "password", Reason: "not_unicode"}, {Field: "name", Reason: "invalid"}}},
			{"long password", auth.RegisterRequest{Email: ada, Password: strings.Repeat("a", 257)}, []auth.Field{{Field: "password", Reason: "too_long"}}},
			{"its own address, as people write it", auth.RegisterRequest{Email: "johnsmith.q1@bücher.example", Password: "johnsmith.q1@bücher.example"},
				[]auth.Field{{Field: "password", Reason: "contains_context"}}},
			{"its own address, as it is stored", auth.RegisterRequest{Email: "johnsmith.q1@bücher.example", Password: "johnsmith.q1@xn--bcher-kva.example"},
				[]auth.Field{{Field: "password", Reason: "contains_context"}}},
			{"no IP", auth.RegisterRequest{Email: ada, Password: horse, Sender: from("192.0.2.256")}, []auth.Field{{Field: "client.ip", Reason: "invalid"}}},
			{"no IP and no address", auth.RegisterRequest{Email: "ada", Password: horse, Sender: from("localhost")},
				[]auth.Field{{Field: "email", Reason: "invalid"}, {Field: "client.ip", Reason: "invalid"}}},
		} {
			reply, err := s.accounts.Register(t.Context(), tt.req)
			want(t, tt.name, err, auth.ErrInvalid)
			if got := auth.Public(err).Fields; !reflect.DeepEqual(got, tt.faults) || reply != (auth.RegisterReply{}) {
				t.Errorf("%s: %v, %+v", tt.name, got, reply)
			}
		}
		if n := s.count(t, "users"); n != 0 {
			t.Errorf("%d users", n)
		}
	})
}

func TestRegisterTakesNamesOf200CodePoints(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		name := strings.Repeat("語", 200)
		if _, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse, Name: name}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRegisterRefusesTakenAddressInAnySpelling(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		for _, req := range []auth.RegisterRequest{
			{Email: ada, Password: horse}, {Email: "Zoë@bücher.example", Password: horse},
		} {
			if _, err := s.accounts.Register(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		for _, spelling := range []string{ada, "ada@example.com", "ADA@EXAMPLE.COM", "zoe\u0308@xn--bcher-kva.example", "ZOË@BÜCHER.example"} {
			_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: spelling, Password: "another password"})
			want(t, spelling, err, auth.ErrEmailTaken)
		}
		if n := s.count(t, "users"); n != 2 {
			t.Errorf("%d users", n)
		}
		s.login(t) // with the first one's password
	})
}

func TestRegisterAtOnceMakesOneAccount(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		errs := atOnce(8, func(int) error {
			_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse})
			return err
		})
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
				continue
			}
			want(t, "the others", err, auth.ErrEmailTaken)
		}
		if made != 1 || s.count(t, "users") != 1 {
			t.Errorf("%d successes, %d users", made, s.count(t, "users"))
		}
	})
}

func TestAccountNeedsALivingToken(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		if err := s.logout(t, tokens.AccessToken, ""); err != nil {
			t.Fatal(err)
		}
		for text, wanted := range map[string]error{
			"": auth.ErrUnauthenticated, "a.b.c": auth.ErrInvalidToken,
			tokens.RefreshToken: auth.ErrInvalidToken, tokens.AccessToken: auth.ErrTokenRevoked,
		} {
			account, err := s.accounts.Get(t.Context(), auth.AccountGetRequest{Bearer: auth.Bearer{AccessToken: text}})
			want(t, text, err, wanted)
			if account != (auth.Account{}) {
				t.Errorf("%q: %+v", text, account)
			}
		}
	})
}

func from(ip string) auth.Sender {
	return auth.Sender{Client: &auth.ClientInfo{IP: ip, UserAgent: "curl"}}
}

func TestUpdateChangesWhatItNames(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		update := func(name *string) (auth.Account, error) {
			return s.accounts.Update(t.Context(), auth.AccountUpdateRequest{Bearer: s.bearer(tokens), Name: name})
		}
		s.advance(time.Minute)
		name, long, none := "Countess Lovelace", strings.Repeat("a", 201), ""
		got, err := update(&name)
		if err != nil || got.Name != name || !got.UpdatedAt.Equal(begin.Add(time.Minute)) || !got.CreatedAt.Equal(begin) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := update(&long); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("a long name: %v", err)
		}
		if got, err := update(nil); err != nil || got.Name != name {
			t.Errorf("nothing named: %+v, %v", got, err)
		}
		if got, err := update(&none); err != nil || got.Name != "" {
			t.Errorf("no name: %+v, %v", got, err)
		}
		_, err = s.accounts.Update(t.Context(), auth.AccountUpdateRequest{Name: &name})
		want(t, "without a token", err, auth.ErrUnauthenticated)
	})
}

func TestDeletingAnAccountNeedsThePasswordOrARecentLogin(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.accounts.Reauth = 5 * time.Minute
		tokens := s.begun(t)
		remove := func(tokens auth.Tokens, plain string) error {
			_, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: s.bearer(tokens), Password: plain})
			return err
		}
		s.advance(5 * time.Minute)
		want(t, "without a token", remove(auth.Tokens{}, horse), auth.ErrUnauthenticated)
		want(t, "a wrong password", remove(tokens, "wrong"), auth.ErrInvalidCredentials)
		want(t, "no password and an old login", remove(tokens, ""), auth.ErrReauthentication)
		want(t, "after a refresh", remove(s.refresh(t, tokens), ""), auth.ErrReauthentication)
		if s.count(t, "users") != 1 {
			t.Fatal("the account is gone")
		}
		want(t, "a recent login", remove(s.login(t).Tokens, ""), nil)
		if users, sessions := s.count(t, "users"), s.count(t, "login_sessions"); users+sessions != 0 {
			t.Errorf("%d users and %d sessions remain", users, sessions)
		}
		want(t, "its tokens", s.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)

		tokens = s.begun(t)
		s.advance(5 * time.Minute)
		want(t, "the password", remove(tokens, horse), nil)
	})
}

func TestChangingThePasswordEndsAllSessionsButANewOne(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		kept := s.begun(t)
		other := s.login(t).Tokens
		const fresh = "battery staple, corrected"
		change := func(current, next string) (auth.PasswordChangeReply, error) {
			return s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{
				Bearer: s.bearer(kept), CurrentPassword: current, NewPassword: next,
			})
		}
		_, err := change("wrong", fresh)
		want(t, "a wrong current one", err, auth.ErrInvalidCredentials)
		_, err = change("", fresh)
		want(t, "no current one", err, auth.ErrInvalidCredentials)
		for next, reason := range map[string]string{"": "required", "short": "too_short", "football": "too_common", "ada@example.com": "contains_context"} {
			_, err = change(horse, next)
			if fields := auth.Public(err).Fields; !reflect.DeepEqual(fields, []auth.Field{{Field: "newPassword", Reason: reason}}) {
				t.Errorf("%q: %v, %v", next, err, fields)
			}
		}
		want(t, "the other session before", s.verify(t, other.AccessToken), nil)

		done, err := change(horse, fresh)
		if err != nil || done.Ended != 2 {
			t.Fatalf("%+v, %v", done, err)
		}
		want(t, "the session that asked", s.verify(t, kept.AccessToken), auth.ErrTokenRevoked)
		want(t, "the one in its place", s.verify(t, done.AccessToken), nil)
		want(t, "the other", s.verify(t, other.AccessToken), auth.ErrTokenRevoked)
		_, err = s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
		want(t, "login with the old one", err, auth.ErrInvalidCredentials)
		_, err = s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: fresh})
		want(t, "login with the new one", err, nil)
	})
}

func TestOfTwoPasswordChangesAtOnceOneWins(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		errs := atOnce(4, func(i int) error {
			_, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{
				Bearer: s.bearer(tokens), CurrentPassword: horse, NewPassword: "battery staple " + strings.Repeat("x", i),
			})
			return err
		})
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, auth.ErrTokenRevoked) && !errors.Is(err, auth.ErrInvalidCredentials): // one that reads the new password
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d changes won", won)
		}
	})
}
