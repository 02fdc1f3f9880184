package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testsmtp"
)

// comes waits for the next mail to somebody, whose subject is to end so.
func comes(t *testing.T, inbox *testsmtp.Server, to, subject string) testsmtp.Letter {
	t.Helper()
	l := inbox.Wait(t, to)
	if !strings.HasSuffix(l.Subject(), subject) {
		t.Fatalf("%s got %q, want %q", to, l.Subject(), subject)
	}
	return l
}

// answerTo is a request with what stands behind the # of a letter's link, which leads to the page.
func answerTo(t *testing.T, l testsmtp.Letter, page string) string {
	t.Helper()
	before, token, ok := strings.Cut(l.Link, "#token=")
	if !ok || !strings.HasSuffix(before, page) {
		t.Fatalf("link %q, want one to %s", l.Link, page)
	}
	token, _, _ = strings.Cut(token, "&")
	return `{"token":"` + token + `"}`
}

// Everything that is done by mail, with the mails that a mail server took, through both doors.
func TestTheStoryOfAnAccountByMail(t *testing.T) {
	t.Parallel()
	for name, deploy := range map[string]func(t *testing.T, flags []string) *instance{
		"SQLite": func(t *testing.T, flags []string) *instance { return startInside(t, flags...) },
		"Postgres": func(t *testing.T, flags []string) *instance {
			return start(t, append(withPostgres(testpg.URL(t)), flags...)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inbox, flags := startSMTP(t)
			a := deploy(t, append(flags, "--email-verification=required", "--mail-login=on", "--rate-limits=off"))
			o := postOffice{instances: []*instance{a}}
			o.conns = append(o.conns, connect(t, a.nats))
			for i, door := range o.doors() {
				storyByMail(t, a, door, inbox, fmt.Sprintf("ada%d@example.com", i), fmt.Sprintf("new%d@example.com", i))
			}
		})
	}
}

func storyByMail(t *testing.T, a *instance, door door, inbox *testsmtp.Server, ada, elsewhere string) {
	t.Helper()
	adaAlone := `{"email":"` + ada + `"}`
	door(t, "/register", "auth.register", login(ada, "correct horse battery")).done(t)
	door(t, "/login", "auth.login", login(ada, "correct horse battery")).refused(t, 401, "invalid_credentials", "")
	verify := answerTo(t, comes(t, inbox, ada, "Confirm your address"), "/email/verify")
	door(t, "/email/verify", "auth.email.verify", verify).refused(t, 403, "reauthentication_required", `[{"field":"password","reason":"required"}]`)
	verify = strings.TrimSuffix(verify, "}") + `,"password":"correct horse battery"}`
	door(t, "/email/verify", "auth.email.verify", verify).done(t)
	first := door(t, "/login", "auth.login", login(ada, "correct horse battery")).member(t, "accessToken")

	door(t, "/register", "auth.register", login(ada, "somebody else's words")).done(t) // told as the first was
	comes(t, inbox, ada, "You have an account already")

	door(t, "/password/forgot", "auth.password.forgot", adaAlone).done(t)
	reset := answerTo(t, comes(t, inbox, ada, "Choose a new password"), "/password/reset")
	reset = strings.TrimSuffix(reset, "}") + `,"newPassword":"battery staple horse"}`
	door(t, "/password/reset", "auth.password.reset", reset).done(t)
	door(t, "/password/reset", "auth.password.reset", reset).refused(t, 401, "invalid_token", "")
	a.get(t, "/me", first).refused(t, 401, "token_revoked", "")
	notMe := answerTo(t, comes(t, inbox, ada, "Your password was changed"), "/not-me")

	door(t, "/login/code", "auth.login.code", adaAlone).done(t)
	letter := comes(t, inbox, ada, " is your code")
	byCode := door(t, "/login/code", "auth.login.code", `{"email":"`+ada+`","code":"`+letter.Code+`"}`).member(t, "accessToken")
	if e := a.get(t, "/verify", byCode); !strings.Contains(e.Answer.Body, `"amr":["otp"]`) {
		t.Errorf("%s", e.Answer.Body)
	}

	third := door(t, "/login", "auth.login", login(ada, "battery staple horse")).member(t, "accessToken")
	door(t, "/not-me", "auth.password.not_me", notMe).done(t)
	a.get(t, "/me", third).refused(t, 401, "token_revoked", "")
	door(t, "/login", "auth.login", login(ada, "battery staple horse")).refused(t, 401, "invalid_credentials", "")
	again := answerTo(t, comes(t, inbox, ada, "Choose a new password"), "/password/reset")
	again = strings.TrimSuffix(again, "}") + `,"newPassword":"battery staple horse"}`
	door(t, "/password/reset", "auth.password.reset", again).done(t)
	comes(t, inbox, ada, "Your password was changed")

	second := door(t, "/login", "auth.login", login(ada, "battery staple horse")).member(t, "accessToken")
	own := bearer(second)
	own["Content-Type"] = []string{"application/json"}
	a.do(t, "POST /me/email", own, `{"newEmail":"`+elsewhere+`","password":"battery staple horse"}`).done(t)
	door(t, "/email/confirm", "auth.email.confirm", withPassword(answerTo(t, comes(t, inbox, elsewhere, "Confirm your new address"), "/email/change"), "battery staple horse")).done(t)
	door(t, "/login", "auth.login", login(ada, "battery staple horse")).refused(t, 401, "invalid_credentials", "")
	door(t, "/email/undo", "auth.email.undo", answerTo(t, comes(t, inbox, ada, "The address of your account was changed"), "/email/undo")).done(t)
	door(t, "/login", "auth.login", login(ada, "battery staple horse")).refused(t, 401, "invalid_credentials", "")
	comes(t, inbox, elsewhere, "The address of your account was changed")
	last := answerTo(t, comes(t, inbox, ada, "Choose a new password"), "/password/reset")
	last = strings.TrimSuffix(last, "}") + `,"newPassword":"battery staple horse"}`
	door(t, "/password/reset", "auth.password.reset", last).done(t)
	door(t, "/login", "auth.login", login(ada, "battery staple horse")).done(t)
}
