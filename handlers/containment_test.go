package handlers_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/persistence"
)

// contained checks that nothing but mail to ada's address logs in, and that link, which the owner got
// by the containment, stays good whatever a stranger asks for. It sets the password horse by it.
func (p *postal) contained(t *testing.T, intruder auth.Tokens, link string) {
	t.Helper()
	if stored := p.stored(t); stored != "" {
		t.Errorf("the password %q is stored", stored)
	}
	for _, plain := range []string{horse, staple, ""} {
		_, err := p.logIn(t, ada, plain, "")
		want(t, "the password before", err, auth.ErrInvalidCredentials)
	}
	want(t, "the intruder's session", p.verify(t, intruder.AccessToken), auth.ErrTokenRevoked)
	_, err := p.tryRefresh(t, intruder.RefreshToken)
	want(t, "its refresh token", err, auth.ErrTokenRevoked)
	want(t, "a stranger forgets a password", p.forgot(t, ada), nil)
	newer := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
	want(t, "a stranger asks for a mail", p.resend(t, ada), nil)
	_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
	want(t, "a stranger asks for a code", err, nil)
	want(t, "a poor password", p.reset(t, link, "short"), auth.ErrInvalid)
	want(t, "the link of the containment", p.reset(t, link, horse), nil)
	want(t, "the newer link then", p.reset(t, newer, staple), auth.ErrInvalidToken)
	p.posted(t)
}

func TestNotMeLeavesNoPassword(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		want(t, "a pending change", p.change(t, tokens, "evil@example.com", horse), nil)
		change := linked(t, p.one(t, events.MailChange, "evil@example.com"), "/email/change")
		intruder, err := p.logIn(t, ada, horse, firefox)
		want(t, "the intruder logs in", err, nil)
		mail := p.one(t, events.MailNewDevice, adas)
		p.types(t)
		want(t, "not me", p.notMe(t, linked(t, mail, "/not-me")), nil)
		if got := p.types(t); !slices.Equal(got, []string{"user.password_changed", "session.revoked", "session.revoked"}) {
			t.Errorf("events %q", got)
		}
		want(t, "the pending change", p.confirm(t, change), auth.ErrInvalidToken)
		p.contained(t, intruder, linked(t, p.one(t, events.MailReset, adas), "/password/reset"))
		p.login(t)
	})
}

func TestUndoLeavesNoPassword(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		undo := p.moved(t, tokens, horse, "evil@example.com", adas)
		want(t, "undo", p.undo(t, undo), nil)
		mails := p.posted(t)
		if len(mails) != 2 || mails[0].To != "evil@example.com" || mails[1].Kind != events.MailReset || mails[1].To != adas {
			t.Fatalf("%+v", mails)
		}
		p.contained(t, tokens, linked(t, mails[1], "/password/reset"))
		p.login(t)
	})
}

// moved changes the address of an account and returns the token to undo that.
func (p *postal) moved(t *testing.T, tokens auth.Tokens, plain, address, former string) string {
	t.Helper()
	want(t, "change", p.change(t, tokens, address, plain), nil)
	want(t, "confirm", p.confirm(t, linked(t, p.one(t, events.MailChange, address), "/email/change")), nil)
	return linked(t, p.one(t, events.MailChanged, former), "/email/undo")
}

// An intruder moves the address twice and undoes the second change: the owner's link stays good.
func TestUndoingALaterChangeKeepsTheOwnersLink(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		owners := p.moved(t, tokens, horse, "evil@example.com", adas)
		p.advance(time.Second)
		intruders := p.moved(t, tokens, horse, "worse@example.com", "evil@example.com")
		want(t, "the intruder undoes", p.undo(t, intruders), nil)
		mails := p.posted(t)
		recover := linked(t, mails[len(mails)-1], "/password/reset")
		want(t, "the owner undoes", p.undo(t, owners), nil)
		want(t, "the intruder's link to set a password", p.reset(t, recover, staple), auth.ErrInvalidToken)
		if user, err := p.store.User(t.Context(), 1); err != nil || user.Email != adas {
			t.Errorf("%+v, %v", user, err)
		}
	})
}

// An account without a password is used by mail alone, until one is set.
func TestAnAccountWithoutAPasswordAnswersSensibly(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.accounts.Reauth = 5 * time.Minute
		p.verified(t)
		p.execute(t, "UPDATE users SET password = ''")
		byCode := func() auth.Tokens {
			t.Helper()
			_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
			want(t, "ask", err, nil)
			mails := p.posted(t)
			reply, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: mails[len(mails)-1].Code})
			want(t, "log in", err, nil)
			login, _ := reply.Login()
			return login.Tokens
		}
		tokens := byCode()
		for _, plain := range []string{"", horse} {
			_, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: p.bearer(tokens), CurrentPassword: plain, NewPassword: staple})
			want(t, "change the password", err, auth.ErrInvalidCredentials)
			want(t, "change the address", p.change(t, tokens, bobs, plain), auth.ErrInvalidCredentials)
		}
		_, err := operator(p.service).SetPassword(t.Context(), auth.AdminUsersSetPasswordRequest{UserID: 1, Password: horse})
		want(t, "an operator sets one", err, nil)
		p.login(t)
		p.execute(t, "UPDATE users SET password = ''")
		tokens = byCode()
		remove := func(plain string) error {
			_, err := p.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: p.bearer(tokens), Password: plain})
			return err
		}
		want(t, "delete with a password", remove(horse), auth.ErrInvalidCredentials)
		p.advance(5 * time.Minute)
		want(t, "delete after a while", remove(""), auth.ErrReauthentication)
		tokens = byCode()
		want(t, "delete", remove(""), nil)
	})
}

// While a login compares the password, the owner says "not me": the login begins no session.
func TestNoLoginSlipsThroughAContainment(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.verified(t)
		_, err := p.logIn(t, ada, horse, firefox)
		want(t, "log in", err, nil)
		alarm := linked(t, p.one(t, events.MailNewDevice, adas), "/not-me")
		instances := []*postal{p, p.another(t)}
		atOnce(9, func(i int) error {
			if i == 4 {
				return instances[1].notMe(t, alarm)
			}
			_, err := instances[i%2].logIn(t, ada, horse, "")
			return err
		})
		live, err := p.store.LiveSessions(t.Context(), 1, "", 10, p.now())
		if err != nil || len(live) != 0 || p.stored(t) != "" {
			t.Errorf("%d sessions live, %v", len(live), err)
		}
	})
}

// The former address is as good as taken while it can be taken back.
func TestAFormerAddressStaysReserved(t *testing.T) {
	for _, v := range []handlers.Verification{handlers.VerificationOptional, handlers.VerificationRequired} {
		t.Run(string(v), func(t *testing.T) {
			eachPostal(t, v, func(t *testing.T, p *postal) { formerAddressStaysReserved(t, p, v) })
		})
	}
}

func formerAddressStaysReserved(t *testing.T, p *postal, v handlers.Verification) {
	p.advance(time.Second)
	tokens := p.verified(t)
	register := func(address string) error {
		_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: staple})
		return err
	}
	want(t, "bob", register(bobs), nil)
	_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, p.one(t, events.MailVerify, bobs), "/email/verify"), Password: staple})
	want(t, "bob", err, nil)
	bob, err := p.logIn(t, bobs, staple, "")
	want(t, "bob", err, nil)
	want(t, "bob wants ada's address before", p.change(t, bob, "ada2@example.com", staple), nil)
	p.posted(t)
	p.moved(t, tokens, horse, "ada2@example.com", adas)
	undo := p.moved(t, tokens, horse, "ada3@example.com", "ada2@example.com")

	// ada@example.com and ada2@example.com are reserved now.
	for _, address := range []string{ada, "ADA2@example.com"} {
		taken := map[bool]error{true: auth.ErrEmailTaken}[v == handlers.VerificationOptional]
		want(t, "register "+address, register(address), taken)
		want(t, "change to "+address, p.change(t, bob, address, staple), nil)
		for _, m := range p.posted(t) {
			if m.Kind != events.MailTaken || m.Link != "" || m.UserID != 1 || m.To == "ada3@example.com" {
				t.Errorf("mail %+v", m)
			}
		}
	}
	counts, err := (&handlers.Import{Store: p.store, Clock: p.now}).Run(t.Context(), once(
		handlers.Candidate{ImportedUser: persistence.ImportedUser{ID: 70, Email: ada, Password: ancestral(t), CreatedAt: begin}},
		handlers.Candidate{ImportedUser: persistence.ImportedUser{Email: "new@example.com", Password: ancestral(t), CreatedAt: begin}, NoID: true},
	))
	if err != nil || counts.Imported != 1 || counts.Skipped != 1 {
		t.Errorf("import: %+v, %v", counts, err)
	}
	if n := p.count(t, "users"); n != 3 {
		t.Errorf("%d users", n)
	}
	want(t, "undo", p.undo(t, undo), nil)
	p.posted(t)
	p.advance(alarmTTL)
	if v == handlers.VerificationOptional {
		want(t, "register when the link has expired", register(ada), nil)
	}
}

// once is a source of accounts.
func once(all ...handlers.Candidate) handlers.Source {
	return func(context.Context, int) ([]handlers.Candidate, error) {
		batch := all
		all = nil
		return batch, nil
	}
}

// An account gives an address up while others want it: nobody gets it.
func TestAnAddressIsReservedFromTheMomentItIsGivenUp(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		want(t, "change", p.change(t, tokens, "evil@example.com", horse), nil)
		change := linked(t, p.one(t, events.MailChange, "evil@example.com"), "/email/change")
		instances := []*postal{p, p.another(t)}
		errs := atOnce(8, func(i int) error {
			if i == 0 {
				return p.confirm(t, change)
			}
			_, err := instances[i%2].accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: staple})
			return err
		})
		want(t, "confirm", errs[0], nil)
		for i, err := range errs[1:] {
			want(t, fmt.Sprint("register ", i), err, auth.ErrEmailTaken)
		}
		if n := p.count(t, "users"); n != 1 {
			t.Errorf("%d users", n)
		}
	})
}

// A pending change of the address ends with the session that asked for it.
func TestAPendingChangeEndsWithItsSession(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, p *postal, tokens auth.Tokens) error{
		"logout": func(t *testing.T, p *postal, tokens auth.Tokens) error { return p.logout(t, tokens.AccessToken, "") },
		"an operator ends sessions": func(t *testing.T, p *postal, _ auth.Tokens) error {
			_, err := operator(p.service).EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: 1})
			return err
		},
		"an operator disables and enables": func(t *testing.T, p *postal, _ auth.Tokens) error {
			if _, err := operator(p.service).Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: 1}); err != nil {
				return err
			}
			_, err := operator(p.service).Enable(t.Context(), auth.AdminUsersEnableRequest{UserID: 1})
			return err
		},
		"another session ends it": func(t *testing.T, p *postal, _ auth.Tokens) error {
			_, err := p.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: p.bearer(p.login(t).Tokens)})
			return err
		},
		"a stolen token": func(t *testing.T, p *postal, tokens auth.Tokens) error {
			p.refresh(t, tokens)
			p.advance(time.Minute)
			_, err := p.tryRefresh(t, tokens.RefreshToken)
			return map[bool]error{false: err}[err != nil]
		},
		"the session expires": func(t *testing.T, p *postal, _ auth.Tokens) error {
			p.execute(t, "UPDATE login_sessions SET expires_at = ?", p.now())
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
				tokens := p.verified(t)
				want(t, "change", p.change(t, tokens, bobs, horse), nil)
				link := linked(t, p.one(t, events.MailChange, bobs), "/email/change")
				want(t, name, end(t, p, tokens), nil)
				want(t, "confirm", p.confirm(t, link), auth.ErrInvalidToken)
				if user, err := p.store.User(t.Context(), 1); err != nil || user.Email != adas {
					t.Errorf("%+v, %v", user, err)
				}
			})
		})
	}
}

// Logins with new devices do not use up the notices of changes.
func TestLoginsDoNotUseUpTheNoticesOfChanges(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationOff)
		for i := range 15 {
			_, err := p.logIn(t, ada, horse, fmt.Sprintf("tool%d/1.0", i))
			want(t, "log in", err, nil)
		}
		tokens := p.login(t).Tokens
		p.posted(t)
		_, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: p.bearer(tokens), CurrentPassword: horse, NewPassword: staple})
		want(t, "change the password", err, nil)
		p.one(t, events.MailPasswordChanged, adas)
	})
}

// With required verification, a session from before is not refreshed until the address is verified.
func TestRequiredVerificationEndsRefreshing(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		p.register(t)
		mail := p.one(t, events.MailVerify, adas)
		tokens := p.login(t).Tokens
		p.sessions.Required = true
		refused, err := p.tryRefresh(t, tokens.RefreshToken)
		want(t, "refresh", err, auth.ErrTokenRevoked)
		if refused != (auth.Tokens{}) || p.ended(t, tokens.SessionID) {
			t.Errorf("%+v", refused)
		}
		for _, err := range atOnce(8, func(int) error { _, err := p.tryRefresh(t, tokens.RefreshToken); return err }) {
			want(t, "many at once", err, auth.ErrTokenRevoked)
		}
		_, err = p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: p.bearer(tokens), CurrentPassword: horse, NewPassword: staple})
		want(t, "a new session by changing the password", err, auth.ErrTokenRevoked)
		p.sessions.Required = false
		tokens = p.refresh(t, tokens) // nothing was used up
		p.sessions.Required = true
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Bearer: p.bearer(tokens), Token: linked(t, mail, "/email/verify")})
		want(t, "verify by that session", err, nil)
		p.refresh(t, tokens)
	})
}
