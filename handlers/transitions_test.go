package handlers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
)

// actors share an account of ada's address: its owner reads the mail of ada@example.com, a stranger
// knows the address, and an intruder reads evil@example.com and may have the password and a session.
type actors struct {
	*postal
	session auth.Tokens                // of the account, if it has been logged in to
	links   map[events.MailKind]string // the newest of each kind, to ada's address
	evil    map[events.MailKind]string // to evil@example.com
}

const evil = "evil@example.com"

// read keeps the links of the mails since the last time.
func (a *actors) read(t *testing.T) {
	t.Helper()
	pages := map[events.MailKind]string{
		events.MailVerify: "/email/verify", events.MailReset: "/password/reset", events.MailChange: "/email/change",
		events.MailChanged: "/email/undo", events.MailPasswordChanged: "/not-me", events.MailNewDevice: "/not-me",
	}
	for _, m := range a.posted(t) {
		box := map[string]map[events.MailKind]string{adas: a.links, evil: a.evil}[m.To]
		if m.Link != "" && box != nil {
			box[m.Kind] = linked(t, m, pages[m.Kind])
		}
	}
}

// state is that of the account of ada's, as docs/accounts.md names it.
func (a *actors) state(t *testing.T) string {
	t.Helper()
	user, err := a.store.User(t.Context(), 1)
	rows := func(purpose string) int {
		n, err := a.store.DB().NewSelect().Table("one_time_tokens").Where("purpose = ? AND expires_at > ?", purpose, a.now()).Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	switch {
	case err != nil && rows("verify") > 0:
		return "pending"
	case err != nil:
		return "nothing"
	case !user.EmailVerified:
		return "unverified"
	case a.stored(t) == "":
		return "contained"
	case rows("change") > 0 && !a.ended(t, a.session.SessionID):
		return "changing"
	case rows("undo") > 0:
		return "changed"
	}
	return "verified"
}

// reach brings a new account into a state.
func (a *actors) recipientFor(t *testing.T, state string) {
	t.Helper()
	if a.accounts.Verification == handlers.VerificationRequired {
		a.enter(t, ada, horse)
	} else {
		a.register(t)
		a.session = a.login(t).Tokens
	}
	a.read(t)
	for _, next := range []struct {
		state string
		step  func()
	}{
		{"verified", func() {
			want(t, "resend", a.resend(t, ada), nil)
			a.read(t)
			want(t, "verify", a.verifyLink(t, a.links[events.MailVerify]), nil)
			a.session = a.login(t).Tokens
		}},
		{"changing", func() { want(t, "change", a.change(t, a.session, evil, horse), nil) }},
		{"changed", func() { want(t, "confirm", a.confirm(t, a.evil[events.MailChange]), nil) }},
		{"contained", func() { want(t, "undo", a.undo(t, a.links[events.MailChanged]), nil) }},
	} {
		if a.state(t) == state {
			return
		}
		next.step()
		a.advance(time.Second)
		a.read(t)
	}
	if got := a.state(t); got != state {
		t.Fatalf("the account is %s, want %s", got, state)
	}
}

// byStranger sends what anybody can who knows an address. Nothing of it changes the account.
func (a *actors) byStranger(t *testing.T) {
	t.Helper()
	const guess = "WQ3VYHJ2LK5NBX7TRC4MDZ6PGA"
	_, err := a.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: staple, Name: "Mallory"})
	if err != nil {
		want(t, "register", err, auth.ErrEmailTaken)
	}
	_, err = a.logIn(t, ada, staple, "")
	want(t, "log in", err, auth.ErrInvalidCredentials)
	want(t, "forgot", a.forgot(t, ada), nil)
	want(t, "resend", a.resend(t, ada), nil)
	_, err = a.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada})
	want(t, "ask for a code", err, nil)
	_, err = a.codes.Login(t.Context(), auth.LoginCodeRequest{Email: ada, Code: "0000000x"})
	want(t, "guess a code", err, auth.ErrInvalidCredentials)
	want(t, "verify", a.verifyLink(t, guess), auth.ErrInvalidToken)
	want(t, "reset", a.reset(t, guess, staple), auth.ErrInvalidToken)
	want(t, "confirm", a.confirm(t, guess), auth.ErrInvalidToken)
	want(t, "undo", a.undo(t, guess), auth.ErrInvalidToken)
	want(t, "not me", a.notMe(t, guess), auth.ErrInvalidToken)
}

// transitions are the steps of docs/accounts.md.
var transitions = []struct {
	by, name, from, to string
	step               func(t *testing.T, a *actors) error
	err                error
}{
	{"owner", "verifies", "pending", "verified", func(t *testing.T, a *actors) error { return a.verifyLink(t, a.links[events.MailVerify]) }, nil},
	{"owner", "verifies after another mail", "unverified", "verified", func(t *testing.T, a *actors) error {
		want(t, "resend", a.resend(t, ada), nil)
		a.read(t)
		return a.verifyLink(t, a.links[events.MailVerify])
	}, nil},
	{"owner", "resets the password", "unverified", "verified", ownerResets, nil},
	{"owner", "resets the password", "verified", "verified", ownerResets, nil},
	{"owner", "logs the session out", "changing", "verified", func(t *testing.T, a *actors) error { return a.logout(t, a.session.AccessToken, "") }, nil},
	{"owner", "undoes the change", "changed", "contained", func(t *testing.T, a *actors) error { return a.undo(t, a.links[events.MailChanged]) }, nil},
	{"owner", "waits too long to undo", "changed", "verified", func(_ *testing.T, a *actors) error { a.advance(alarmTTL); return nil }, nil},
	{"owner", "sets a password", "contained", "verified", func(t *testing.T, a *actors) error { return a.reset(t, a.links[events.MailReset], horse) }, nil},
	{"owner", "says that it was not them", "verified", "contained", func(t *testing.T, a *actors) error {
		_, err := a.logIn(t, ada, horse, firefox)
		want(t, "a new device", err, nil)
		_, err = a.logIn(t, ada, horse, "curl/8")
		want(t, "another new device", err, nil)
		a.read(t)
		return a.notMe(t, a.links[events.MailNewDevice])
	}, nil},

	{"intruder", "verifies by no mail", "unverified", "unverified", func(t *testing.T, a *actors) error {
		_, err := a.emails.Verify(t.Context(), auth.EmailVerifyRequest{Bearer: a.bearer(a.session), Email: ada, Code: "0000000x"})
		return err
	}, auth.ErrInvalidToken},
	{"intruder", "changes the address", "verified", "changing", func(t *testing.T, a *actors) error { return a.change(t, a.session, evil, horse) }, nil},
	{"intruder", "changes the address without the password", "verified", "verified", func(t *testing.T, a *actors) error { return a.change(t, a.session, evil, "") }, auth.ErrInvalidCredentials},
	{"intruder", "confirms", "changing", "changed", func(t *testing.T, a *actors) error { return a.confirm(t, a.evil[events.MailChange]) }, nil},
	{"intruder", "confirms after an operator ended the session", "changing", "verified", func(t *testing.T, a *actors) error {
		_, err := operator(a.service).EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: 1})
		want(t, "end", err, nil)
		return a.confirm(t, a.evil[events.MailChange])
	}, auth.ErrInvalidToken},
	{"intruder", "resets the password at the new address", "changed", "changed", func(t *testing.T, a *actors) error {
		want(t, "forgot", a.forgot(t, evil), nil)
		a.read(t)
		return a.reset(t, a.evil[events.MailReset], staple)
	}, nil},
	{"intruder", "undoes a second change", "changed", "contained", func(t *testing.T, a *actors) error {
		want(t, "change", a.change(t, a.session, "worse@example.com", horse), nil)
		for _, m := range a.posted(t) {
			want(t, "confirm", a.confirm(t, linked(t, m, "/email/change")), nil)
		}
		a.read(t)
		want(t, "undo", a.undo(t, a.evil[events.MailChanged]), nil)
		return a.undo(t, a.links[events.MailChanged]) // the owner's
	}, nil},
	{"intruder", "uses the password and session of before", "contained", "contained", func(t *testing.T, a *actors) error {
		for _, address := range []string{ada, evil} {
			_, err := a.logIn(t, address, horse, "")
			want(t, "log in", err, auth.ErrInvalidCredentials)
		}
		_, err := a.tryRefresh(t, a.session.RefreshToken)
		want(t, "refresh", err, auth.ErrTokenRevoked)
		want(t, "confirm", a.confirm(t, a.evil[events.MailChange]), auth.ErrInvalidToken)
		return a.change(t, a.session, evil, horse)
	}, auth.ErrTokenRevoked},
}

func ownerResets(t *testing.T, a *actors) error {
	want(t, "forgot", a.forgot(t, ada), nil)
	a.read(t)
	return a.reset(t, a.links[events.MailReset], horse)
}

// onSQLite is eachPostal for SQLite alone.
func onSQLite(t *testing.T, v handlers.Verification, f func(t *testing.T, p *postal)) {
	t.Parallel()
	f(t, post(t, start(t, testdb.SQLite(t), secret.Generate(), &clock{}), v))
}

// Each transition, with every kind of verification, and after a stranger has sent all that one can.
func TestTransitionsOfAnAccount(t *testing.T) {
	for _, v := range []handlers.Verification{handlers.VerificationOff, handlers.VerificationOptional, handlers.VerificationRequired} {
		for _, c := range transitions {
			if c.from == "pending" && v != handlers.VerificationRequired || c.from == "unverified" && v == handlers.VerificationRequired {
				continue
			}
			run := eachPostal
			if v != handlers.VerificationRequired { // the statements are the same, and each database takes its time
				run = onSQLite
			}
			t.Run(fmt.Sprintf("%s/%s/%s/%s", v, c.from, c.by, c.name), func(t *testing.T) {
				run(t, v, func(t *testing.T, p *postal) {
					a := &actors{postal: p, links: map[events.MailKind]string{}, evil: map[events.MailKind]string{}}
					a.recipientFor(t, c.from)
					a.byStranger(t)
					if got := a.state(t); got != c.from {
						t.Fatalf("after a stranger the account is %s, want %s", got, c.from)
					}
					if c.from != "contained" { // whose link stays good whatever newer ones there are
						a.read(t)
					}
					want(t, c.name, c.step(t, a), c.err)
					if got := a.state(t); got != c.to {
						t.Errorf("the account is %s, want %s", got, c.to)
					}
					if _, err := a.logIn(t, ada, staple, ""); err == nil {
						t.Error("a stranger's password logs in")
					}
				})
			})
		}
	}
}
