package handlers_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
)

// stranger registers ada's address with a password, a name and a language of the stranger's, and
// logs in. It returns the secret of the registration.
func (p *postal) stranger(t *testing.T) (secret string, tokens auth.Tokens) {
	t.Helper()
	reply, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: staple, Name: "Mallory", Locale: "de"})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err = p.logIn(t, ada, staple, "curl/8")
	want(t, "the stranger logs in", err, nil)
	return reply.Registration.Secret, tokens
}

// A mail alone verifies nothing, and nothing is consumed by trying.
func TestAMailAloneVerifiesNothing(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		_, tokens := p.stranger(t)
		mail := p.one(t, events.MailVerify, adas)
		other, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: bobs, Password: horse})
		want(t, "bob", err, nil)
		bob, err := p.logIn(t, bobs, horse, "")
		want(t, "bob", err, nil)
		required := []auth.Field{{Field: "password", Reason: "required"}}
		for what, c := range map[string]struct {
			req    auth.EmailVerifyRequest
			code   *auth.Error
			fields []auth.Field
		}{
			"nothing":                         {auth.EmailVerifyRequest{}, auth.ErrReauthentication, required},
			"another account's session":       {auth.EmailVerifyRequest{Bearer: p.bearer(bob)}, auth.ErrReauthentication, required},
			"no token":                        {auth.EmailVerifyRequest{Bearer: auth.Bearer{AccessToken: "x.y.z"}}, auth.ErrReauthentication, required},
			"another registration's secret":   {auth.EmailVerifyRequest{Registration: other.Registration.Secret}, auth.ErrReauthentication, required},
			"no secret":                       {auth.EmailVerifyRequest{Registration: "\x00"}, auth.ErrReauthentication, required},
			"a short password":                {auth.EmailVerifyRequest{Password: "short"}, auth.ErrInvalid, []auth.Field{{Field: "password", Reason: "too_short"}}},
			"a common password":               {auth.EmailVerifyRequest{Password: "football"}, auth.ErrInvalid, []auth.Field{{Field: "password", Reason: "too_common"}}},
			"the address":                     {auth.EmailVerifyRequest{Password: adas}, auth.ErrInvalid, []auth.Field{{Field: "password", Reason: "contains_context"}}},
			"a password that is not Unicode":  {auth.EmailVerifyRequest{Password: "correct horse\n"}, auth.ErrInvalid, []auth.Field{{Field: "password", Reason: "not_unicode"}}},
			"a password beyond the maximum":   {auth.EmailVerifyRequest{Password: fmt.Sprintf("%0257d", 7)}, auth.ErrInvalid, []auth.Field{{Field: "password", Reason: "too_long"}}},
			"a session of the ended stranger": {auth.EmailVerifyRequest{Bearer: auth.Bearer{AccessToken: p.endedSession(t)}}, auth.ErrReauthentication, required},
		} {
			for _, by := range []string{"link", "code"} {
				c.req.Token, c.req.Email, c.req.Code = linked(t, mail, "/email/verify"), "", ""
				if by == "code" {
					c.req.Token, c.req.Email, c.req.Code = "", ada, mail.Code
				}
				_, err := p.emails.Verify(t.Context(), c.req)
				want(t, what+" by "+by, err, c.code)
				if got := auth.Public(err).Fields; !reflect.DeepEqual(got, c.fields) {
					t.Errorf("%s by %s: fields %v", what, by, got)
				}
			}
		}
		if p.account(t, tokens).EmailVerified {
			t.Error("the address is verified")
		}
		want(t, "the link is still good", p.verifyLink(t, linked(t, mail, "/email/verify")), nil)
	})
}

// endedSession is the access token of a session of staple's account that has ended.
func (p *postal) endedSession(t *testing.T) string {
	t.Helper()
	tokens, err := p.logIn(t, ada, staple, "curl/8")
	want(t, "log in", err, nil)
	want(t, "log out", p.logout(t, tokens.AccessToken, ""), nil)
	return tokens.AccessToken
}

// A password that is not the stored one takes the account over, free of what was set up before.
func TestAnotherPasswordTakesTheAccountOver(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		secret, tokens := p.stranger(t)
		mail := p.one(t, events.MailVerify, adas)
		want(t, "a pending change", p.change(t, tokens, "mallory@example.com", staple), nil)
		pending := linked(t, p.one(t, events.MailChange, "mallory@example.com"), "/email/change")
		want(t, "a reset", p.forgot(t, ada), nil)
		reset := linked(t, p.one(t, events.MailReset, adas), "/password/reset")

		want(t, "verify", p.verifyLink(t, linked(t, mail, "/email/verify")), nil)
		want(t, "the stranger's session", p.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		_, err := p.logIn(t, ada, staple, "")
		want(t, "the stranger's password", err, auth.ErrInvalidCredentials)
		want(t, "the pending change", p.confirm(t, pending), auth.ErrInvalidToken)
		want(t, "the reset", p.reset(t, reset, staple), auth.ErrInvalidToken)
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, mail, "/email/verify"), Registration: secret})
		want(t, "the stranger's secret", err, auth.ErrInvalidToken)
		p.posted(t)
		own, err := p.logIn(t, ada, horse, firefox)
		want(t, "the owner's password", err, nil)
		if account := p.account(t, own); account.Name != "" || account.Locale != "" || !account.EmailVerified {
			t.Errorf("%+v", account)
		}
		p.none(t, "the first device of the account") // curl, the stranger's, is forgotten
		_, err = p.logIn(t, ada, horse, "curl/8")
		want(t, "curl", err, nil)
		p.one(t, events.MailNewDevice, adas)
	})
}

// An account whose owner shows that it is theirs stays as it is.
func TestOwnershipKeepsTheAccount(t *testing.T) {
	for name, show := range map[string]func(p *postal, secret string, tokens auth.Tokens) auth.EmailVerifyRequest{
		"a session": func(p *postal, _ string, tokens auth.Tokens) auth.EmailVerifyRequest {
			return auth.EmailVerifyRequest{Bearer: p.bearer(tokens)}
		},
		"the secret": func(_ *postal, secret string, _ auth.Tokens) auth.EmailVerifyRequest {
			return auth.EmailVerifyRequest{Registration: secret}
		},
		"the password": func(*postal, string, auth.Tokens) auth.EmailVerifyRequest {
			return auth.EmailVerifyRequest{Password: staple}
		},
		"several proofs": func(p *postal, s string, t auth.Tokens) auth.EmailVerifyRequest {
			return auth.EmailVerifyRequest{Bearer: p.bearer(t), Registration: s, Password: horse}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
				secret, tokens := p.stranger(t) // who is the owner this time
				other, err := p.logIn(t, ada, staple, "")
				want(t, "another session", err, nil)
				p.posted(t)
				want(t, "another mail", p.resend(t, ada), nil) // which keeps the registration
				before := p.stored(t)
				req := show(p, secret, tokens)
				req.Token = linked(t, p.one(t, events.MailVerify, adas), "/email/verify")
				p.types(t)
				_, err = p.emails.Verify(t.Context(), req)
				want(t, "verify", err, nil)
				if p.stored(t) != before {
					t.Error("another password is stored")
				}
				if got := p.types(t); got[0] != "user.email_verified" {
					t.Errorf("events %q", got)
				}
				if kept := p.verify(t, tokens.AccessToken) == nil; kept != (req.AccessToken != "") {
					t.Errorf("the session goes on: %v", kept)
				}
				want(t, "the other session", p.verify(t, other.AccessToken), auth.ErrTokenRevoked)
				own, err := p.logIn(t, ada, staple, "")
				want(t, "the password", err, nil)
				if account := p.account(t, own); account.Name != "Mallory" || account.Locale != "de" || !account.EmailVerified {
					t.Errorf("%+v", account)
				}
			})
		})
	}
}

// The browser that registered needs no password, whichever mail of the address it answers.
func TestTheSecretOfARegistrationStandsForItsPassword(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		register := func(address, plain, name string) string {
			t.Helper()
			reply, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: plain, Name: name})
			want(t, "register", err, nil)
			if reply.Registration.ExpiresIn != int64(verifyTTL/time.Second) {
				t.Errorf("%+v", reply.Registration)
			}
			return reply.Registration.Secret
		}
		own := register(ada, horse, "Ada")
		p.posted(t)
		register(ada, staple, "Mallory")
		mail := p.one(t, events.MailVerify, adas)
		p.advance(time.Second)
		strangers := register(bobs, staple, "Mallory")
		_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, mail, "/email/verify"), Registration: strangers})
		want(t, "a secret of another address", err, auth.ErrReauthentication)
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, mail, "/email/verify"), Registration: own})
		want(t, "verify", err, nil)
		if account := p.account(t, p.login(t).Tokens); account.Name != "Ada" {
			t.Errorf("%+v", account)
		}
		// A taken address gets a secret too, which proves nothing.
		taken := register(ada, staple, "Mallory")
		if taken == "" || taken == own {
			t.Errorf("secret %q", taken)
		}
	})
}

// A code that logs in proves the mailbox as well.
func TestALoginByCodeKeepsTheAccountOfItsBrowser(t *testing.T) {
	for _, isOwn := range []bool{true, false} {
		t.Run(fmt.Sprint(isOwn), func(t *testing.T) {
			eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
				secret, before := p.stranger(t)
				if !isOwn {
					secret = "WQ3VYHJ2LK5NBX7TRC4MDZ6PGA"
				}
				p.posted(t)
				_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
				want(t, "ask", err, nil)
				code := p.one(t, events.MailLoginCode, adas).Code
				reply, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: code, Registration: secret})
				want(t, "log in", err, nil)
				login, _ := reply.Login()
				if account := p.account(t, login.Tokens); (account.Name == "Mallory") != isOwn || !account.EmailVerified {
					t.Errorf("%+v", account)
				}
				want(t, "the session before", p.verify(t, before.AccessToken), auth.ErrTokenRevoked)
				_, err = p.logIn(t, ada, staple, "")
				want(t, "the password before", err, map[bool]error{false: auth.ErrInvalidCredentials}[isOwn])
			})
		})
	}
}

// The holder of a link cannot make the service hash without end.
func TestPasswordsOfALinkAreLimited(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationRequired)
		p.enter(t, ada, horse)
		link := linked(t, p.one(t, events.MailVerify, adas), "/email/verify")
		replica := s.another(t)
		replica.limit(t, rules)
		second := post(t, replica, handlers.VerificationRequired)
		try := func(p *postal, plain string) error {
			_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: link, Password: plain})
			return err
		}
		for i := range 5 {
			want(t, "a poor password", try([]*postal{p, second}[i%2], "short"), auth.ErrInvalid)
		}
		waits(t, "a good one", try(p, horse), time.Minute)
		want(t, "no password", try(p, ""), auth.ErrReauthentication)
		p.advance(time.Minute)
		want(t, "later", try(p, horse), nil)
	})
}

// A registration waits beside an account that somebody made and disabled since.
func TestADisabledAccountIsNotVerified(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.enter(t, ada, horse)
		mail := p.one(t, events.MailVerify, adas)
		p.accounts.Verification = handlers.VerificationOff
		_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: staple})
		want(t, "an account", err, nil)
		before := p.stored(t)
		p.execute(t, "UPDATE users SET disabled_at = ?", p.now())
		want(t, "the link", p.verifyLink(t, linked(t, mail, "/email/verify")), auth.ErrInvalidToken)
		want(t, "the code", p.verifyCode(t, ada, mail.Code), auth.ErrInvalidToken)
		p.execute(t, "UPDATE users SET disabled_at = NULL")
		if p.stored(t) != before {
			t.Error("another password is stored")
		}
		tokens, err := p.logIn(t, ada, staple, "")
		want(t, "log in", err, auth.ErrInvalidCredentials) // as it is not verified
		if tokens != (auth.Tokens{}) {
			t.Errorf("%+v", tokens)
		}
	})
}

// A stranger asks for a change of the address of his account to that of somebody else, who follows the
// link of the mail: the link alone does not give the stranger's account the address.
func TestALinkAloneChangesNoAddress(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: evil, Password: staple})
		want(t, "mallory", err, nil)
		mallory, err := p.logIn(t, evil, staple, "")
		want(t, "mallory", err, nil)
		want(t, "change", p.change(t, mallory, bobs, staple), nil)
		link := linked(t, p.one(t, events.MailChange, bobs), "/email/change")
		p.register(t)
		other := p.login(t).Tokens
		ended, err := p.logIn(t, evil, staple, "")
		want(t, "another session", err, nil)
		want(t, "log out", p.logout(t, ended.AccessToken, ""), nil)
		p.types(t)
		for what, c := range map[string]struct {
			req  auth.EmailConfirmRequest
			code *auth.Error
		}{
			"nothing":                   {auth.EmailConfirmRequest{}, auth.ErrReauthentication},
			"another account's session": {auth.EmailConfirmRequest{Bearer: p.bearer(other)}, auth.ErrReauthentication},
			"a session that has ended":  {auth.EmailConfirmRequest{Bearer: p.bearer(ended)}, auth.ErrReauthentication},
			"no access token":           {auth.EmailConfirmRequest{Bearer: auth.Bearer{AccessToken: "x.y.z"}}, auth.ErrReauthentication},
			"a new password":            {auth.EmailConfirmRequest{Password: "another good password"}, auth.ErrInvalidCredentials},
			"another account's password": {
				auth.EmailConfirmRequest{Bearer: p.bearer(other), Password: horse}, auth.ErrInvalidCredentials,
			},
		} {
			c.req.Token = link
			_, err := p.emails.Confirm(t.Context(), c.req)
			want(t, what, err, c.code)
			fields := []auth.Field{{Field: "password", Reason: "required"}}
			if got := auth.Public(err).Fields; c.code == auth.ErrReauthentication && !reflect.DeepEqual(got, fields) {
				t.Errorf("%s: fields %v", what, got)
			}
		}
		if got := p.types(t); len(got) != 0 {
			t.Errorf("events %q", got)
		}
		p.none(t, "what is refused")
		_, err = p.logIn(t, bobs, staple, "")
		want(t, "the stranger's password", err, auth.ErrInvalidCredentials)
		if got := p.account(t, mallory).Email; got != evil {
			t.Errorf("the stranger's account has %s", got)
		}
		_, err = p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: link, Password: staple})
		want(t, "the link is still good", err, nil)
	})
}

// The owner of an account confirms a change by a session or the password. The session that
// requested it goes on, and all others end.
func TestTheOwnerConfirmsAChangeOfAddress(t *testing.T) {
	for name, show := range map[string]func(p *postal, asked, other auth.Tokens) auth.EmailConfirmRequest{
		"the session that asked": func(p *postal, asked, _ auth.Tokens) auth.EmailConfirmRequest {
			return auth.EmailConfirmRequest{Bearer: p.bearer(asked)}
		},
		"another session": func(p *postal, _, other auth.Tokens) auth.EmailConfirmRequest {
			return auth.EmailConfirmRequest{Bearer: p.bearer(other)}
		},
		"the password": func(*postal, auth.Tokens, auth.Tokens) auth.EmailConfirmRequest {
			return auth.EmailConfirmRequest{Password: horse}
		},
		"a session and a wrong password": func(p *postal, asked, _ auth.Tokens) auth.EmailConfirmRequest {
			return auth.EmailConfirmRequest{Bearer: p.bearer(asked), Password: "wrong"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
				asked, other := p.verified(t), p.login(t).Tokens
				before := p.stored(t)
				want(t, "change", p.change(t, asked, bobs, horse), nil)
				req := show(p, asked, other)
				req.Token = linked(t, p.one(t, events.MailChange, bobs), "/email/change")
				_, err := p.emails.Confirm(t.Context(), req)
				want(t, "confirm", err, nil)
				if account := p.account(t, asked); account.Email != bobs || p.stored(t) != before {
					t.Errorf("%+v", account)
				}
				want(t, "the other session", p.verify(t, other.AccessToken), auth.ErrTokenRevoked)
				_, err = p.emails.Confirm(t.Context(), req)
				want(t, "again", err, auth.ErrInvalidToken)
			})
		})
	}
}

// The password that confirms a change is limited as that of a login, on all instances together. A
// link whose session is over asks for no password.
func TestPasswordsThatConfirmAChangeCountAsLogins(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationOff)
		tokens := p.begun(t)
		want(t, "change", p.change(t, tokens, bobs, horse), nil)
		link := linked(t, p.one(t, events.MailChange, bobs), "/email/change")
		replica := s.another(t)
		replica.limit(t, rules)
		second := post(t, replica, handlers.VerificationOff)
		try := func(p *postal, plain string) error {
			_, err := p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: link, Password: plain})
			return err
		}
		for i := range 5 {
			want(t, "a wrong password", try([]*postal{p, second}[i%2], "wrong"), auth.ErrInvalidCredentials)
		}
		waits(t, "the right one", try(p, horse), 30*time.Second)
		_, err := p.logIn(t, ada, horse, "")
		waits(t, "a login", err, 30*time.Second)
		want(t, "no password", try(p, ""), auth.ErrReauthentication)
		p.advance(time.Minute)
		want(t, "log out", p.logout(t, tokens.AccessToken, ""), nil)
		want(t, "a link that is over", try(p, ""), auth.ErrInvalidToken)
		want(t, "a link that is over", try(p, "wrong"), auth.ErrInvalidToken)
		_, err = p.logIn(t, ada, horse, "")
		want(t, "a login after a minute", err, nil)
	})
}
