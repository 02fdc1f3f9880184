package main

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/persistence"
)

var update = flag.Bool("update", false, "rewrite testdata/golden")

// golden compares an exchange with the one in testdata/golden. A difference is a change of
// the contract; -update makes it, for review in the diff.
func golden(t *testing.T, name string, e exchange) {
	t.Helper()
	goldenText(t, name, encode(t, struct {
		Request shown `json:"request"`
		Answer  shown `json:"answer"`
	}{show(e.Request), show(e.Answer)}))
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".json")
	if *update {
		check(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
	}
}

// shown is a message with its body as JSON, and without what is volatile.
type shown struct {
	message
	Header map[string]string `json:"header,omitempty"`
	Body   any               `json:"body,omitempty"`
}

func show(m message) shown {
	s := shown{message: m, Header: map[string]string{}}
	for name, values := range m.Header {
		if name != "Date" && name != "Content-Length" {
			s.Header[name] = mask(strings.Join(values, ", "))
		}
	}
	switch {
	case len(m.Body) > 4096:
		s.Body = "<too much>"
	case m.Body != "":
		s.Body = json.RawMessage(mask(m.Body))
	}
	return s
}

func TestGoldenHTTP(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	keep := func(name string, e exchange) exchange {
		t.Helper()
		golden(t, "http-"+name, e)
		return e
	}
	refresh := func(token string) string { return `{"refreshToken":"` + token + `"}` }
	const ada = `{"email":"ada@example.com","password":"correct horse battery","name":"Ada"}`

	keep("healthz", a.get(t, "/healthz", ""))
	keep("readyz", a.get(t, "/readyz", ""))
	keep("jwks", a.get(t, "/.well-known/jwks.json", ""))
	keep("register", a.post(t, "/register", ada))
	keep("email-taken", a.post(t, "/register", ada))
	keep("validation-failed", a.post(t, "/register", `{"email":"ada","password":"short"}`))
	login := keep("login", a.post(t, "/login", credentials))
	access := login.member(t, "accessToken")
	keep("verify", a.get(t, "/verify", access))
	keep("me", a.get(t, "/me", access))
	own := bearer(access)
	own["Content-Type"] = []string{"application/json"}
	keep("me-patch", a.do(t, "PATCH /me", own, `{"name":"Countess"}`))
	login = keep("me-password", a.do(t, "POST /me/password", own, `{"currentPassword":"correct horse battery","newPassword":"correct horse battery"}`))
	access = login.member(t, "accessToken")
	keep("sessions", a.get(t, "/sessions", access))
	keep("sessions-delete", a.do(t, "DELETE /sessions", bearer(access), ""))
	keep("refresh", a.post(t, "/refresh", refresh(login.member(t, "refreshToken"))))
	b := from(a)
	keep("login-cookie", b.send(t, "POST /login", cookieLogin))
	keep("refresh-cookie", b.send(t, "POST /refresh", ""))
	keep("me-password-cookie", b.send(t, "POST /me/password", `{"currentPassword":"correct horse battery","newPassword":"correct horse battery"}`))
	login = a.post(t, "/login", credentials) // in place of what that ended
	access = login.member(t, "accessToken")
	next := login.member(t, "refreshToken")
	b.header = nil
	keep("forbidden", b.send(t, "PATCH /me", `{"name":"Mallory"}`))
	b.header = from(a).header
	keep("logout-cookie", b.send(t, "POST /logout", ""))
	keep("logout", a.post(t, "/logout", refresh(next)))
	keep("logout-bearer", a.do(t, "POST /logout", bearer(access), ""))

	keep("invalid-credentials", a.post(t, "/login", `{"email":"ada@example.com","password":"wrong"}`))
	keep("unauthenticated", a.get(t, "/me", ""))
	keep("invalid-token", a.get(t, "/me", "e30.e30.e30"))
	keep("token-revoked", a.get(t, "/me", access))
	keep("malformed-request", a.post(t, "/login", `{"user":"ada"}`))
	keep("not-found", a.get(t, "/login/", ""))
	keep("method-not-allowed", a.get(t, "/login", ""))
	keep("payload-too-large", a.post(t, "/login", padded(64<<10+1)))
	keep("unsupported-media-type", a.do(t, "POST /login", nil, credentials))
}

// asEdge is a client of an embedded bus that may ask about health.
func asEdge(t *testing.T, a *instance) *nats.Conn {
	t.Helper()
	return connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Edge))
}

// asAdmin is a client of an embedded bus that may do what operators do.
func asAdmin(t *testing.T, a *instance) *nats.Conn {
	t.Helper()
	return connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Admin))
}

func TestGoldenNATS(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	keep := func(name, subject string, header map[string][]string, body string) exchange {
		t.Helper()
		e := ask(t, conn, subject, header, body)
		golden(t, "nats-"+name, e)
		return e
	}
	refresh := func(token string) string { return `{"refreshToken":"` + token + `"}` }
	verify := func(token string) string { return `{"token":"` + token + `"}` }
	const ada = `{"email":"ada@example.com","password":"correct horse battery","name":"Ada","client":{"ip":"192.0.2.1","userAgent":"curl/8"}}`

	golden(t, "nats-health", ask(t, asEdge(t, a), "auth.health", nil, "{}"))
	keep("keys", "auth.keys", nil, "{}")
	keep("register", "auth.register", nil, ada)
	keep("email-taken", "auth.register", nil, ada)
	golden(t, "nats-users-snapshot", ask(t, asSubscriber(t, a), "auth.users.snapshot", nil, `{"after":0,"limit":10}`))
	keep("validation-failed", "auth.register", nil, `{"email":"ada","password":"short","client":{"ip":"192.0.2.256"}}`)
	login := keep("login", "auth.login", nil, credentials)
	access := login.member(t, "accessToken")
	keep("verify", "auth.verify", nil, verify(access))
	keep("insufficient-scope", "auth.verify", nil, `{"token":"`+access+`","scopes":["admin"]}`)
	keep("account-get", "auth.account.get", bearer(access), "{}")
	keep("account-update", "auth.account.update", bearer(access), `{"name":"Countess"}`)
	login = keep("password-change", "auth.password.change", bearer(access), `{"currentPassword":"correct horse battery","newPassword":"correct horse battery"}`)
	access = login.member(t, "accessToken")
	keep("sessions-list", "auth.sessions.list", bearer(access), "{}")
	keep("sessions-revoke-others", "auth.sessions.revoke_others", bearer(access), "{}")
	other := ask(t, conn, "auth.login", nil, credentials).member(t, "sessionId")
	keep("sessions-revoke", "auth.sessions.revoke", bearer(access), `{"sessionId":"`+other+`"}`)
	next := keep("refresh", "auth.refresh", nil, refresh(login.member(t, "refreshToken"))).member(t, "refreshToken")
	keep("logout", "auth.logout", nil, refresh(next))
	keep("logout-bearer", "auth.logout", bearer(access), "{}")
	keep("revocations", "auth.revocations", nil, "{}")

	keep("invalid-credentials", "auth.login", nil, `{"email":"ada@example.com","password":"wrong"}`)
	keep("unauthenticated", "auth.account.get", nil, "{}")
	keep("invalid-token", "auth.verify", nil, verify("e30.e30.e30"))
	keep("token-revoked", "auth.verify", nil, verify(access))
	keep("malformed-request", "auth.login", nil, `{"user":"ada"}`)
	keep("payload-too-large", "auth.login", nil, padded(64<<10+1))
}

// What is done by mail, through both doors.
func TestGoldenMail(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--mailer=off", "--email-verification=required", "--mail-login=on", "--rate-limits=off")
	conn, box := a.asApp(t), lettersOf(t, a)
	over := func(name, path, body string) {
		t.Helper()
		golden(t, "http-"+name, a.post(t, path, body))
	}
	on := func(name, subject, body string) {
		t.Helper()
		golden(t, "nats-"+name, ask(t, conn, subject, nil, body))
	}
	const address = `{"email":"ada@example.com"}`
	code := func() string { return `{"email":"ada@example.com","code":"` + box.next(t, "login_code").Code + `"}` }

	over("register-required", "/register", credentials)
	box.next(t, "verify_email")
	on("register-required", "auth.register", credentials)
	verify := box.verify(t, "correct horse battery")
	over("email-verify-alone", "/email/verify", strings.Replace(verify, `,"password":"correct horse battery"`, "", 1))
	on("email-verify-alone", "auth.email.verify", strings.Replace(verify, `,"password":"correct horse battery"`, "", 1))
	over("email-verify", "/email/verify", verify)
	over("email-verify-used", "/email/verify", `{"token":"WQ3VYHJ2LK5NBX7TRC4MDZ6PGA"}`)
	on("email-verify-used", "auth.email.verify", `{"token":"WQ3VYHJ2LK5NBX7TRC4MDZ6PGA"}`)
	on("email-resend", "auth.email.resend", address)
	over("email-resend", "/email/resend", address)
	over("login-code", "/login/code", address)
	over("login-by-code", "/login/code", code())
	on("login-code", "auth.login.code", address)
	on("login-by-code", "auth.login.code", code())
	over("password-forgot", "/password/forgot", address)
	over("password-reset", "/password/reset", box.reset(t, "correct horse battery"))
	on("password-forgot", "auth.password.forgot", address)
	on("password-reset", "auth.password.reset", box.reset(t, "correct horse battery"))
	over("not-me", "/not-me", box.token(t, "password_changed"))
	a.post(t, "/password/reset", box.reset(t, "correct horse battery")).answered(t, 204, "")
	on("password-not-me", "auth.password.not_me", box.token(t, "password_changed"))
	a.post(t, "/password/reset", box.reset(t, "correct horse battery")).answered(t, 204, "")

	own := bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
	golden(t, "nats-email-change", ask(t, conn, "auth.email.change", own, `{"newEmail":"bob@example.com","password":"correct horse battery"}`))
	confirm := box.token(t, "email_change")
	on("email-confirm-alone", "auth.email.confirm", confirm)
	on("email-confirm", "auth.email.confirm", withPassword(confirm, "correct horse battery"))
	on("email-undo", "auth.email.undo", box.token(t, "email_changed"))
	a.post(t, "/password/reset", box.reset(t, "correct horse battery")).answered(t, 204, "")
	own = bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
	own["Content-Type"] = []string{"application/json"}
	golden(t, "http-me-email", a.do(t, "POST /me/email", own, `{"newEmail":"bob@example.com","password":"correct horse battery"}`))
	confirm = box.token(t, "email_change")
	over("email-confirm-alone", "/email/confirm", confirm)
	over("email-confirm", "/email/confirm", withPassword(confirm, "correct horse battery"))
	over("email-undo", "/email/undo", box.token(t, "email_changed"))
}

// What operators ask.
func TestGoldenAdmin(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	operator := asAdmin(t, a)
	keep := func(name, body string) {
		t.Helper()
		golden(t, "nats-admin-users-"+name, ask(t, operator, "auth.admin.users."+strings.ReplaceAll(name, "-", "_"), nil, body))
	}
	signUp(t, a)
	a.post(t, "/login", credentials)
	keep("get", `{"email":"Ada@Example.com"}`)
	keep("disable", `{"userId":1}`)
	keep("list", `{"limit":10}`)
	keep("enable", `{"userId":1}`)
	a.post(t, "/login", credentials)
	keep("end-sessions", `{"userId":1}`)
	a.post(t, "/login", credentials)
	keep("set-password", `{"userId":1,"password":"battery horse correct"}`)
}

// What cannot be undone, and the way it is refused where a login is never recent enough.
func TestGoldenDeletion(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--reauth-window=0s")
	conn := a.asApp(t)
	const give = `{"password":"correct horse battery"}`
	signUp(t, a)
	own := bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
	golden(t, "http-reauthentication-required", a.do(t, "DELETE /me", own, ""))
	golden(t, "nats-reauthentication-required", ask(t, conn, "auth.account.delete", own, "{}"))
	golden(t, "nats-account-delete", ask(t, conn, "auth.account.delete", own, give))
	a.post(t, "/register", credentials) // the id is not given out again
	own = bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
	own["Content-Type"] = []string{"application/json"}
	golden(t, "http-me-delete", a.do(t, "DELETE /me", own, give))
}

// A token of ours whose time is over, made with the secret that the service was given.
func TestGoldenTokenExpired(t *testing.T) {
	t.Parallel()
	const secret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"
	a := startInside(t, "--access-token-secret="+secret)
	signUp(t, a)
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(a.post(t, "/login", credentials).member(t, "accessToken"), claims)
	check(t, err)
	for _, name := range []string{"iat", "nbf", "exp", "auth_time"} {
		claims[name] = claims[name].(float64) - 3600
	}
	signed, err := token.SignedString([]byte(secret))
	check(t, err)

	e := a.get(t, "/verify", signed)
	e.refused(t, 401, "token_expired", "")
	golden(t, "http-token-expired", e)
	e = ask(t, a.asApp(t), "auth.verify", nil, `{"token":"`+signed+`"}`)
	e.refused(t, 401, "token_expired", "")
	golden(t, "nats-token-expired", e)
}

// One message of each type, as it is in the stream, of a story that begins with the first
// key of a new database.
func TestGoldenEvents(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--mailer=off", "--email-verification=optional")
	box := lettersOf(t, a)
	a.post(t, "/register", `{"email":"ada@example.com","password":"correct horse battery","name":"Ada"}`)
	a.post(t, "/email/verify", box.verify(t, "correct horse battery")).answered(t, 204, "")
	a.post(t, "/login", credentials) // ended by the change of the password
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	own := bearer(access)
	own["Content-Type"] = []string{"application/json"}
	a.do(t, "PATCH /me", own, `{"name":"Countess"}`)
	a.do(t, "POST /me/password", own, `{"currentPassword":"correct horse battery","newPassword":"battery horse correct"}`).answered(t, 200, `{`+tokens+`}`)
	operator := asAdmin(t, a)
	ask(t, operator, "auth.admin.users.disable", nil, `{"userId":1}`)
	ask(t, operator, "auth.admin.users.enable", nil, `{"userId":1}`).replied(t, "{}")
	own["Authorization"] = bearer(a.post(t, "/login", `{"email":"ada@example.com","password":"battery horse correct"}`).member(t, "accessToken"))["Authorization"]
	a.do(t, "POST /me/email", own, `{"newEmail":"countess@example.com","password":"battery horse correct"}`)
	a.do(t, "POST /email/confirm", own, box.token(t, "email_change")).answered(t, 204, "")
	for range 5 {
		a.post(t, "/login", strings.Replace(credentials, "ada", "countess", 1)).refused(t, 401, "invalid_credentials", "")
	}
	a.do(t, "DELETE /me", map[string][]string{"Authorization": own["Authorization"]}, "").answered(t, 204, "")
	store, err := persistence.Open(t.Context(), "sqlite://"+a.dir+"/data/authd.db")
	check(t, err)
	defer func() { check(t, store.Close()) }()
	published(t, store)

	missing, err := testauthd.AsyncAPIEvents()
	check(t, err)
	missing = maps.Clone(missing)
	delete(missing, events.MailType) // which is not for others: TestMailsAreLeftToAnotherService
	for _, m := range inStream(t, connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Relay))) {
		if _, first := missing[m.Subject]; !first {
			continue
		}
		delete(missing, m.Subject)
		header := map[string]string{}
		for name, values := range m.Header {
			if name == nats.MsgIdHdr || !strings.HasPrefix(name, "Nats-") { // the others are between relay and stream
				header[name] = strings.Join(values, ", ")
			}
		}
		text, err := json.Marshal(header)
		check(t, err)
		goldenText(t, "event-"+strings.NewReplacer(".", "-", "_", "-").Replace(m.Subject), encode(t, map[string]any{
			"subject": m.Subject, "header": json.RawMessage(mask(string(text))), "data": json.RawMessage(mask(string(m.Data))),
		}))
	}
	for subject := range missing {
		t.Errorf("no %s in the stream", subject)
	}
}
