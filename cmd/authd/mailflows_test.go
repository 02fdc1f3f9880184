package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testpg"
)

// letters is a testoutbox.Letters with the names of this package.
type letters struct{ *testoutbox.Letters }

func openLetters(t *testing.T, database, master string) *letters {
	t.Helper()
	return &letters{testoutbox.OpenLetters(t, database, master)}
}

// lettersOf reads the mails of an instance on SQLite.
func lettersOf(t *testing.T, a *instance) *letters {
	t.Helper()
	return &letters{testoutbox.LettersOf(t, a.dir)}
}

// all returns the mails since the last call.
func (l *letters) all(t *testing.T) []events.Mail {
	t.Helper()
	return l.All(t)
}

// next returns the last mail since the last call, which must be of the kind.
func (l *letters) next(t *testing.T, kind events.MailKind) events.Mail {
	t.Helper()
	return l.Next(t, kind)
}

// verify is a request to verify an address by the next one, with a password.
func (l *letters) verify(t *testing.T, password string) string {
	t.Helper()
	return verification(tokenOf(t, l.next(t, events.MailVerify)), password)
}

// verification is a request to verify an address by a token, with a password.
func verification(token, password string) string {
	return `{"token":"` + token + `","password":"` + password + `"}`
}

// token is a request with what stands behind the # of the next one's link.
func (l *letters) token(t *testing.T, kind events.MailKind) string {
	t.Helper()
	return `{"token":"` + tokenOf(t, l.next(t, kind)) + `"}`
}

var tokenOf = testoutbox.Token

// reset is a request to set a password by the next one.
func (l *letters) reset(t *testing.T, password string) string {
	t.Helper()
	return strings.TrimSuffix(l.token(t, "password_reset"), "}") + `,"newPassword":"` + password + `"}`
}

// postOffice is a house with mail.
type postOffice struct {
	instances []*instance
	conns     []*nats.Conn
	box       *letters
}

var withMail = []string{"--mailer=off", "--mail-login=on", "--rate-limits=off"}

// eachPostOffice runs f on either database, on Postgres with two instances.
func eachPostOffice(t *testing.T, f func(t *testing.T, o postOffice), flags ...string) {
	t.Parallel()
	flags = slices.Concat(withMail, flags)
	for name, open := range map[string]func(*testing.T) postOffice{
		"SQLite": func(t *testing.T) postOffice {
			a := startInside(t, flags...)
			return postOffice{instances: []*instance{a}, box: lettersOf(t, a)}
		},
		"two instances on Postgres": func(t *testing.T) postOffice {
			url := testpg.URL(t)
			flags := append(withPostgres(url), flags...)
			return postOffice{instances: []*instance{start(t, flags...), startInside(t, flags...)}, box: openLetters(t, url, masterSecret)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := open(t)
			for _, a := range o.instances {
				o.conns = append(o.conns, connect(t, a.nats))
			}
			f(t, o)
		})
	}
}

// door sends a request over HTTP or over the bus: to a path and its subject.
type door func(t *testing.T, path, subject, body string) exchange

// doors are those of all instances.
func (o postOffice) doors() (all []door) {
	for i, a := range o.instances {
		all = append(all,
			func(t *testing.T, path, _, body string) exchange { return a.post(t, path, body) },
			func(t *testing.T, _, subject, body string) exchange {
				return ask(t, o.conns[i], subject, nil, sentFrom(loopback, body))
			})
	}
	return all
}

const adaAlone = `{"email":"ada@example.com"}`

func TestARegistrationWaitsForItsMail(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		doors := o.doors()
		for i, door := range doors {
			other := doors[(i+1)%len(doors)]
			body := login(fmt.Sprintf("user%d@example.com", i), "correct horse battery")
			door(t, "/register", "auth.register", body).done(t)
			refused := other(t, "/login", "auth.login", body)
			refused.refused(t, 401, "invalid_credentials", "")
			token := o.box.verify(t, "correct horse battery")
			other(t, "/email/verify", "auth.email.verify", token).done(t)
			door(t, "/email/verify", "auth.email.verify", token).refused(t, 401, "invalid_token", "")
			access := door(t, "/login", "auth.login", body).member(t, "accessToken")
			if got := o.instances[0].get(t, "/me", access).Answer.Body; !strings.Contains(got, `"emailVerified":true`) {
				t.Errorf("%s", got)
			}
		}
	}, "--email-verification=required")
}

// verified makes ada's account.
func (o postOffice) verified(t *testing.T) {
	t.Helper()
	o.instances[0].post(t, "/register", credentials).done(t)
	o.instances[0].post(t, "/email/verify", o.box.verify(t, "correct horse battery")).answered(t, 204, "")
}

func TestAForgottenPasswordThroughAnyDoor(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		o.verified(t)
		doors := o.doors()
		for i, door := range doors {
			other := doors[(i+1)%len(doors)]
			password := fmt.Sprintf("battery staple %d", i)
			before := o.instances[0].post(t, "/login", login("ada@example.com", map[bool]string{true: "correct horse battery", false: fmt.Sprintf("battery staple %d", i-1)}[i == 0]))
			door(t, "/password/forgot", "auth.password.forgot", adaAlone).done(t)
			older := o.box.reset(t, password)
			other(t, "/password/forgot", "auth.password.forgot", adaAlone).done(t)
			newest := o.box.reset(t, password)
			door(t, "/password/reset", "auth.password.reset", older).refused(t, 401, "invalid_token", "")
			other(t, "/password/reset", "auth.password.reset", strings.Replace(newest, "battery staple", "a", 1)).refused(t, 422, "validation_failed", `[{"field":"newPassword","reason":"too_short"}]`)
			door(t, "/password/reset", "auth.password.reset", newest).done(t)
			other(t, "/password/reset", "auth.password.reset", newest).refused(t, 401, "invalid_token", "")
			until(t, "the session has ended", func() bool {
				return o.instances[0].get(t, "/verify", before.member(t, "accessToken")).Answer.Status == 401
			})
			other(t, "/login", "auth.login", login("ada@example.com", password)).member(t, "accessToken")

			other(t, "/not-me", "auth.password.not_me", o.box.token(t, "password_changed")).done(t)
			door(t, "/password/reset", "auth.password.reset", o.box.reset(t, password)).done(t)
		}
	}, "--email-verification=optional", "--new-device-notice=off")
}

func TestAnAddressChangesAndComesBackThroughAnyDoor(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		o.verified(t)
		doors := o.doors()
		for i, door := range doors {
			other := doors[(i+1)%len(doors)]
			a, conn := o.instances[i/2], o.conns[i/2]
			session := a.post(t, "/login", credentials)
			own := bearer(session.member(t, "accessToken"))
			body := `{"newEmail":"Countess@example.com","password":"correct horse battery"}`
			if i%2 == 0 {
				inJSON := map[string][]string{"Authorization": own["Authorization"], "Content-Type": {"application/json"}}
				a.do(t, "POST /me/email", inJSON, strings.Replace(body, "correct", "wrong", 1)).refused(t, 401, "invalid_credentials", "")
				a.do(t, "POST /me/email", inJSON, body).done(t)
			} else {
				ask(t, conn, "auth.email.change", own, strings.Replace(body, "correct", "wrong", 1)).refused(t, 401, "invalid_credentials", "")
				ask(t, conn, "auth.email.change", own, body).done(t)
			}
			mail := o.box.next(t, "email_change")
			if mail.To != "Countess@example.com" {
				t.Errorf("%+v", mail)
			}
			token := `{"token":"` + tokenOf(t, mail) + `"}`
			other(t, "/email/undo", "auth.email.undo", token).refused(t, 401, "invalid_token", "")
			other(t, "/email/confirm", "auth.email.confirm", token).refused(t, 403, "reauthentication_required", `[{"field":"password","reason":"required"}]`)
			other(t, "/email/confirm", "auth.email.confirm", withPassword(token, "wrong horse battery")).refused(t, 401, "invalid_credentials", "")
			other(t, "/email/confirm", "auth.email.confirm", withPassword(token, "correct horse battery")).done(t)
			if got := a.do(t, "GET /me", own, "").Answer.Body; !strings.Contains(got, `"email":"Countess@example.com"`) {
				t.Errorf("%s", got)
			}
			mail = o.box.next(t, "email_changed")
			if mail.To != "ada@example.com" {
				t.Errorf("%+v", mail)
			}
			door(t, "/email/undo", "auth.email.undo", `{"token":"`+tokenOf(t, mail)+`"}`).done(t)
			a.do(t, "GET /me", own, "").refused(t, 401, "token_revoked", "")
			other(t, "/login", "auth.login", credentials).refused(t, 401, "invalid_credentials", "")
			other(t, "/password/reset", "auth.password.reset", o.box.reset(t, "correct horse battery")).done(t)
			other(t, "/login", "auth.login", credentials).member(t, "accessToken")
			o.box.all(t)
		}
	}, "--email-verification=optional", "--new-device-notice=off")
}

// withPassword adds a password to the token of a mail.
func withPassword(token, password string) string {
	return strings.TrimSuffix(token, "}") + `,"password":"` + password + `"}`
}

// A stranger asks for a change of the address of his account to that of a victim, who follows the
// link of the mail: neither the link nor a session of the victim gives the stranger's account the address.
func TestTheLinkOfAStrangerChangesNoAddress(t *testing.T) {
	t.Parallel()
	a := startInside(t, append([]string{"--email-verification=optional", "--new-device-notice=off"}, withMail...)...)
	box := lettersOf(t, a)
	sign := func(address, password string) map[string][]string {
		t.Helper()
		a.post(t, "/register", login(address, password)).done(t)
		header := bearer(a.post(t, "/login", login(address, password)).member(t, "accessToken"))
		header["Content-Type"] = []string{"application/json"}
		return header
	}
	stranger, victim := sign("mallory@example.com", "battery staple horse"), sign("ada@example.com", "correct horse battery")
	a.do(t, "POST /me/email", stranger, `{"newEmail":"countess@example.com","password":"battery staple horse"}`).done(t)
	link := box.token(t, events.MailChange)

	const required = `[{"field":"password","reason":"required"}]`
	a.post(t, "/email/confirm", link).refused(t, 403, "reauthentication_required", required)
	a.do(t, "POST /email/confirm", victim, link).refused(t, 403, "reauthentication_required", required)
	a.do(t, "POST /email/confirm", victim, withPassword(link, "correct horse battery")).refused(t, 401, "invalid_credentials", "")
	cookie := map[string][]string{"Content-Type": {"application/json"}, "Cookie": {"__Host-access=" + strings.TrimPrefix(stranger["Authorization"][0], "Bearer ")}}
	a.do(t, "POST /email/confirm", cookie, link).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
	a.post(t, "/login", login("countess@example.com", "battery staple horse")).refused(t, 401, "invalid_credentials", "")

	cookie["Sec-Fetch-Site"] = []string{"same-origin"}
	a.do(t, "POST /email/confirm", cookie, link).answered(t, 204, "") // the link is still good for its owner
	a.do(t, "POST /email/confirm", stranger, link).refused(t, 401, "invalid_token", "")
	a.post(t, "/login", login("countess@example.com", "battery staple horse")).done(t)
}

func TestACodeLogsInThroughAnyDoor(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		o.verified(t)
		doors := o.doors()
		for i, door := range doors {
			other := doors[(i+1)%len(doors)]
			door(t, "/login/code", "auth.login.code", adaAlone).done(t)
			code := `{"email":"ADA@example.com","code":"` + o.box.next(t, "login_code").Code + `"}`
			other(t, "/login/code", "auth.login.code", `{"email":"ada@example.com","code":"x"}`).refused(t, 401, "invalid_credentials", "")
			access := other(t, "/login/code", "auth.login.code", code).done(t).member(t, "accessToken")
			until(t, "the token is good everywhere", func() bool {
				e := o.instances[i/2].get(t, "/verify", access)
				return e.Answer.Status == 200 && strings.Contains(e.Answer.Body, `"amr":["otp"]`)
			})
			door(t, "/login/code", "auth.login.code", code).refused(t, 401, "invalid_credentials", "")
		}
	}, "--email-verification=optional")
}

func TestACodeLogsInWithCookies(t *testing.T) {
	t.Parallel()
	a := startInside(t, withMail...)
	box := lettersOf(t, a)
	a.post(t, "/register", credentials)
	ask := func() string {
		a.post(t, "/login/code", adaAlone).done(t)
		return `{"email":"ada@example.com","carrier":"cookie","code":"` + box.next(t, "login_code").Code + `"}`
	}
	body := ask()
	a.post(t, "/login/code", body).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
	b := from(a)
	b.send(t, "POST /login/code", body).answered(t, 200, `{"message":"Login successful","userId":1,`+kept+`}`)
	b.send(t, "GET /me", "").done(t)
	b.send(t, "POST /refresh", "").done(t)
	first := b.send(t, "GET /sessions", "").Answer.Body
	b.send(t, "POST /login/code", ask()).done(t)
	if again := b.send(t, "GET /sessions", "").Answer.Body; strings.Count(first, "sessionId") != 1 || strings.Count(again, "sessionId") != 1 {
		t.Errorf("%s\n%s", first, again)
	}
}

// Of fifty uses at once, on two instances, one is carried out.
func TestOfFiftyUsesAtOnceOneWins(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		registered := o.instances[0].post(t, "/register", credentials).done(t)
		cookie := (&http.Response{Header: registered.Answer.Header}).Cookies()[0]
		header := map[string][]string{ // of the browser that registered, so that no password is hashed
			"Content-Type": {"application/json"}, "Sec-Fetch-Site": {"same-origin"}, "Cookie": {cookie.Name + "=" + cookie.Value},
		}
		token := o.box.token(t, events.MailVerify)
		answers := make([]exchange, 50)
		check(t, all(len(answers), func(i int) (err error) {
			answers[i], err = o.instances[i%len(o.instances)].try("POST /email/verify", header, token)
			return err
		}))
		won := 0
		for _, e := range answers {
			if e.Answer.Status == http.StatusNoContent {
				won++
				continue
			}
			e.refused(t, 401, "invalid_token", "")
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
	}, "--email-verification=required")
}

// Neither status nor headers nor body tell who has an account, or in which state it is.
func TestNoAnswerTellsWhoHasAnAccount(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		o.verified(t)
		a := o.instances[0]
		a.post(t, "/register", login("disabled@example.com", "correct horse battery")).done(t)
		a.post(t, "/email/verify", o.box.verify(t, "correct horse battery")).answered(t, 204, "")
		check(t, func() error {
			_, err := o.box.Store.DB().ExecContext(t.Context(), "UPDATE users SET disabled_at = updated_at WHERE email = ?", "disabled@example.com")
			return err
		}())
		a.post(t, "/register", login("waiting@example.com", "correct horse battery")).done(t)
		for _, c := range []struct{ path, subject, members string }{
			{"/register", "auth.register", `,"password":"correct horse battery"`},
			{"/login", "auth.login", `,"password":"incorrect horse"`},
			{"/email/resend", "auth.email.resend", ""},
			{"/password/forgot", "auth.password.forgot", ""},
			{"/login/code", "auth.login.code", ""},
			{"/login/code", "auth.login.code", `,"code":"x"`},
			{"/email/verify", "auth.email.verify", `,"code":"x"`},
		} {
			for i, door := range o.doors() {
				var first exchange
				for _, name := range []string{"ada", "nobody", "disabled", "waiting"} {
					e := door(t, c.path, c.subject, `{"email":"`+name+`@example.com"`+c.members+`}`)
					delete(e.Answer.Header, "Date")
					delete(e.Answer.Header, "X-Request-Id")
					if name == "ada" {
						first = e
						continue
					}
					if got, want := mask(encode(t, e.Answer)+e.Answer.Body), mask(encode(t, first.Answer)+first.Answer.Body); got != want {
						t.Errorf("door %d, %s: %s is answered by %s\nada by %s", i, c.path, name, got, want)
					}
				}
			}
		}
		// The right password of an account that waits, or is disabled, is as good as a wrong one.
		for _, door := range o.doors() {
			want := door(t, "/login", "auth.login", login("nobody@example.com", "correct horse battery"))
			for _, name := range []string{"waiting", "disabled"} {
				got := door(t, "/login", "auth.login", login(name+"@example.com", "correct horse battery"))
				if got.Answer.Status != want.Answer.Status || got.Answer.Body != want.Answer.Body {
					t.Errorf("%s: %d %s", name, got.Answer.Status, got.Answer.Body)
				}
			}
		}
		for _, m := range o.box.all(t) {
			if m.To == "disabled@example.com" || m.To == "nobody@example.com" && m.Kind != events.MailVerify {
				t.Errorf("%s to %s", m.Kind, m.To)
			}
		}
	}, "--email-verification=required")
}

func TestWithoutMailItsRoutesAreNotFound(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--mailbox=off")
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	own := bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
	inJSON := map[string][]string{"Authorization": own["Authorization"], "Content-Type": {"application/json"}}
	const change = `{"newEmail":"bob@example.com","password":"correct horse battery"}`
	a.do(t, "POST /me/email", inJSON, change).refused(t, 404, "not_found", "")
	ask(t, conn, "auth.email.change", own, change).refused(t, 404, "not_found", "")
	const token = `{"token":"WQ3VYHJ2LK5NBX7TRC4MDZ6PGA"}`
	for _, c := range []struct{ path, subject, body string }{
		{"/email/verify", "auth.email.verify", token},
		{"/email/resend", "auth.email.resend", adaAlone},
		{"/email/confirm", "auth.email.confirm", token},
		{"/email/undo", "auth.email.undo", token},
		{"/password/forgot", "auth.password.forgot", adaAlone},
		{"/password/reset", "auth.password.reset", `{"token":"x","newPassword":"battery staple horse"}`},
		{"/not-me", "auth.password.not_me", token},
		{"/login/code", "auth.login.code", adaAlone},
	} {
		a.post(t, c.path, c.body).refused(t, 404, "not_found", "")
		ask(t, conn, c.subject, nil, c.body).refused(t, 404, "not_found", "")
	}
}

func TestMailsAndCodesAreLimited(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--mailer=off", "--mail-login=on")
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	for _, address := range []string{adaAlone, `{"email":"nobody@example.com"}`} {
		a.post(t, "/password/forgot", address).done(t)
		ask(t, conn, "auth.email.resend", nil, sentFrom(loopback, address)).done(t)
		a.post(t, "/login/code", address).done(t)
		a.post(t, "/password/forgot", address).limited(t)
		ask(t, conn, "auth.login.code", nil, sentFrom(loopback, address)).limited(t)

		guess := strings.Replace(address, "}", `,"code":"x"}`, 1)
		for range 2 {
			a.post(t, "/login/code", guess).refused(t, 401, "invalid_credentials", "")
			a.post(t, "/email/verify", guess).refused(t, 401, "invalid_token", "")
		}
		ask(t, conn, "auth.login.code", nil, sentFrom(loopback, guess)).refused(t, 401, "invalid_credentials", "")
		a.post(t, "/login/code", guess).limited(t)
		ask(t, conn, "auth.email.verify", nil, sentFrom(loopback, guess)).limited(t)
	}
}

// To open the page of a link changes nothing, and the page takes nothing from elsewhere.
func TestThePagesOfLinksChangeNothing(t *testing.T) {
	t.Parallel()
	a := startInside(t, append([]string{"--email-verification=required"}, withMail...)...)
	box := lettersOf(t, a)
	a.post(t, "/register", credentials).done(t)
	mail := box.next(t, "verify_email")
	if !strings.HasPrefix(mail.Link, "http://localhost:3000/email/verify#token=") {
		t.Errorf("link %s", mail.Link)
	}
	for _, path := range []string{"/email/verify", "/password/reset", "/email/change", "/email/undo", "/not-me"} {
		for _, line := range []string{"GET " + path, "HEAD " + path} {
			e := a.do(t, line, map[string][]string{"X-Forwarded-Host": {"evil.example"}}, "")
			e.has(t, map[string]string{
				"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
				"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
					"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			})
			if e.Answer.Status != 200 || strings.Contains(e.Answer.Body, "evil") || strings.Contains(e.Answer.Body, "//") || strings.Contains(e.Answer.Body, "<script>") {
				t.Errorf("%s: %d %s", line, e.Answer.Status, e.Answer.Body)
			}
		}
	}
	a.post(t, "/login", credentials).refused(t, 401, "invalid_credentials", "")
	a.post(t, "/email/verify", verification(tokenOf(t, mail), "correct horse battery")).answered(t, 204, "")
	for file, kind := range map[string]string{"/confirm.js": "text/javascript; charset=utf-8", "/confirm.css": "text/css; charset=utf-8"} {
		e := a.get(t, file, "")
		e.has(t, map[string]string{"Content-Type": kind, "Cache-Control": "public, max-age=300"})
	}
}

func TestMailsAreInTheLanguageOfTheAccount(t *testing.T) {
	eachPostOffice(t, func(t *testing.T, o postOffice) {
		a := o.instances[0]
		a.post(t, "/register", `{"email":"ada@example.com","password":"correct horse battery","locale":"pt-BR"}`).done(t)
		m := o.box.next(t, events.MailVerify)
		if m.Locale != "pt-BR" {
			t.Errorf("%+v", m)
		}
		a.post(t, "/email/verify", verification(tokenOf(t, m), "correct horse battery")).answered(t, 204, "")
		own := bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
		own["Content-Type"] = []string{"application/json"}
		if e := a.do(t, "PATCH /me", own, `{"locale":"de-AT"}`); !strings.Contains(e.Answer.Body, `"locale":"de-AT"`) {
			t.Errorf("%s", e.Answer.Body)
		}
		for _, bad := range []string{"no language", "x", strings.Repeat("de-", 20) + "de"} {
			if e := a.do(t, "PATCH /me", own, `{"locale":"`+bad+`"}`); e.Answer.Status != 422 {
				t.Errorf("%q: %d %s", bad, e.Answer.Status, e.Answer.Body)
			}
		}
		a.post(t, "/password/forgot", adaAlone).done(t)
		if m := o.box.next(t, events.MailReset); m.Locale != "de-AT" {
			t.Errorf("%+v", m)
		}
	}, "--email-verification=required")
}
