package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go/micro"
)

// bound are all requests made on behalf of a user: the route, its subject and a body that
// would do.
var bound = []struct{ route, subject, body string }{
	{"GET /me", "auth.account.get", ""},
	{"PATCH /me", "auth.account.update", `{"name":"Mallory"}`},
	{"DELETE /me", "auth.account.delete", `{"password":"correct horse battery"}`},
	{"POST /me/email", "auth.email.change", `{"newEmail":"mallory@evil.example","password":"correct horse battery"}`},
	{"POST /me/password", "auth.password.change", `{"currentPassword":"correct horse battery","newPassword":"mallory's choice"}`},
	{"GET /sessions", "auth.sessions.list", ""},
	{"DELETE /sessions", "auth.sessions.revoke_others", ""},
	{"DELETE /sessions/<session>", "auth.sessions.revoke", `{"sessionId":"<session>"}`},
	{"POST /logout", "auth.logout", ""},
	{"GET /verify", "auth.verify", `{"token":"<token>"}`},
}

// open are those that need no access token.
var open = []struct{ route, subject string }{
	{"POST /register", "auth.register"},
	{"POST /login", "auth.login"},
	{"POST /login/code", "auth.login.code"},
	{"POST /email/verify", "auth.email.verify"},
	{"POST /email/resend", "auth.email.resend"},
	{"POST /email/confirm", "auth.email.confirm"},
	{"POST /email/undo", "auth.email.undo"},
	{"POST /password/forgot", "auth.password.forgot"},
	{"POST /password/reset", "auth.password.reset"},
	{"POST /not-me", "auth.password.not_me"},
	{"POST /refresh", "auth.refresh"},
	{"GET /.well-known/jwks.json", "auth.keys"},
	{"GET /readyz", "auth.health"},
	{"", "auth.revocations"},
	// These the bus lets few ask.
	{"", "auth.users.snapshot"},
	{"", "auth.admin.users.list"},
	{"", "auth.admin.users.get"},
	{"", "auth.admin.users.disable"},
	{"", "auth.admin.users.enable"},
	{"", "auth.admin.users.end_sessions"},
	{"", "auth.admin.users.set_password"},
}

// Every route and subject, with every token that will not do, and nothing comes of it.
func TestNoRequestGoesThroughWithoutAValidToken(t *testing.T) {
	t.Parallel()
	const secret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"
	a := startInside(t, "--access-token-secret="+secret, "--mailer=off")
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	login := a.post(t, "/login", credentials)
	victim, session := login.member(t, "accessToken"), login.member(t, "sessionId")

	forge := func(change func(*jwt.Token, jwt.MapClaims)) string {
		claims := jwt.MapClaims{}
		token, _, err := jwt.NewParser().ParseUnverified(victim, claims)
		check(t, err)
		change(token, claims)
		signed, err := token.SignedString([]byte(secret))
		check(t, err)
		return signed
	}
	without := func(claim string) string {
		return forge(func(_ *jwt.Token, c jwt.MapClaims) { delete(c, claim) })
	}
	ended := a.post(t, "/login", credentials).member(t, "accessToken")
	a.do(t, "POST /logout", bearer(ended), "").answered(t, 204, "")
	tokens := map[string]struct{ token, code string }{
		"none":          {"", "unauthenticated"},
		"noise":         {"noise", "invalid_token"},
		"refresh token": {login.member(t, "refreshToken"), "invalid_token"},
		"ended":         {ended, "token_revoked"},
		"expired": {forge(func(_ *jwt.Token, c jwt.MapClaims) {
			for _, claim := range []string{"iat", "nbf", "exp", "auth_time"} {
				c[claim] = c[claim].(float64) - 3600
			}
		}), "token_expired"},
		"from the future":      {forge(func(_ *jwt.Token, c jwt.MapClaims) { c["nbf"] = c["nbf"].(float64) + 3600 }), "invalid_token"},
		"of another kind":      {forge(func(token *jwt.Token, _ jwt.MapClaims) { token.Header["typ"] = "JWT" }), "invalid_token"},
		"of another issuer":    {forge(func(_ *jwt.Token, c jwt.MapClaims) { c["iss"] = "https://evil.example" }), "invalid_token"},
		"for somebody else":    {forge(func(_ *jwt.Token, c jwt.MapClaims) { c["aud"] = "other" }), "invalid_token"},
		"of no such session":   {forge(func(_ *jwt.Token, c jwt.MapClaims) { c["sid"] = strings.Repeat("0", 36) }), "token_revoked"},
		"with a critical rule": {forge(func(token *jwt.Token, _ jwt.MapClaims) { token.Header["crit"] = []string{"x"} }), "invalid_token"},
		"the ancestor's own": {forge(func(token *jwt.Token, c jwt.MapClaims) {
			token.Header["typ"] = "JWT"
			maps.DeleteFunc(c, func(claim string, _ any) bool { return claim != "userId" && claim != "exp" && claim != "iat" })
		}), "invalid_token"},
		"unsigned":     {"eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + strings.Split(victim, ".")[1] + ".", "invalid_token"},
		"without sub":  {without("sub"), "invalid_token"},
		"without exp":  {without("exp"), "invalid_token"},
		"without iss":  {without("iss"), "invalid_token"},
		"without aud":  {without("aud"), "invalid_token"},
		"without jti":  {without("jti"), "invalid_token"},
		"without iat":  {without("iat"), "invalid_token"},
		"without sid":  {without("sid"), "invalid_token"},
		"without user": {without("userId"), "invalid_token"},
	}
	fill := strings.NewReplacer("<session>", session).Replace
	for name, c := range tokens {
		for _, b := range bound {
			header := map[string][]string{}
			if strings.HasPrefix(b.body, `{"`) && b.subject != "auth.verify" {
				header["Content-Type"] = []string{"application/json"}
			}
			if c.token != "" {
				header["Authorization"] = []string{"Bearer " + c.token}
			}
			body := fill(b.body)
			if b.subject == "auth.verify" || b.subject == "auth.sessions.revoke" {
				body = ""
			}
			if b.subject == "auth.logout" && c.code == "token_revoked" { // it is where it was to be
				a.do(t, b.route, header, "").answered(t, 204, "")
				ask(t, conn, b.subject, header, "").replied(t, "{}")
				continue
			}
			a.do(t, fill(b.route), header, body).refused(t, 401, c.code, "")

			delete(header, "Content-Type")
			body = strings.ReplaceAll(fill(b.body), "<token>", c.token)
			if b.subject != "auth.verify" {
				ask(t, conn, b.subject, header, body).refused(t, 401, c.code, "")
				continue
			}
			code := c.code
			if c.token == "" {
				code = "invalid_token" // asked about, not asked with
			}
			ask(t, conn, b.subject, nil, body).refused(t, 401, code, "")
		}
		if t.Failed() {
			t.Fatal(name)
		}
	}
	a.get(t, "/verify", victim).answered(t, 200, verified)

	// Another user's token is theirs: it neither shows nor changes what is the victim's.
	other := strings.Replace(credentials, "ada", "mallory", 1)
	a.post(t, "/register", other)
	mallory := bearer(a.post(t, "/login", other).member(t, "accessToken"))
	for _, b := range bound {
		header := maps.Clone(mallory)
		body := fill(b.body)
		if b.subject == "auth.verify" || b.subject == "auth.sessions.revoke" || b.subject == "auth.account.delete" || b.subject == "auth.logout" {
			continue // below
		}
		if body != "" {
			header["Content-Type"] = []string{"application/json"}
		}
		e := a.do(t, b.route, header, body)
		if b.subject == "auth.password.change" { // which has ended that session
			mallory = bearer(e.member(t, "accessToken"))
		}
		if e.Answer.Status >= 300 || strings.Contains(e.Answer.Body, "ada@") || strings.Contains(e.Answer.Body, session) {
			t.Errorf("%s: %d %s", b.route, e.Answer.Status, e.Answer.Body)
		}
	}
	a.do(t, "DELETE /sessions/"+session, mallory, "").refused(t, 404, "not_found", "")
	ask(t, conn, "auth.sessions.revoke", mallory, `{"sessionId":"`+session+`"}`).refused(t, 404, "not_found", "")
	a.do(t, "POST /logout", mallory, "").answered(t, 204, "")
	a.get(t, "/me", victim).answered(t, 200, strings.Replace(account, "Ada", "", 1))
	a.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+strings.ReplaceAll(kept, `"tokenType"`, `"accessToken":"<token>","refreshToken":"<token>","tokenType"`)+`}`)
}

// The tables above are complete: they have every subject that the service announces.
func TestEverySubjectIsInTheTables(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	var info micro.Info
	check(t, json.Unmarshal([]byte(ask(t, connect(t, a.nats), "$SRV.INFO.auth", nil, "").Answer.Body), &info))
	var known []string
	for _, b := range bound {
		known = append(known, b.subject)
	}
	for _, o := range open {
		known = append(known, o.subject)
	}
	for _, e := range info.Endpoints {
		if !slices.Contains(known, e.Subject) {
			t.Errorf("%s is in neither table", e.Subject)
		}
		needs := e.Metadata["authorization"] == "Bearer"
		listed := slices.ContainsFunc(bound, func(b struct{ route, subject, body string }) bool { return b.subject == e.Subject })
		takesOne := slices.Contains([]string{"auth.verify", "auth.email.verify", "auth.email.confirm"}, e.Subject) // among other proofs
		if listed != needs && !takesOne {
			t.Errorf("%s: needs a token: %v", e.Subject, needs)
		}
	}
}
