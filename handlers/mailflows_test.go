package handlers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/gcra"
)

const (
	verifyTTL = 24 * time.Hour
	resetTTL  = time.Hour
	alarmTTL  = 48 * time.Hour
	codeTTL   = 10 * time.Minute

	adas    = "Ada@example.com" // as it is stored
	bobs    = "bob@example.com"
	staple  = "battery staple horse"
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
)

// postal is a service with mail, and what of it needs that.
type postal struct {
	*service
	mails    *handlers.Mails
	emails   *handlers.Emails
	recovery *handlers.Recovery
	codes    *handlers.CodeLogins
	read     int64 // up to where the outbox was looked at
}

// post gives a service mail.
func post(t *testing.T, s *service, v handlers.Verification) *postal {
	t.Helper()
	mails := &handlers.Mails{Keys: parse(t, s.master)}
	oneTimes := &handlers.OneTimeTokens{
		Store: s.store, Mails: mails, Base: "https://auth.example",
		VerifyTTL: verifyTTL, ResetTTL: resetTTL, AlarmTTL: alarmTTL, CodeTTL: codeTTL, Clock: s.now,
	}
	notices := &handlers.Notices{OneTimes: oneTimes, NewDevice: true, Limits: s.sessions.Limits}
	s.sessions.OneTimes, s.sessions.Notices, s.sessions.Required = oneTimes, notices, v == handlers.VerificationRequired
	s.accounts.OneTimes, s.accounts.Notices, s.accounts.Verification = oneTimes, notices, v
	return &postal{
		service: s, mails: mails,
		emails:   &handlers.Emails{Store: s.store, OneTimes: oneTimes, Accounts: s.accounts, Sessions: s.sessions, Limits: s.sessions.Limits, Clock: s.now},
		recovery: &handlers.Recovery{OneTimes: oneTimes, Accounts: s.accounts, Sessions: s.sessions, Notices: notices, Limits: s.sessions.Limits, Clock: s.now},
		codes:    &handlers.CodeLogins{On: true, OneTimes: oneTimes, Accounts: s.accounts, Sessions: s.sessions, Limits: s.sessions.Limits, Clock: s.now},
	}
}

// eachPostal runs f with a service that has mail on every database.
func eachPostal(t *testing.T, v handlers.Verification, f func(t *testing.T, p *postal)) {
	each(t, func(t *testing.T, s *service) { f(t, post(t, s, v)) })
}

// another is a second instance on the same database.
func (p *postal) another(t *testing.T) *postal {
	t.Helper()
	return post(t, p.service.another(t), p.accounts.Verification)
}

// posted are the mails that were asked for since the last time, in their order.
func (p *postal) posted(t *testing.T) (mails []events.Mail) {
	t.Helper()
	var rows []struct {
		Seq  int64
		Type string
		Data string
	}
	if err := p.store.DB().NewRaw("SELECT seq, type, data FROM outbox WHERE seq > ? ORDER BY seq", p.read).Scan(t.Context(), &rows); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		p.read = r.Seq
		if r.Type != events.MailType {
			continue
		}
		opened, err := p.mails.Open(events.Event{Type: r.Type, Data: json.RawMessage(r.Data)})
		if errors.Is(err, events.ErrNobody) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var m events.Mail
		if err := json.Unmarshal(opened.Data, &m); err != nil {
			t.Fatal(err)
		}
		mails = append(mails, m)
	}
	return mails
}

// one wants one mail of a kind to an address since the last time.
func (p *postal) one(t *testing.T, kind events.MailKind, to string) events.Mail {
	t.Helper()
	mails := p.posted(t)
	if len(mails) != 1 || mails[0].Kind != kind || mails[0].To != to {
		t.Fatalf("mails %+v, want one %s to %s", mails, kind, to)
	}
	return mails[0]
}

func (p *postal) none(t *testing.T, what string) {
	t.Helper()
	if mails := p.posted(t); len(mails) != 0 {
		t.Errorf("%s: mails %+v", what, mails)
	}
}

// linked is the token of a mail's link, which leads to a page.
func linked(t *testing.T, m events.Mail, page string) string {
	t.Helper()
	text, ok := strings.CutPrefix(m.Link, "https://auth.example"+page+"#token=")
	text, _, _ = strings.Cut(text, "&email=")
	if !ok || len(text) < 26 {
		t.Fatalf("link %q", m.Link)
	}
	return text
}

// verifyLink verifies by a link and the password horse.
func (p *postal) verifyLink(t *testing.T, token string) error {
	_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: token, Password: horse})
	return err
}

// verifyCode verifies by a code and the password horse.
func (p *postal) verifyCode(t *testing.T, address, code string) error {
	_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Email: address, Code: code, Password: horse})
	return err
}

func (p *postal) resend(t *testing.T, address string) error {
	_, err := p.emails.Resend(t.Context(), auth.EmailResendRequest{Email: address})
	return err
}

func (p *postal) forgot(t *testing.T, address string) error {
	_, err := p.recovery.Forgot(t.Context(), auth.PasswordForgotRequest{Email: address})
	return err
}

func (p *postal) reset(t *testing.T, token, plain string) error {
	_, err := p.recovery.Reset(t.Context(), auth.PasswordResetRequest{Token: token, NewPassword: plain})
	return err
}

func (p *postal) change(t *testing.T, tokens auth.Tokens, address, plain string) error {
	_, err := p.emails.Change(t.Context(), auth.EmailChangeRequest{Bearer: p.bearer(tokens), NewEmail: address, Password: plain})
	return err
}

// confirm confirms a change of address by a link and the password horse.
func (p *postal) confirm(t *testing.T, token string) error {
	_, err := p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: token, Password: horse})
	return err
}

func (p *postal) undo(t *testing.T, token string) error {
	_, err := p.emails.Undo(t.Context(), auth.EmailUndoRequest{Token: token})
	return err
}

func (p *postal) notMe(t *testing.T, token string) error {
	_, err := p.recovery.NotMe(t.Context(), auth.NotMeRequest{Token: token})
	return err
}

func (p *postal) enter(t *testing.T, address, plain string) {
	t.Helper()
	reply, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: plain, Name: "Ada"})
	if err != nil || reply.Message != "A mail to the address tells how to go on" || reply.UserID != 0 || reply.Registration == nil {
		t.Fatalf("%+v, %v", reply, err)
	}
}

func (p *postal) logIn(t *testing.T, address, plain, agent string) (auth.Tokens, error) {
	reply, err := p.sessions.Login(t.Context(), auth.LoginRequest{Email: address, Password: plain, Sender: auth.Sender{Client: &auth.ClientInfo{UserAgent: agent}}})
	return reply.Tokens, err
}

// verified is ada's session in an account whose address was proved.
func (p *postal) verified(t *testing.T) auth.Tokens {
	t.Helper()
	if p.accounts.Verification == handlers.VerificationRequired {
		p.enter(t, ada, horse)
	} else {
		p.register(t)
	}
	if p.accounts.Verification == handlers.VerificationOff {
		want(t, "ask", p.resend(t, ada), nil)
	}
	want(t, "verify", p.verifyLink(t, linked(t, p.one(t, events.MailVerify, adas), "/email/verify")), nil)
	return p.login(t).Tokens
}

func (p *postal) account(t *testing.T, tokens auth.Tokens) auth.Account {
	t.Helper()
	account, err := p.accounts.Get(t.Context(), auth.AccountGetRequest{Bearer: p.bearer(tokens)})
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// types are those of the events since the last time, without mails.
func (p *postal) types(t *testing.T) (all []string) {
	t.Helper()
	lines, _ := p.told(t)
	for _, l := range lines {
		if kind, _, _ := strings.Cut(l, " "); kind != events.MailType {
			all = append(all, kind)
		}
	}
	return all
}

func TestWithoutMailThereIsNoSuchThing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		emails := handlers.Emails{Sessions: s.sessions}
		recovery, codes := handlers.Recovery{}, handlers.CodeLogins{}
		bearer := s.bearer(s.begun(t))
		_, err := emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: "x"})
		want(t, "verify", err, auth.ErrNotFound)
		_, err = emails.Resend(t.Context(), auth.EmailResendRequest{Email: ada})
		want(t, "resend", err, auth.ErrNotFound)
		_, err = emails.Change(t.Context(), auth.EmailChangeRequest{Bearer: bearer, NewEmail: bobs, Password: horse})
		want(t, "change", err, auth.ErrNotFound)
		_, err = emails.Confirm(t.Context(), auth.EmailConfirmRequest{Token: "x"})
		want(t, "confirm", err, auth.ErrNotFound)
		_, err = emails.Undo(t.Context(), auth.EmailUndoRequest{Token: "x"})
		want(t, "undo", err, auth.ErrNotFound)
		_, err = recovery.Forgot(t.Context(), auth.PasswordForgotRequest{Email: ada})
		want(t, "forgot", err, auth.ErrNotFound)
		_, err = recovery.Reset(t.Context(), auth.PasswordResetRequest{Token: "x", NewPassword: staple})
		want(t, "reset", err, auth.ErrNotFound)
		_, err = recovery.NotMe(t.Context(), auth.NotMeRequest{Token: "x"})
		want(t, "not me", err, auth.ErrNotFound)
		_, err = codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "code", err, auth.ErrNotFound)
	})
}

func TestARegistrationIsNoAccountBeforeItsMailIsAnswered(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.types(t)
		p.enter(t, ada, horse)
		mail := p.one(t, events.MailVerify, adas)
		if mail.Name != "Ada" || mail.UserID != 0 || !mail.ExpiresAt.Equal(begin.Add(verifyTTL)) || !mail.CodeExpiresAt.Equal(begin.Add(codeTTL)) || len(mail.Code) != 8 {
			t.Errorf("%+v", mail)
		}
		if n := p.count(t, "users"); n != 0 {
			t.Errorf("%d users", n)
		}
		_, err := p.logIn(t, ada, horse, "")
		want(t, "log in before", err, auth.ErrInvalidCredentials)
		p.none(t, "within a minute")

		want(t, "verify", p.verifyLink(t, linked(t, mail, "/email/verify")), nil)
		if got := p.types(t); !slices.Equal(got, []string{"user.registered", "user.email_verified"}) {
			t.Errorf("events %q", got)
		}
		if account := p.account(t, p.login(t).Tokens); !account.EmailVerified || account.Name != "Ada" || account.Email != adas {
			t.Errorf("%+v", account)
		}
		want(t, "again", p.verifyLink(t, linked(t, mail, "/email/verify")), auth.ErrInvalidToken)
		want(t, "by the code", p.verifyCode(t, ada, mail.Code), auth.ErrInvalidToken)
	})
}

func TestALoginBeforeTheAddressIsVerifiedSendsAMailOnceAMinute(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.enter(t, ada, horse)
		first := p.one(t, events.MailVerify, adas)
		p.advance(time.Minute)
		_, err := p.logIn(t, ada, "wrong horse", "")
		want(t, "wrong", err, auth.ErrInvalidCredentials)
		p.none(t, "a wrong password")
		_, err = p.logIn(t, ada, horse, "")
		want(t, "right", err, auth.ErrInvalidCredentials)
		second := p.one(t, events.MailVerify, adas)
		_, err = p.logIn(t, ada, horse, "")
		want(t, "right again", err, auth.ErrInvalidCredentials)
		p.none(t, "at once")
		want(t, "the older link", p.verifyLink(t, linked(t, first, "/email/verify")), auth.ErrInvalidToken)
		want(t, "the newer one", p.verifyLink(t, linked(t, second, "/email/verify")), nil)
		p.login(t)
	})
}

// Several registrations of an address wait side by side: none voids another's mail, and the
// password given at the verification is the one that counts.
func TestRegistrationsOfAnAddressWaitSideBySide(t *testing.T) {
	for name, order := range map[string][]string{
		"the stranger last":  {horse, "a stranger's choice"},
		"the stranger first": {"a stranger's choice", horse},
	} {
		t.Run(name, func(t *testing.T) {
			eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
				for _, plain := range order {
					p.enter(t, ada, plain)
				}
				mails := p.posted(t)
				if len(mails) != 2 {
					t.Fatalf("%+v", mails)
				}
				want(t, "the owner's password by the first mail", p.verifyCode(t, ada, mails[0].Code), nil)
				want(t, "the second mail", p.verifyLink(t, linked(t, mails[1], "/email/verify")), auth.ErrInvalidToken)
				_, err := p.logIn(t, ada, "a stranger's choice", "")
				want(t, "the stranger's password", err, auth.ErrInvalidCredentials)
				account := p.account(t, p.login(t).Tokens)
				if isOwn := order[0] == horse; (account.Name == "Ada") != isOwn {
					t.Errorf("the name %q of %s", account.Name, name)
				}
				p.posted(t)

				p.enter(t, ada, staple) // it is taken by now
				p.one(t, events.MailTaken, adas)
				p.login(t)
				if n := p.count(t, "one_time_tokens"); n != 1 { // a decoy
					t.Errorf("%d rows are left", n)
				}
			})
		})
	}
}

// Those that came first stay, however many follow, and the newest mail is good too.
func TestRegistrationsOfAnAddressAreBounded(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.enter(t, ada, horse)
		first := p.one(t, events.MailVerify, adas)
		const most = 300
		for i := range most + 2 {
			p.advance(time.Millisecond)
			p.enter(t, ada, fmt.Sprintf("a stranger's choice %d", i))
		}
		if n := p.count(t, "one_time_tokens"); n != most {
			t.Errorf("%d registrations wait", n)
		}
		mails := p.posted(t)
		newest := mails[len(mails)-1]
		p.advance(time.Minute)
		want(t, "resend", p.resend(t, ada), nil)
		again := p.one(t, events.MailVerify, adas)
		if n := p.count(t, "one_time_tokens"); n != most {
			t.Errorf("%d registrations wait", n)
		}
		want(t, "the older mail of a registration", p.verifyLink(t, linked(t, newest, "/email/verify")), auth.ErrInvalidToken)
		for what, m := range map[string]events.Mail{"the first": first, "the newest": again} {
			_, err := p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, m, "/email/verify"), Password: "short"})
			want(t, what, err, auth.ErrInvalid) // and not that the link is void
		}
		want(t, "the owner's", p.verifyLink(t, linked(t, first, "/email/verify")), nil)
		if account := p.account(t, p.login(t).Tokens); account.Name != "Ada" {
			t.Errorf("%+v", account)
		}
	})
}

// The owner of the mailbox gets the account without what a stranger set up.
func TestAnUnverifiedAccountIsTakenOver(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		p.register(t)
		stranger := p.login(t).Tokens
		old := p.one(t, events.MailVerify, adas)
		p.accounts.Verification, p.sessions.Required = handlers.VerificationRequired, true

		p.enter(t, ada, staple)
		mail := p.one(t, events.MailVerify, adas)
		p.advance(time.Minute)
		_, err := p.logIn(t, ada, horse, "")
		want(t, "the stranger logs in", err, auth.ErrInvalidCredentials)
		p.one(t, events.MailVerify, adas)
		want(t, "resend", p.resend(t, ada), nil)
		newest := p.one(t, events.MailVerify, adas)
		want(t, "the stranger's", p.verifyLink(t, linked(t, old, "/email/verify")), auth.ErrInvalidToken)
		p.types(t)
		_, err = p.emails.Verify(t.Context(), auth.EmailVerifyRequest{Token: linked(t, mail, "/email/verify"), Password: staple})
		want(t, "the owner's, which nothing voided", err, nil)
		if got := p.types(t); !slices.Equal(got, []string{"user.password_changed", "user.email_verified", "session.revoked"}) {
			t.Errorf("events %q", got)
		}
		want(t, "another one", p.verifyLink(t, linked(t, newest, "/email/verify")), auth.ErrInvalidToken)
		want(t, "the stranger's session", p.verify(t, stranger.AccessToken), auth.ErrTokenRevoked)
		_, err = p.logIn(t, ada, horse, "")
		want(t, "the stranger's password", err, auth.ErrInvalidCredentials)
		_, err = p.logIn(t, ada, staple, "")
		want(t, "the owner's password", err, nil)
		if n := p.count(t, "users"); n != 1 {
			t.Errorf("%d users", n)
		}
	})
}

func TestVerifyingEndsWhatWasBegunBefore(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		p.register(t)
		tokens := p.login(t).Tokens
		if p.account(t, tokens).EmailVerified {
			t.Error("verified too early")
		}
		mail := p.one(t, events.MailVerify, adas)
		want(t, "verify", p.verifyCode(t, "ADA@example.com", mail.Code), nil)
		want(t, "the session before", p.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		if !p.account(t, p.login(t).Tokens).EmailVerified {
			t.Error("not verified")
		}
		want(t, "resend", p.resend(t, ada), nil)
		p.none(t, "it is verified")
	})
}

func TestAForgottenPasswordIsResetOnce(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.begun(t)
		want(t, "forgot", p.forgot(t, "ADA@example.com"), nil)
		first := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		want(t, "forgot again", p.forgot(t, ada), nil)
		mail := p.one(t, events.MailReset, adas)
		link := linked(t, mail, "/password/reset")
		if !mail.ExpiresAt.Equal(begin.Add(resetTTL)) || mail.Code != "" {
			t.Errorf("%+v", mail)
		}
		want(t, "the older one", p.reset(t, first, staple), auth.ErrInvalidToken)
		want(t, "a poor password", p.reset(t, link, "password"), auth.ErrInvalid)
		want(t, "the owner's address", p.reset(t, link, adas), auth.ErrInvalid)
		want(t, "for another purpose", p.verifyLink(t, link), auth.ErrInvalidToken)
		want(t, "for another purpose", p.notMe(t, link), auth.ErrInvalidToken)
		p.types(t)
		want(t, "reset", p.reset(t, link, staple), nil)
		if got := p.types(t); !slices.Equal(got, []string{"user.password_changed", "user.updated", "user.email_verified", "session.revoked"}) {
			t.Errorf("events %q", got)
		}
		p.one(t, events.MailPasswordChanged, adas)
		want(t, "used", p.reset(t, link, horse), auth.ErrInvalidToken)
		want(t, "the session", p.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		_, err := p.logIn(t, ada, horse, "")
		want(t, "the old password", err, auth.ErrInvalidCredentials)
		fresh, err := p.logIn(t, ada, staple, "")
		want(t, "the new password", err, nil)
		if !p.account(t, fresh).EmailVerified {
			t.Error("the mailbox was proved")
		}
	})
}

func TestOfFiftyUsesOfALinkOneWins(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.register(t)
		want(t, "forgot", p.forgot(t, ada), nil)
		link := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		instances := []*postal{p, p.another(t)}
		won := 0
		for _, err := range atOnce(50, func(i int) error { return instances[i%2].reset(t, link, fmt.Sprintf("%s %d", staple, i)) }) {
			if err == nil {
				won++
				continue
			}
			want(t, "the others", err, auth.ErrInvalidToken)
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	})
}

func TestOfFiftyUsesOfLinkAndCodeOneWins(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.enter(t, ada, horse)
		mail := p.one(t, events.MailVerify, adas)
		link := linked(t, mail, "/email/verify")
		instances := []*postal{p, p.another(t)}
		won := 0
		for _, err := range atOnce(50, func(i int) error {
			if i < 25 {
				return instances[i%2].verifyLink(t, link)
			}
			return instances[i%2].verifyCode(t, ada, mail.Code)
		}) {
			if err == nil {
				won++
				continue
			}
			want(t, "the others", err, auth.ErrInvalidToken)
		}
		if won != 1 || p.count(t, "users") != 1 {
			t.Errorf("%d won, %d users", won, p.count(t, "users"))
		}
	})
}

func TestLinksAndCodesExpire(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		p.enter(t, bobs, horse)
		enter := p.one(t, events.MailVerify, bobs)
		want(t, "forgot", p.forgot(t, ada), nil)
		reset := p.one(t, events.MailReset, adas)
		want(t, "change", p.change(t, tokens, "new@example.com", horse), nil)
		change := p.one(t, events.MailChange, "new@example.com")
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "code", err, nil)
		code := p.one(t, events.MailLoginCode, adas)
		if code.Link != "" || !code.ExpiresAt.Equal(begin.Add(codeTTL)) {
			t.Errorf("%+v", code)
		}

		p.advance(codeTTL)
		want(t, "the code of a registration", p.verifyCode(t, bobs, enter.Code), auth.ErrInvalidToken)
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: code.Code})
		want(t, "the code of a login", err, auth.ErrInvalidCredentials)
		p.advance(resetTTL - codeTTL)
		want(t, "reset", p.reset(t, linked(t, reset, "/password/reset"), staple), auth.ErrInvalidToken)
		p.advance(verifyTTL - resetTTL)
		want(t, "registration", p.verifyLink(t, linked(t, enter, "/email/verify")), auth.ErrInvalidToken)
		want(t, "change", p.confirm(t, linked(t, change, "/email/change")), auth.ErrInvalidToken)
		p.cleanUp(t)
		if n := p.count(t, "one_time_tokens"); n != 0 {
			t.Errorf("%d are kept", n)
		}
	})
}

func TestALinkIsGoodUpToItsLastMoment(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.register(t)
		want(t, "forgot", p.forgot(t, ada), nil)
		link := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		p.advance(resetTTL - time.Microsecond)
		want(t, "reset", p.reset(t, link, staple), nil)
	})
}

func TestAnAddressIsChangedByTheMailToIt(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.verified(t)
		other := p.login(t).Tokens
		p.posted(t)
		want(t, "a wrong password", p.change(t, tokens, bobs, "wrong"), auth.ErrInvalidCredentials)
		want(t, "no address", p.change(t, tokens, "bob", horse), auth.ErrInvalid)
		p.none(t, "what is refused")
		want(t, "change", p.change(t, tokens, "wrong@example.com", horse), nil)
		older := linked(t, p.one(t, events.MailChange, "wrong@example.com"), "/email/change")
		want(t, "forgot", p.forgot(t, ada), nil)
		reset := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		want(t, "change", p.change(t, tokens, "Bob@example.com", horse), nil)
		link := linked(t, p.one(t, events.MailChange, "Bob@example.com"), "/email/change")
		if got := p.account(t, tokens).Email; got != adas {
			t.Errorf("changed too early: %s", got)
		}
		p.types(t)
		want(t, "the older one", p.confirm(t, older), auth.ErrInvalidToken)
		want(t, "confirm", p.confirm(t, link), nil)
		if got := p.types(t); !slices.Equal(got, []string{"user.email_changed", "session.revoked"}) {
			t.Errorf("events %q", got)
		}
		mail := p.one(t, events.MailChanged, adas)
		if mail.Address != "Bob@example.com" || !mail.ExpiresAt.Equal(begin.Add(alarmTTL)) {
			t.Errorf("%+v", mail)
		}
		if account := p.account(t, tokens); account.Email != "Bob@example.com" || !account.EmailVerified {
			t.Errorf("%+v", account)
		}
		want(t, "the other session", p.verify(t, other.AccessToken), auth.ErrTokenRevoked)
		want(t, "the link to the former address", p.reset(t, reset, staple), auth.ErrInvalidToken)
		_, err := p.logIn(t, ada, horse, "")
		want(t, "the former address", err, auth.ErrInvalidCredentials)
		_, err = p.logIn(t, bobs, horse, "")
		want(t, "the new one", err, nil)

		// Whoever changed it sets another password too, and another address: in vain.
		renewed, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: p.bearer(tokens), CurrentPassword: horse, NewPassword: staple})
		want(t, "another password", err, nil)
		p.posted(t)
		want(t, "another address", p.change(t, renewed.Tokens, "evil@example.com", staple), nil)
		_, err = p.emails.Confirm(t.Context(), auth.EmailConfirmRequest{
			Token: linked(t, p.one(t, events.MailChange, "evil@example.com"), "/email/change"), Bearer: p.bearer(renewed.Tokens),
		})
		want(t, "confirm", err, nil)
		bobMail := p.one(t, events.MailChanged, "Bob@example.com")
		undo := linked(t, mail, "/email/undo")
		p.advance(alarmTTL - time.Microsecond)
		p.types(t)
		want(t, "undo", p.undo(t, undo), nil)
		mails := p.posted(t)
		if len(mails) != 2 || mails[0].Kind != events.MailChanged || mails[0].To != "evil@example.com" || mails[0].Link != "" || mails[1].Kind != events.MailReset || mails[1].To != adas {
			t.Fatalf("%+v", mails)
		}
		if !p.ended(t, tokens.SessionID) {
			t.Error("a session goes on")
		}
		want(t, "again", p.undo(t, undo), auth.ErrInvalidToken)
		want(t, "the other undo", p.undo(t, linked(t, bobMail, "/email/undo")), auth.ErrInvalidToken)
		want(t, "reset", p.reset(t, linked(t, mails[1], "/password/reset"), horse), nil)
		p.login(t)
	})
}

func TestAnUnverifiedFormerAddressCannotUndo(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.begun(t)
		want(t, "change", p.change(t, tokens, bobs, horse), nil)
		want(t, "confirm", p.confirm(t, linked(t, p.one(t, events.MailChange, bobs), "/email/change")), nil)
		if mail := p.one(t, events.MailChanged, adas); mail.Link != "" {
			t.Errorf("%+v", mail)
		}
	})
}

func TestATakenAddressIsToldToItsOwnerAlone(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.begun(t)
		if _, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: bobs, Password: horse}); err != nil {
			t.Fatal(err)
		}
		want(t, "change", p.change(t, tokens, "BOB@example.com", horse), nil)
		if mail := p.one(t, events.MailTaken, bobs); mail.Link != "" || mail.Code != "" || mail.UserID != 2 {
			t.Errorf("%+v", mail)
		}
	})
}

// Two accounts want one address, and a third person registers it: one gets it.
func TestOneAddressGoesToOneAccount(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		links := make([]string, 2)
		for i, address := range []string{"one@example.com", "two@example.com"} {
			if _, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: horse}); err != nil {
				t.Fatal(err)
			}
			tokens, err := p.logIn(t, address, horse, "")
			want(t, "login", err, nil)
			want(t, "change", p.change(t, tokens, "wanted@example.com", horse), nil)
			links[i] = linked(t, p.one(t, events.MailChange, "wanted@example.com"), "/email/change")
		}
		instances := []*postal{p, p.another(t)}
		won := 0
		for _, err := range atOnce(3, func(i int) error {
			if i == 2 {
				_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: "wanted@example.com", Password: horse})
				return err
			}
			return instances[i].confirm(t, links[i])
		}) {
			if err == nil {
				won++
				continue
			}
			want(t, "the others", err, auth.ErrEmailTaken)
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	})
}

func TestAChangeOfThePasswordVoidsWhatWasSentAndIsTold(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		tokens := p.begun(t)
		want(t, "forgot", p.forgot(t, ada), nil)
		link := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		want(t, "change of address", p.change(t, tokens, bobs, horse), nil)
		change := linked(t, p.one(t, events.MailChange, bobs), "/email/change")
		_, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{
			Bearer: p.bearer(tokens), CurrentPassword: horse, NewPassword: staple,
			Sender: auth.Sender{Client: &auth.ClientInfo{IP: home, UserAgent: firefox}},
		})
		want(t, "change", err, nil)
		mail := p.one(t, events.MailPasswordChanged, adas)
		if mail.Device != "Firefox 128 on Linux" || mail.Client.IP != home || !mail.At.Equal(begin) {
			t.Errorf("%+v", mail)
		}
		want(t, "reset", p.reset(t, link, horse), auth.ErrInvalidToken)
		want(t, "confirm", p.confirm(t, change), auth.ErrInvalidToken)

		alarm := linked(t, mail, "/not-me")
		want(t, "not me", p.notMe(t, alarm), nil)
		want(t, "the session", p.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		want(t, "again", p.notMe(t, alarm), auth.ErrInvalidToken)
		want(t, "reset", p.reset(t, linked(t, p.one(t, events.MailReset, adas), "/password/reset"), horse), nil)
		p.login(t)
	})
}

func TestOnlyANewDeviceIsNews(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.register(t)
		for _, agent := range []string{"curl/8.5.0", "curl/8.6.0"} {
			_, err := p.logIn(t, ada, horse, agent)
			want(t, agent, err, nil)
			p.none(t, agent)
		}
		tokens, err := p.logIn(t, ada, horse, firefox)
		want(t, "firefox", err, nil)
		mail := p.one(t, events.MailNewDevice, adas)
		if mail.Device != "Firefox 128 on Linux" {
			t.Errorf("%+v", mail)
		}
		_, err = p.logIn(t, ada, horse, strings.ReplaceAll(firefox, "128", "129"))
		want(t, "its next version", err, nil)
		p.none(t, "its next version")
		want(t, "not me", p.notMe(t, linked(t, mail, "/not-me")), nil)
		want(t, "the session", p.verify(t, tokens.AccessToken), auth.ErrTokenRevoked)
		p.one(t, events.MailReset, adas)
	})
}

func TestACodeLogsIn(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.verified(t)
		ask := func(code string) (auth.LoginCodeReply, error) {
			return p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: "ADA@example.com", Code: code})
		}
		if reply, err := ask(""); err != nil || reply != (auth.LoginCodeReply{Message: "If there is an account for it, a mail is on its way"}) {
			t.Fatalf("%+v, %v", reply, err)
		}
		older := p.one(t, events.MailLoginCode, adas).Code
		_, err := ask("")
		want(t, "another", err, nil)
		code := p.one(t, events.MailLoginCode, adas).Code
		if older != code {
			_, err = ask(older)
			want(t, "the older one", err, auth.ErrInvalidCredentials)
		}
		won := 0
		var reply auth.LoginCodeReply
		for _, err := range atOnce(50, func(int) error {
			r, err := ask(code)
			if err == nil {
				reply = r
			}
			return err
		}) {
			if err == nil {
				won++
				continue
			}
			want(t, "the others", err, auth.ErrInvalidCredentials)
		}
		if won != 1 {
			t.Fatalf("%d won", won)
		}
		login, ok := reply.Login()
		if amr := read(t, login.AccessToken).AMR; !ok || !slices.Equal(amr, []string{"otp"}) {
			t.Errorf("%v %v", ok, amr)
		}
		want(t, "the session", p.verify(t, login.AccessToken), nil)
		p.refresh(t, login.Tokens)
	})
}

func TestACodeTakesAnUnverifiedAccountOver(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		stranger := p.begun(t)
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		reply, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: p.one(t, events.MailLoginCode, adas).Code})
		want(t, "log in", err, nil)
		want(t, "the stranger's session", p.verify(t, stranger.AccessToken), auth.ErrTokenRevoked)
		_, err = p.logIn(t, ada, horse, "")
		want(t, "the stranger's password", err, auth.ErrInvalidCredentials)
		login, _ := reply.Login()
		if !p.account(t, login.Tokens).EmailVerified {
			t.Error("not verified")
		}
	})
}

func TestADisabledUserGetsNoMailAndNoLinkHelps(t *testing.T) {
	eachPostal(t, handlers.VerificationRequired, func(t *testing.T, p *postal) {
		p.verified(t)
		want(t, "forgot", p.forgot(t, ada), nil)
		link := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		code := p.one(t, events.MailLoginCode, adas).Code
		p.execute(t, "UPDATE users SET disabled_at = ?", p.now())

		want(t, "reset", p.reset(t, link, staple), auth.ErrInvalidToken)
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: code})
		want(t, "log in", err, auth.ErrInvalidCredentials)
		want(t, "forgot", p.forgot(t, ada), nil)
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		want(t, "resend", p.resend(t, ada), nil)
		p.enter(t, ada, staple)
		p.none(t, "disabled")
	})
}

func TestNobodyIsToldWhoIsNotThere(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		for _, address := range []string{"nobody@example.com", "no address", "", "nul\x00@example.com", strings.Repeat("a", 10_000) + "@example.com"} {
			want(t, "forgot", p.forgot(t, address), nil)
			want(t, "resend", p.resend(t, address), nil)
			reply, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: address})
			if err != nil || reply.UserID != 0 {
				t.Errorf("%+v, %v", reply, err)
			}
			_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: address, Code: "12345678"})
			want(t, "code", err, auth.ErrInvalidCredentials)
			want(t, "verify", p.verifyCode(t, "x"+address, "12345678"), auth.ErrInvalidToken)
		}
		p.none(t, "nobody")
	})
}

func TestVerifyNeedsOneProof(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		for what, c := range map[string]struct {
			req    auth.EmailVerifyRequest
			wanted error
		}{
			"nothing":    {auth.EmailVerifyRequest{}, auth.ErrInvalid},
			"no code":    {auth.EmailVerifyRequest{Email: ada}, auth.ErrInvalid},
			"no address": {auth.EmailVerifyRequest{Code: "12345678"}, auth.ErrInvalid},
			"both":       {auth.EmailVerifyRequest{Token: "x", Email: ada, Code: "12345678"}, auth.ErrMalformed},
		} {
			_, err := p.emails.Verify(t.Context(), c.req)
			want(t, what, err, c.wanted)
		}
		want(t, "reset without a token", p.reset(t, "", staple), auth.ErrInvalid)
		want(t, "no token of ours", p.reset(t, "\x00\xff", staple), auth.ErrInvalidToken)
	})
}

// Tries at codes are counted for the account whatever they are for, and on each instance.
func TestGuessesAtCodesAreCounted(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationOff)
		second := s.another(t)
		second.limit(t, rules)
		q := post(t, second, handlers.VerificationOff)
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		right := p.one(t, events.MailLoginCode, adas).Code
		guess := func(p *postal, code string) error {
			_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: code})
			return err
		}
		want(t, "log in", guess(p, "0000000x"), auth.ErrInvalidCredentials)
		want(t, "verify", q.verifyCode(t, "ADA@example.com", "0000000x"), auth.ErrInvalidToken)
		want(t, "log in", guess(q, "0000000x"), auth.ErrInvalidCredentials)
		p.login(t) // which does not begin them anew
		want(t, "verify", p.verifyCode(t, ada, "0000000x"), auth.ErrInvalidToken)
		want(t, "log in", guess(p, "0000000x"), auth.ErrInvalidCredentials)
		waits(t, "the right one", guess(q, right), time.Minute)
		waits(t, "verify", p.verifyCode(t, ada, right), time.Minute)
		for range 5 {
			want(t, "another address", p.verifyCode(t, "nobody@example.com", "0000000x"), auth.ErrInvalidToken)
		}
		waits(t, "another address", p.verifyCode(t, "nobody@example.com", "0000000x"), time.Minute)
		p.advance(time.Minute)
		want(t, "later", guess(q, right), nil)
	})
}

func TestMailsToAnAddressAreLimitedWhetherItHasAnAccountOrNot(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationOff)
		for _, address := range []string{ada, "nobody@example.com", "no address"} {
			want(t, "forgot", p.forgot(t, address), nil)
			want(t, "resend", p.resend(t, address), nil)
			_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: address})
			want(t, "code", err, nil)
			waits(t, "forgot", p.forgot(t, address), time.Minute)
			waits(t, "resend", p.resend(t, address), time.Minute)
		}
		if n := len(p.posted(t)); n != 3 {
			t.Errorf("%d mails", n)
		}
		if lines := s.locked(t); len(lines) != 0 {
			t.Errorf("%q", lines)
		}
		p.advance(time.Minute)
		want(t, "later", p.forgot(t, ada), nil)
	})
}

func TestNoticesDoNotBuryAMailbox(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		p := post(t, s, handlers.VerificationOff)
		for i := range 20 {
			_, err := p.logIn(t, ada, horse, fmt.Sprintf("tool%d/1.0", i))
			want(t, "login", err, nil)
		}
		if n := len(p.posted(t)); n != 10 {
			t.Errorf("%d mails", n)
		}
	})
}

func TestNeitherLinksNorCodesAreInTheDatabase(t *testing.T) {
	eachPostal(t, handlers.VerificationOptional, func(t *testing.T, p *postal) {
		p.verified(t)
		want(t, "forgot", p.forgot(t, ada), nil)
		link := linked(t, p.one(t, events.MailReset, adas), "/password/reset")
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		code := p.one(t, events.MailLoginCode, adas).Code
		dump := p.dump(t)
		if strings.Contains(dump, link) || strings.Contains(dump, "= "+code) {
			t.Error("the dump holds a link or a code")
		}
	})
}

// A digest is bound to the address: the same code of two accounts is stored differently.
func TestEqualCodesDiffer(t *testing.T) {
	eachPostal(t, handlers.VerificationOff, func(t *testing.T, p *postal) {
		p.register(t)
		_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
		want(t, "ask", err, nil)
		code := p.one(t, events.MailLoginCode, adas).Code
		if _, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: bobs, Password: horse}); err != nil {
			t.Fatal(err)
		}
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: bobs, Code: code})
		want(t, "ada's code for bob", err, auth.ErrInvalidCredentials)
		want(t, "for another purpose", p.verifyCode(t, ada, code), auth.ErrInvalidToken)
		_, err = p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: code})
		want(t, "ada's code for ada", err, nil)
	})
}

// Requests about one address and its account wait for each other, never in a circle.
func TestWhateverComesAtOnceNothingFails(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		generous := rules
		many := []gcra.Limit{{Burst: 99, Interval: time.Minute}}
		generous.Mail, generous.MailAccount, generous.Login, generous.LoginAccount = many, many, many, many
		s.limit(t, generous)
		s.sessions.Limit = 3
		p := post(t, s, handlers.VerificationRequired)
		tokens := p.verified(t)
		instances := []*postal{p, p.another(t)}
		asks := []func(p *postal, i int) error{
			func(p *postal, _ int) error { return p.forgot(t, ada) },
			func(p *postal, _ int) error { return p.resend(t, ada) },
			func(p *postal, _ int) error {
				_, err := p.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: staple})
				return err
			},
			func(p *postal, i int) error {
				_, err := p.logIn(t, ada, horse, fmt.Sprintf("tool%d/1.0", i))
				return err
			},
			func(p *postal, _ int) error { _, err := p.logIn(t, ada, "wrong", ""); return err },
			func(p *postal, _ int) error { return p.change(t, tokens, adas, horse) },
			func(p *postal, _ int) error {
				_, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: p.bearer(tokens), CurrentPassword: horse, NewPassword: horse})
				return err
			},
			func(p *postal, _ int) error {
				_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
				return err
			},
		}
		for _, err := range atOnce(10*len(asks), func(i int) error { return asks[i%len(asks)](instances[i/len(asks)%2], i) }) {
			switch code := auth.Public(err).Code; {
			case err == nil:
			case slices.Contains([]auth.Code{auth.CodeInvalidCredentials, auth.CodeConflict, auth.CodeTokenRevoked, auth.CodeRateLimited}, code):
			default:
				t.Error(err)
			}
		}
	})
}
