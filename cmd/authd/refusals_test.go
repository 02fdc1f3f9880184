package main

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/internal/testpg"
)

var jsonBody = map[string][]string{"Content-Type": {"application/json"}}

// padded is a login of exactly n bytes.
func padded(n int) string {
	return credentials + strings.Repeat(" ", n-len(credentials))
}

func TestBothDoorsRefuseAlike(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	for _, c := range []struct{ name, body, fields string }{
		{"no JSON", `email=ada`, `[{"field":"","reason":"syntax"}]`},
		{"cut off", `{"email":"ada@example.com"`, `[{"field":"","reason":"syntax"}]`},
		{"two values", credentials + `{}`, `[{"field":"","reason":"syntax"}]`},
		{"comment", `{/**/}`, `[{"field":"","reason":"syntax"}]`},
		{"array", `[]`, `[{"field":"","reason":"wrong_type"}]`},
		{"null", `null`, `[{"field":"","reason":"wrong_type"}]`},
		{"unknown member", `{"email":"a","remember":true}`, `[{"field":"remember","reason":"unknown_member"}]`},
		{"duplicate member", `{"email":"a","email":"b"}`, `[{"field":"email","reason":"duplicate_member"}]`},
		{"case-folded member", `{"Email":"a"}`, `[{"field":"Email","reason":"unknown_member"}]`},
		{"wrong type", `{"email":1}`, `[{"field":"email","reason":"wrong_type"}]`},
		{"null member", `{"email":null}`, `[{"field":"email","reason":"wrong_type"}]`},
		{"invalid UTF-8", "{\"email\":\"\xff\"}", `[{"field":"email","reason":"not_unicode"}]`},
		{"NUL", `{"email":"a","password":"b\u0000"}`, `[{"field":"password","reason":"nul_character"}]`},
		{"lone surrogate", `{"email":"\ud800"}`, `[{"field":"email","reason":"syntax"}]`},
		{"deep nesting", `{"email":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, `[{"field":"email` + strings.Repeat(".0", 29) + `.…","reason":"syntax"}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.post(t, "/login", c.body).refused(t, 400, "malformed_request", c.fields)
			ask(t, conn, "auth.login", nil, c.body).refused(t, 400, "malformed_request", c.fields)
		})
	}
}

// A database may not store U+0000, and a page or log cuts text there.
func TestNoMemberTakesNUL(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"SQLite": nil, "Postgres": withPostgres(testpg.URL(t))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startInside(t, append(flags, "--rate-limits=off")...)
			admin, err := nats.NkeyOptionFromSeed(filepath.Join(a.dir, "data", "nats", "keys", "admin.nk"))
			check(t, err)
			guest, operator := connect(t, a.nats), connect(t, a.nats, admin, nats.CustomInboxPrefix("_INBOX_admin"))
			a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
			access := a.post(t, "/login", credentials).member(t, "accessToken")
			for subject, op := range asyncAPIOperations(t) {
				conn := guest
				if slices.Contains(op.roles, "admin") && !slices.Contains(op.roles, "app") {
					conn = operator
				}
				var header map[string][]string
				if op.authorization {
					header = bearer(access)
				}
				for member, body := range withNUL(op.request) {
					e := ask(t, conn, subject, header, body)
					if code := e.Answer.header("Nats-Service-Error-Code"); code != "400" {
						t.Errorf("%s: %s is answered by %q %s", subject, member, code, e.Answer.Body)
					}
				}
			}
			for _, line := range []string{"DELETE /sessions/%00", "DELETE /sessions/a%00b", "DELETE /sessions/%FF", "DELETE /sessions/%C0%80"} {
				if e := a.do(t, line, bearer(access), ""); e.Answer.Status < 400 || e.Answer.Status > 422 {
					t.Errorf("%s: %d %s", line, e.Answer.Status, e.Answer.Body)
				}
			}
		})
	}
}

// withNUL makes a request for each member of the schema that is a string.
func withNUL(schema any) map[string]string {
	requests := map[string]string{}
	members, _ := schema.(map[string]any)["properties"].(map[string]any)
	for name, member := range members {
		of := member.(map[string]any)
		if of["type"] == "string" {
			requests[name] = `{"` + name + `":"a\u0000b"}`
		}
		if of["type"] == "array" {
			requests[name] = `{"` + name + `":["a\u0000b"]}`
		}
		if of["type"] == "object" {
			for inner, body := range withNUL(member) {
				requests[name+"."+inner] = `{"` + name + `":` + body + `}`
			}
		}
	}
	return requests
}

func TestRequestsEndAt64KiB(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	a.post(t, "/login", padded(64<<10)).refused(t, 401, "invalid_credentials", "")
	ask(t, conn, "auth.login", nil, padded(64<<10)).refused(t, 401, "invalid_credentials", "")
	a.post(t, "/login", padded(64<<10+1)).refused(t, 413, "payload_too_large", "")
	ask(t, conn, "auth.login", nil, padded(64<<10+1)).refused(t, 413, "payload_too_large", "")
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	typed := func(contentType string) map[string][]string {
		return map[string][]string{"Content-Type": {contentType}}
	}
	authorization := func(values ...string) map[string][]string {
		return map[string][]string{"Authorization": values}
	}
	for _, c := range []struct {
		name, line   string
		header       map[string][]string
		body         string
		status       int
		code, fields string
	}{
		{"form", "POST /login", typed("application/x-www-form-urlencoded"), credentials, 415, "unsupported_media_type", ""},
		{"text", "POST /login", typed("text/plain"), credentials, 415, "unsupported_media_type", ""},
		{"like JSON", "POST /login", typed("application/jsonp"), credentials, 415, "unsupported_media_type", ""},
		{"another charset", "POST /login", typed("application/json; charset=utf-16"), credentials, 415, "unsupported_media_type", ""},
		{"no content type", "POST /login", nil, credentials, 415, "unsupported_media_type", ""},
		{"logout without content type", "POST /logout", nil, `{"refreshToken":"x"}`, 415, "unsupported_media_type", ""},
		{"compressed", "POST /login", map[string][]string{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, credentials, 415, "unsupported_media_type", ""},
		{"no body", "POST /login", jsonBody, "", 400, "malformed_request", `[{"field":"","reason":"syntax"}]`},
		{"client", "POST /login", jsonBody, `{"email":"a","password":"b","client":{"ip":"192.0.2.1"}}`, 400, "malformed_request", `[{"field":"client","reason":"unknown_member"}]`},
		{"empty client", "POST /register", jsonBody, `{"client":{}}`, 400, "malformed_request", `[{"field":"client","reason":"unknown_member"}]`},

		{"unknown route", "GET /", nil, "", 404, "not_found", ""},
		{"slash after", "POST /login/", jsonBody, credentials, 404, "not_found", ""},
		{"two slashes", "POST //login", jsonBody, credentials, 404, "not_found", ""},
		{"upper case", "POST /LOGIN", jsonBody, credentials, 404, "not_found", ""},
		{"dots", "POST /x/../login", jsonBody, credentials, 404, "not_found", ""},
		{"escaped", "POST /%6Cogin", jsonBody, credentials, 404, "not_found", ""},

		{"no token", "GET /verify", nil, "", 401, "unauthenticated", ""},
		{"no token for the account", "GET /me", nil, "", 401, "unauthenticated", ""},
		{"no token to log out", "POST /logout", nil, "", 401, "unauthenticated", ""},
		{"empty logout", "POST /logout", jsonBody, "{}", 401, "unauthenticated", ""},
		{"no token to refresh", "POST /refresh", nil, "", 401, "unauthenticated", ""},
		{"another scheme", "GET /verify", authorization("Basic YTpi"), "", 401, "unauthenticated", ""},
		{"another scheme for the account", "GET /me", authorization("Basic YTpi"), "", 401, "unauthenticated", ""},
		{"no scheme", "GET /me", authorization("eyJ"), "", 401, "invalid_token", ""},
		{"no token of ours", "GET /me", authorization("Bearer e30.e30.e30"), "", 401, "invalid_token", ""},
		{"two headers", "GET /verify", authorization("Bearer a", "Bearer a"), "", 401, "invalid_token", ""},
		{"two headers for the account", "GET /me", authorization("Bearer a", "Basic YTpi"), "", 400, "malformed_request", ""},
		{"two tokens", "GET /me", authorization("Bearer a, Bearer b"), "", 401, "invalid_token", ""},
		{"no refresh token of ours", "POST /refresh", jsonBody, `{"refreshToken":"x"}`, 401, "invalid_token", ""},

		{"all faults together", "POST /register", jsonBody, `{"email":"ada","password":"short","name":"a\u0001"}`, 422, "validation_failed",
			`[{"field":"email","reason":"invalid"},{"field":"password","reason":"too_short"},{"field":"name","reason":"invalid"}]`},
		{"nothing", "POST /register", jsonBody, `{}`, 422, "validation_failed",
			`[{"field":"email","reason":"required"},{"field":"password","reason":"required"}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.do(t, c.line, c.header, c.body).refused(t, c.status, c.code, c.fields)
		})
	}
}

func TestWrongMethodNamesTheRightOnes(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	for line, allow := range map[string]string{
		"GET /login":     "POST",
		"DELETE /logout": "POST",
		"POST /me":       "GET, HEAD, DELETE, PATCH",
		"PUT /readyz":    "GET, HEAD",
		"POST /healthz":  "GET, HEAD",
	} {
		e := a.do(t, line, jsonBody, "{}")
		e.refused(t, 405, "method_not_allowed", "")
		e.has(t, map[string]string{"Allow": allow})
	}
}

// A method that no route could have is answered like any other request.
func TestUnknownMethodIsAProblem(t *testing.T) {
	t.Parallel()
	e := startInside(t).do(t, "BREW /login", jsonBody, "{}")
	if e.Answer.Status < 400 {
		t.Errorf("status %d", e.Answer.Status)
	}
	e.has(t, map[string]string{"Content-Type": "application/problem+json"})
	e.secured(t)
}

func TestClientIsTakenOverTheBus(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	login := func(client string) exchange {
		return ask(t, conn, "auth.login", nil, strings.Replace(credentials, "}", `,"client":`+client+`}`, 1))
	}
	login(`{"ip":"192.0.2.1","userAgent":"curl/8"}`).replied(t, `{"message":"Login successful","userId":1,`+tokens+`}`)
	login(`{"ip":"192.0.2.256"}`).refused(t, 422, "validation_failed", `[{"field":"client.ip","reason":"invalid"}]`)
	login(`{"port":1}`).refused(t, 400, "malformed_request", `[{"field":"client.port","reason":"unknown_member"}]`)
}

func TestTwoCredentialsAreAnError(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	login := a.post(t, "/login", credentials)
	access, body := login.member(t, "accessToken"), `{"refreshToken":"`+login.member(t, "refreshToken")+`"}`

	both := maps.Clone(jsonBody)
	maps.Copy(both, bearer(access))
	twice := map[string][]string{"Authorization": {"Bearer " + access, "Bearer " + access}}
	a.do(t, "POST /logout", both, body).refused(t, 400, "malformed_request", "")
	ask(t, conn, "auth.logout", bearer(access), body).refused(t, 400, "malformed_request", "")
	a.do(t, "GET /me", twice, "").refused(t, 400, "malformed_request", "")
	ask(t, conn, "auth.account.get", twice, "").refused(t, 400, "malformed_request", "")
	a.get(t, "/verify", access).answered(t, 200, verified) // nothing has ended
}

func TestAddressIsTakenOnce(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	again := strings.Replace(credentials, "ada@example.com", "ADA@Example.COM", 1)
	a.post(t, "/register", again).refused(t, 409, "email_taken", "")
	ask(t, conn, "auth.register", nil, again).refused(t, 409, "email_taken", "")
}

func TestFailedLoginsLookAlike(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)

	var first []exchange
	for _, body := range []string{
		`{"email":"ada@example.com","password":"wrong horse battery"}`,
		`{"email":"bob@example.com","password":"correct horse battery"}`,
		`{"email":"ada@example.com","password":"` + strings.Repeat("long ", 10_000) + `"}`,
		`{"email":"` + strings.Repeat("a", 10_000) + `@example.com","password":"correct horse battery"}`,
		`{"email":"ada","password":"correct horse battery"}`,
	} {
		both := []exchange{a.post(t, "/login", body), ask(t, conn, "auth.login", nil, body)}
		for i, e := range both {
			e.refused(t, 401, "invalid_credentials", "")
			delete(e.Answer.Header, "Date")
			delete(e.Answer.Header, "X-Request-Id")
			if first == nil {
				continue
			}
			if got, want := encode(t, e.Answer)+e.Answer.Body, encode(t, first[i].Answer)+first[i].Answer.Body; got != want {
				t.Errorf("%.60s is answered by %s\nanother by %s", body, got, want)
			}
		}
		if first == nil {
			first = both
		}
	}
}

func TestNothingIsDoneWithoutAnInbox(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"embedded bus": nil,
		"external bus": {"--nats-url=" + externalNATS(t, server.Options{})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startInside(t, flags...)
			conn := a.asApp(t)
			heard, err := conn.SubscribeSync("user.>")
			check(t, err)

			replies := []string{"", "user.registered", "INBOX.a", "_INBOX", "_INBOXX.a"}
			for _, reply := range replies {
				check(t, conn.PublishMsg(&nats.Msg{Subject: "auth.register", Reply: reply, Data: []byte(credentials)}))
			}
			until(t, "all noticed", func() bool {
				return strings.Count(a.stderr.String(), "request without an inbox to reply to") == len(replies)
			})
			ask(t, conn, "auth.login", nil, credentials).refused(t, 401, "invalid_credentials", "")
			check(t, conn.Flush())
			if n, _, err := heard.Pending(); n != 0 || err != nil {
				t.Errorf("%d messages where only events are expected, %v", n, err)
			}
		})
	}
}

// The services protocol answers whatever reply subject it is given; the rights of the
// embedded server hold it back, and the service goes on.
func TestDiscoveryCannotForgeEvents(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := a.asApp(t)
	heard, err := conn.SubscribeSync("user.>")
	check(t, err)
	for range 10 {
		check(t, conn.PublishRequest("$SRV.PING", "user.registered", nil))
	}
	for range 3 { // the first is answered after those above, the others after what they brought about
		ask(t, conn, "$SRV.PING", nil, "")
		ask(t, conn, "auth.login", nil, credentials).refused(t, 401, "invalid_credentials", "")
	}
	if n, _, err := heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d messages where only events are expected, %v", n, err)
	}
}
