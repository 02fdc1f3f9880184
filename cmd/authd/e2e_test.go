package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
)

// withPostgres are the flags of an instance on a Postgres database.
func withPostgres(url string) []string {
	return testauthd.WithPostgres(url)
}

// startApart runs the handlers, with the bus, and the edge as two processes.
func startApart(t *testing.T, flags ...string) (edge, handlers *instance) {
	t.Helper()
	e, h := testauthd.StartApart(t, flags...)
	return named(e), named(h)
}

// deployments are the ways to run the service. Each returns one instance with an edge, whose
// bus lets in clients without credentials.
var deployments = map[string]func(*testing.T) *instance{
	"SQLite and embedded bus": func(t *testing.T) *instance { return startInside(t) },
	"Postgres and embedded bus": func(t *testing.T) *instance {
		return start(t, withPostgres(testpg.URL(t))...)
	},
	"Postgres and external bus": func(t *testing.T) *instance {
		return start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, withJetStream(t)))...)
	},
	"edge and handlers apart": func(t *testing.T) *instance {
		edge, _ := startApart(t)
		return edge
	},
}

func TestAccountFromRegistrationToLogout(t *testing.T) {
	t.Parallel()
	for name, deploy := range deployments {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t, deploy(t))
		})
	}
}

const (
	tokens   = testauthd.Tokens
	verified = testauthd.Verified
	account  = testauthd.Account
)

func story(t *testing.T, a *instance) {
	conn := connect(t, a.nats)

	a.post(t, "/register", `{"email":"ada@example.com","password":"correct horse battery","name":"Ada"}`).
		answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	login := a.post(t, "/login", credentials)
	login.answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
	access, session := login.member(t, "accessToken"), login.member(t, "sessionId")

	ask(t, conn, "auth.verify", nil, `{"token":"`+access+`"}`).replied(t, verified)
	verify := a.get(t, "/verify", access)
	verify.answered(t, 200, verified)
	for name, want := range map[string]string{"X-Auth-User-Id": "1", "X-Auth-Session-Id": session, "X-Auth-Scopes": ""} {
		if got, ok := verify.Answer.Header[name]; !ok || got[0] != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	a.get(t, "/me", access).answered(t, 200, account)
	ask(t, conn, "auth.account.get", bearer(access), "").replied(t, account)

	refreshed := a.post(t, "/refresh", `{"refreshToken":"`+login.member(t, "refreshToken")+`"}`)
	refreshed.answered(t, 200, `{`+tokens+`}`)
	again := ask(t, conn, "auth.refresh", nil, `{"refreshToken":"`+refreshed.member(t, "refreshToken")+`"}`)
	again.replied(t, `{`+tokens+`}`)
	for _, token := range []string{access, refreshed.member(t, "accessToken"), again.member(t, "accessToken")} {
		a.get(t, "/verify", token).answered(t, 200, verified)
		verifyAlone(t, token, session, a.get(t, "/.well-known/jwks.json", "").Answer.Body)
	}

	body := `{"refreshToken":"` + again.member(t, "refreshToken") + `"}`
	a.post(t, "/logout", body).answered(t, 204, "")
	a.post(t, "/logout", body).answered(t, 204, "")
	a.do(t, "POST /logout", bearer(access), "").answered(t, 204, "")
	ask(t, conn, "auth.logout", bearer(access), "{}").replied(t, "{}")

	for _, token := range []string{access, again.member(t, "accessToken")} {
		a.get(t, "/verify", token).refused(t, 401, "token_revoked", "")
		a.get(t, "/me", token).refused(t, 401, "token_revoked", "")
		ask(t, conn, "auth.verify", nil, `{"token":"`+token+`"}`).refused(t, 401, "token_revoked", "")
	}
	a.post(t, "/refresh", body).refused(t, 401, "token_revoked", "")
}

// Sessions end from their list, over either door, and for both.
func TestSessionsAreListedAndEnded(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	login := func() (access, id string) {
		e := a.post(t, "/login", credentials)
		return e.member(t, "accessToken"), e.member(t, "sessionId")
	}
	kept, _ := login()
	phone, phoneID := login()
	laptop, _ := login()

	var list struct{ Sessions []map[string]any }
	check(t, json.Unmarshal([]byte(a.get(t, "/sessions", kept).Answer.Body), &list))
	if len(list.Sessions) != 3 || list.Sessions[0]["current"] != false || list.Sessions[2]["current"] != true {
		t.Errorf("%v", list.Sessions)
	}
	for _, s := range list.Sessions {
		if s["ip"] != "127.0.0.1" || s["userAgent"] != "Go-http-client/1.1" {
			t.Errorf("%v", s)
		}
	}
	a.do(t, "DELETE /sessions/"+phoneID, bearer(kept), "").answered(t, 204, "")
	a.do(t, "DELETE /sessions/"+phoneID, bearer(kept), "").refused(t, 404, "not_found", "")
	a.do(t, "DELETE /sessions/"+phoneID, nil, "").refused(t, 401, "unauthenticated", "")
	ask(t, conn, "auth.verify", nil, `{"token":"`+phone+`"}`).refused(t, 401, "token_revoked", "")
	a.get(t, "/verify", laptop).answered(t, 200, verified)

	ask(t, conn, "auth.sessions.revoke_others", bearer(kept), "").replied(t, `{"ended":1}`)
	a.get(t, "/sessions", laptop).refused(t, 401, "token_revoked", "")
	a.do(t, "DELETE /sessions", bearer(kept), "").answered(t, 204, "")
	a.get(t, "/verify", kept).answered(t, 200, verified)
}

func TestAnAccountIsChangedAndDeleted(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	send := func(line, body string) exchange {
		header := bearer(access)
		header["Content-Type"] = []string{"application/json"}
		return a.do(t, line, header, body)
	}
	send("PATCH /me", `{"name":"Ada"}`).answered(t, 200, account)
	send("PATCH /me", `{"email":"bob@example.com"}`).refused(t, 400, "malformed_request", `[{"field":"email","reason":"unknown_member"}]`)
	send("PATCH /me", `{"name":null}`).refused(t, 400, "malformed_request", `[{"field":"name","reason":"wrong_type"}]`)
	send("POST /me/password", `{"currentPassword":"wrong","newPassword":"battery staple"}`).refused(t, 401, "invalid_credentials", "")
	send("POST /me/password", `{"currentPassword":"correct horse battery","newPassword":"battery staple"}`).answered(t, 200, `{`+tokens+`}`)
	a.get(t, "/me", access).refused(t, 401, "token_revoked", "")
	access = a.post(t, "/login", strings.Replace(credentials, "correct horse battery", "battery staple", 1)).member(t, "accessToken")
	changed := ask(t, conn, "auth.password.change", bearer(access), `{"currentPassword":"battery staple","newPassword":"staple battery"}`)
	changed.replied(t, `{"ended":2,"carrier":"body",`+tokens+`}`)
	access = changed.member(t, "accessToken")
	ask(t, conn, "auth.account.update", bearer(access), `{"name":"Ada"}`).replied(t, account)
	send("DELETE /me", `{"password":"wrong"}`).refused(t, 401, "invalid_credentials", "")
	send("DELETE /me", `{"password":"staple battery"}`).answered(t, 204, "")
	a.get(t, "/me", access).refused(t, 401, "token_revoked", "")
	ask(t, conn, "auth.account.delete", bearer(access), "").refused(t, 401, "token_revoked", "")
}

// An instance that is told so asks for the password however recent the login is.
func TestSensitiveChangesAskForARecentLogin(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--reauth-window=0s")
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	a.do(t, "DELETE /me", bearer(access), "").refused(t, 403, "reauthentication_required", "")
	a.get(t, "/me", access).answered(t, 200, strings.Replace(account, "Ada", "", 1))
}

// verifyAlone checks an access token as a service would that knows nothing but the key set.
func verifyAlone(t *testing.T, token, session, jwks string) {
	t.Helper()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	check(t, json.Unmarshal([]byte(jwks), &set))
	parsed, err := jwt.Parse(token, func(token *jwt.Token) (any, error) {
		i := slices.IndexFunc(set.Keys, func(k map[string]string) bool { return k["kid"] == token.Header["kid"] })
		if i < 0 {
			t.Fatalf("no key %v in %s", token.Header["kid"], jwks)
		}
		key, err := base64.RawURLEncoding.DecodeString(set.Keys[i]["x"])
		return ed25519.PublicKey(key), err
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer("http://localhost:3000"),
		jwt.WithAudience("zyotra"), jwt.WithSubject("1"), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	check(t, err)
	claimsOf(t, parsed, session)
}

// claimsOf wants the claims that the contract names, and no other.
func claimsOf(t *testing.T, token *jwt.Token, session string) {
	t.Helper()
	if token.Header["typ"] != "at+jwt" {
		t.Errorf("typ is %v", token.Header["typ"])
	}
	claims := token.Claims.(jwt.MapClaims)
	names := slices.Sorted(maps.Keys(claims))
	if got, want := strings.Join(names, " "), "amr aud auth_time exp iat iss jti nbf scope sid sub userId"; got != want {
		t.Errorf("claims %s, want %s", got, want)
	}
	if claims["userId"] != "1" || claims["sid"] != session {
		t.Errorf("userId %v, sid %v", claims["userId"], claims["sid"])
	}
	if exp, iat := claims["exp"].(float64), claims["iat"].(float64); exp-iat != 900 {
		t.Errorf("the token lives for %v s", exp-iat)
	}
}

func TestAccessTokenSecretSignsHS256(t *testing.T) {
	t.Parallel()
	const secret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"
	a := startInside(t, "--access-token-secret="+secret)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	login := a.post(t, "/login", credentials)

	parsed, err := jwt.Parse(login.member(t, "accessToken"), func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("http://localhost:3000"), jwt.WithAudience("zyotra"))
	check(t, err)
	claimsOf(t, parsed, login.member(t, "sessionId"))
	a.get(t, "/verify", login.member(t, "accessToken")).answered(t, 200, verified)
	a.get(t, "/.well-known/jwks.json", "").answered(t, 200, `{"keys":[]}`)
}
