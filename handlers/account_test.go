package handlers_test

import (
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
			{"no IP", auth.RegisterRequest{Email: ada, Password: horse, Origin: from("192.0.2.256")}, []auth.Field{{Field: "client.ip", Reason: "invalid"}}},
			{"no IP and no address", auth.RegisterRequest{Email: "ada", Password: horse, Origin: from("localhost")},
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

func from(ip string) auth.Origin {
	return auth.Origin{Client: &auth.Client{IP: ip, UserAgent: "curl"}}
}
