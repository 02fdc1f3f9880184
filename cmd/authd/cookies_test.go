package main

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const (
	page      = "https://app.example.com" // whose origin is in CORS_ORIGINS
	ownOrigin = "http://localhost:3000"   // of PUBLIC_URL

	cookieLogin = `{"email":"ada@example.com","password":"correct horse battery","carrier":"cookie"}`
)

// browser keeps cookies as a browser does, and sends what a page's request has.
type browser struct {
	*instance
	header  map[string][]string // of every request
	cookies map[string]string
}

// from is a browser with a page of the edge itself.
func from(a *instance) *browser {
	return &browser{a, map[string][]string{"Sec-Fetch-Site": {"same-origin"}}, map[string]string{}}
}

// send sends JSON, if there is any, with the cookies.
func (b *browser) send(t *testing.T, line, body string) exchange {
	t.Helper()
	header := map[string][]string{}
	maps.Copy(header, b.header)
	if body != "" {
		header["Content-Type"] = []string{"application/json"}
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(b.cookies)) {
		pairs = append(pairs, name+"="+b.cookies[name])
	}
	if len(pairs) > 0 {
		header["Cookie"] = []string{strings.Join(pairs, "; ")}
	}
	e := b.do(t, line, header, body)
	for _, c := range (&http.Response{Header: e.Answer.Header}).Cookies() {
		if c.Expires.Unix() == 1 {
			delete(b.cookies, c.Name)
			continue
		}
		b.cookies[c.Name] = c.Value
	}
	return e
}

func (b *browser) login(t *testing.T) exchange {
	t.Helper()
	e := b.send(t, "POST /login", cookieLogin)
	e.answered(t, 200, `{"message":"Login successful","userId":1,`+kept+`}`)
	return e
}

// kept is what an answer says of tokens that are in cookies.
const kept = `"tokenType":"Bearer","expiresIn":900,"sessionId":"<session>"`

func TestSessionInCookies(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	b := from(a)
	login := b.login(t)
	login.secured(t)
	for _, c := range (&http.Response{Header: login.Answer.Header}).Cookies() {
		age := map[string]int{"__Host-access": 900, "__Host-refresh": 360 * 3600}[c.Name]
		site := map[string]http.SameSite{"__Host-access": http.SameSiteLaxMode, "__Host-refresh": http.SameSiteStrictMode}[c.Name]
		if !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != site || c.MaxAge > age || c.MaxAge < age-60 {
			t.Errorf("%v", c)
		}
	}
	if len(b.cookies) != 2 {
		t.Fatalf("%d cookies", len(b.cookies))
	}
	first := maps.Clone(b.cookies)

	b.send(t, "GET /me", "").answered(t, 200, strings.Replace(account, "Ada", "", 1))
	b.send(t, "PATCH /me", `{"name":"Ada"}`).answered(t, 200, account)
	b.send(t, "GET /verify", "").answered(t, 200, verified)
	b.send(t, "POST /refresh", "").answered(t, 200, `{`+kept+`}`)
	b.send(t, "POST /refresh", "{}").answered(t, 200, `{`+kept+`}`)
	for name, value := range first {
		if b.cookies[name] == value {
			t.Errorf("%s is as before", name)
		}
	}
	access := b.cookies["__Host-access"]
	a.post(t, "/refresh", `{"refreshToken":"`+b.cookies["__Host-refresh"]+`"}`).refused(t, 401, "invalid_token", "") // another carrier

	delete(b.cookies, "__Host-access") // it expires first
	b.send(t, "GET /me", "").refused(t, 401, "unauthenticated", "")
	out := b.send(t, "POST /logout", "")
	out.answered(t, 204, "")
	if len(b.cookies) != 0 || len(out.Answer.Header["Set-Cookie"]) != 2 {
		t.Errorf("after logout: %v, %v", b.cookies, out.Answer.Header["Set-Cookie"])
	}
	a.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
	b.cookies["__Host-access"] = access
	b.send(t, "GET /me", "").refused(t, 401, "token_revoked", "")
	delete(b.cookies, "__Host-access")
	b.cookies["__Host-refresh"] = first["__Host-refresh"]
	b.send(t, "POST /refresh", "").refused(t, 401, "token_revoked", "")
	b.send(t, "POST /logout", "").answered(t, 204, "")

	// A session in bodies is none in cookies.
	b.cookies["__Host-refresh"] = a.post(t, "/login", credentials).member(t, "refreshToken")
	b.send(t, "POST /refresh", "").refused(t, 401, "invalid_token", "")

	// A cookie that is no token goes, and the account takes its cookies along.
	b.cookies = map[string]string{"__Host-access": "noise"}
	b.send(t, "POST /logout", "").refused(t, 401, "invalid_token", "")
	if len(b.cookies) != 0 {
		t.Errorf("%v", b.cookies)
	}
	b.login(t)
	b.send(t, "DELETE /me", "").answered(t, 204, "")
	if len(b.cookies) != 0 {
		t.Errorf("%v", b.cookies)
	}
}

// A login makes a session of its own, whatever the browser brings along, and the one that
// was in the cookies before ends.
func TestLoginReplacesTheSessionInCookies(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	b := from(a)
	seen := map[string]bool{}
	b.cookies["__Host-access"], b.cookies["__Host-refresh"] = "planted", "planted"
	for range 3 {
		before := maps.Clone(b.cookies)
		id := b.login(t).member(t, "sessionId")
		if seen[id] || len(id) != 36 {
			t.Errorf("session %s again", id)
		}
		seen[id] = true
		if len(seen) > 1 {
			a.get(t, "/verify", before["__Host-access"]).refused(t, 401, "token_revoked", "")
		}
	}
	b.send(t, "GET /verify", "").answered(t, 200, verified)

	// Ended from the list of another session, the cookies are worth nothing.
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	a.do(t, "DELETE /sessions", bearer(access), "").answered(t, 204, "")
	b.send(t, "GET /me", "").refused(t, 401, "token_revoked", "")
	b.send(t, "POST /refresh", "").refused(t, 401, "token_revoked", "")
}

func TestCarrierIsBodyOrCookie(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	a.post(t, "/login", strings.Replace(cookieLogin, "cookie", "pigeon", 1)).refused(t, 422, "validation_failed", `[{"field":"carrier","reason":"invalid"}]`)
	login := a.post(t, "/login", strings.Replace(cookieLogin, "cookie", "body", 1))
	login.answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
	if c := login.Answer.Header["Set-Cookie"]; c != nil {
		t.Errorf("%v", c)
	}
	a.post(t, "/refresh", `{"refreshToken":"`+login.member(t, "refreshToken")+`","carrier":"body"}`).
		refused(t, 400, "malformed_request", `[{"field":"carrier","reason":"unknown_member"}]`)
}

// Whoever can make a browser send a request cannot make it change anything.
func TestChangesByCookieNeedAPageOfOurs(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--cors-origins="+page)
	a.post(t, "/register", credentials)
	changes := map[string]string{ // in an order that keeps the session to the end
		"1 POST /login":           cookieLogin,
		"2 PATCH /me":             `{"name":"Ada"}`,
		"3 POST /me/password":     `{"currentPassword":"correct horse battery","newPassword":"correct horse battery"}`,
		"4 DELETE /sessions":      "",
		"5 DELETE /sessions/none": "",
		"6 POST /refresh":         "",
		"7 POST /logout":          "",
		"8 DELETE /me":            "",
	}
	lines := slices.Sorted(maps.Keys(changes))
	for name, header := range map[string]map[string][]string{
		"nothing":                    nil,
		"another site":               {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}},
		"a neighbour":                {"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://other.localhost:3000"}},
		"an old browser's page":      {"Origin": {"https://evil.example"}},
		"a sandbox":                  {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"null"}},
		"the address bar":            {"Sec-Fetch-Site": {"none"}},
		"the page in another scheme": {"Origin": {"http://app.example.com"}},
		"the page on another port":   {"Origin": {page + ":8443"}},
		"the page's subdomain":       {"Origin": {"https://evil.app.example.com"}},
		"the page's prefix":          {"Origin": {page + ".evil.example"}},
		"a referer":                  {"Referer": {page + "/"}},
	} {
		b := from(a)
		b.login(t)
		b.header = header
		for _, line := range lines {
			b.send(t, line[2:], changes[line]).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
			if t.Failed() {
				t.Fatal(name, line)
			}
		}
		b.send(t, "GET /me", "").answered(t, 200, strings.Replace(account, "Ada", "", 1)) // nothing has changed
	}
	for name, header := range map[string]map[string][]string{
		"of the edge":             {"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://127.0.0.1:3000"}},
		"of the edge, long ago":   {"Origin": {ownOrigin}},
		"of a configured origin":  {"Sec-Fetch-Site": {"cross-site"}, "Origin": {page}},
		"of a configured one ago": {"Origin": {page}},
	} {
		a.post(t, "/register", credentials)
		b := from(a)
		b.header = header
		for _, line := range lines {
			e := b.send(t, line[2:], changes[line])
			if line[2:] == "POST /logout" {
				b.send(t, "POST /login", cookieLogin) // and delete the account then
			}
			if e.Answer.Status >= 300 && line != "5 DELETE /sessions/none" || e.Answer.Status == 403 {
				t.Errorf("a page %s: %s: %d %s", name, line, e.Answer.Status, e.Answer.Body)
			}
		}
	}
}

// No state changes by GET, with or without proof.
func TestNothingChangesByGET(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	b := from(a)
	b.login(t)
	for _, path := range []string{"/login", "/register", "/refresh", "/logout", "/me/password"} {
		for _, method := range []string{"GET", "HEAD"} {
			if e := b.send(t, method+" "+path, ""); e.Answer.Status != 405 {
				t.Errorf("%s %s: %d", method, path, e.Answer.Status)
			}
		}
	}
	for _, path := range []string{"/me", "/sessions", "/verify"} {
		for _, override := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
			b.header[override] = []string{"DELETE"}
		}
		if e := b.send(t, "GET "+path, ""); e.Answer.Status != 200 {
			t.Errorf("%s: %d", path, e.Answer.Status)
		}
		b.send(t, "GET "+path+"?_method=DELETE", "").refused(t, 400, "malformed_request", `[{"field":"_method","reason":"unknown_member"}]`)
	}
	b.send(t, "GET /me", "").answered(t, 200, strings.Replace(account, "Ada", "", 1))
}

func TestTwoCredentialsInOneRequest(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	login := a.post(t, "/login", credentials)
	access, refresh := login.member(t, "accessToken"), login.member(t, "refreshToken")
	b := from(a)
	b.login(t)
	cookie := func(names ...string) string {
		var pairs []string
		for _, name := range names {
			pairs = append(pairs, name+"="+b.cookies[name])
		}
		return strings.Join(pairs, "; ")
	}
	const host, hostRefresh = "__Host-access", "__Host-refresh"
	for _, c := range []struct{ line, bearer, cookie, body string }{
		{"GET /me", access, cookie(host), ""},
		{"GET /sessions", access, cookie(host), ""},
		{"GET /me", "", cookie(host, host), ""},
		{"DELETE /me", access, cookie(host), `{"password":"correct horse battery"}`},
		{"DELETE /sessions", access, cookie(host), ""},
		{"DELETE /sessions/x", access, cookie(host), ""},
		{"POST /me/password", access, "", `{"token":"` + access + `","currentPassword":"a","newPassword":"b"}`},
		{"POST /me/password", "", cookie(host), `{"token":"` + access + `","currentPassword":"a","newPassword":"b"}`},
		{"POST /refresh", "", cookie(hostRefresh), `{"refreshToken":"` + refresh + `"}`},
		{"POST /refresh", "", cookie(hostRefresh, hostRefresh), ""},
		{"POST /logout", access, "", `{"token":"` + access + `"}`},
		{"POST /logout", access, "", `{"refreshToken":"` + refresh + `"}`},
		{"POST /logout", "", "", `{"token":"` + access + `","refreshToken":"` + refresh + `"}`},
		{"POST /logout", access, cookie(host), ""},
		{"POST /logout", access, cookie(hostRefresh), ""},
		{"POST /logout", access, cookie(host, hostRefresh), ""},
		{"POST /logout", "", cookie(hostRefresh), `{"refreshToken":"` + refresh + `"}`},
		{"POST /logout", "", cookie(hostRefresh), `{"token":"` + access + `"}`},
		{"POST /logout", "", cookie(host), `{"refreshToken":"` + refresh + `"}`},
	} {
		header := map[string][]string{"Sec-Fetch-Site": {"same-origin"}}
		if c.body != "" {
			header["Content-Type"] = []string{"application/json"}
		}
		if c.bearer != "" {
			header["Authorization"] = []string{"Bearer " + c.bearer}
		}
		if c.cookie != "" {
			header["Cookie"] = []string{c.cookie}
		}
		a.do(t, c.line, header, c.body).refused(t, 400, "malformed_request", "")
	}
	ask(t, conn, "auth.logout", bearer(access), `{"refreshToken":"`+refresh+`"}`).refused(t, 400, "malformed_request", "")
	a.get(t, "/verify", access).answered(t, 200, verified) // nothing has ended
	b.send(t, "GET /verify", "").answered(t, 200, verified)
}

func TestTokenInTheBodyOfAPost(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	conn := connect(t, a.nats)
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	with := func(rest string) string { return `{"token":"` + access + `"` + rest + `}` }

	a.post(t, "/me/password", with(`,"currentPassword":"correct horse battery","newPassword":"battery staple"`)).answered(t, 200, `{`+tokens+`}`)
	a.post(t, "/me/password", with(`,"currentPassword":"battery staple","newPassword":"battery staple","admin":true`)).
		refused(t, 400, "malformed_request", `[{"field":"admin","reason":"unknown_member"}]`)
	a.post(t, "/me/password", `{"token":1}`).refused(t, 400, "malformed_request", `[{"field":"token","reason":"wrong_type"}]`)
	a.post(t, "/me/password", `{"token":null}`).refused(t, 400, "malformed_request", `[{"field":"token","reason":"wrong_type"}]`)
	a.post(t, "/me/password", `{"token":"a","token":"b"}`).refused(t, 400, "malformed_request", `[{"field":"token","reason":"duplicate_member"}]`)
	a.post(t, "/me/password", `{"Token":"a"}`).refused(t, 400, "malformed_request", `[{"field":"Token","reason":"unknown_member"}]`)

	// On POST alone, where a bearer token has a meaning, and over HTTP alone.
	a.post(t, "/register", with("")).refused(t, 400, "malformed_request", `[{"field":"token","reason":"unknown_member"}]`)
	a.do(t, "PATCH /me", jsonBody, with(`,"name":"Ada"`)).refused(t, 400, "malformed_request", `[{"field":"token","reason":"unknown_member"}]`)
	a.do(t, "DELETE /me", jsonBody, with("")).refused(t, 400, "malformed_request", `[{"field":"token","reason":"unknown_member"}]`)
	ask(t, conn, "auth.logout", nil, with("")).refused(t, 400, "malformed_request", `[{"field":"token","reason":"unknown_member"}]`)

	a.post(t, "/logout", with("")).answered(t, 204, "")
	a.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
}

func TestPagesOfConfiguredOriginsReadAnswers(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--cors-origins="+page+", https://other.example.com:8443")
	a.post(t, "/register", credentials)
	ask := func(line, origin string, preflight bool) exchange {
		header := map[string][]string{"Origin": {origin}}
		if preflight {
			header["Access-Control-Request-Method"] = []string{"PATCH"}
			header["Access-Control-Request-Headers"] = []string{"authorization,baggage,content-type,sentry-trace,traceparent,tracestate"}
		}
		return a.do(t, line, header, "")
	}
	for _, origin := range []string{page, "https://other.example.com:8443"} {
		share := map[string]string{"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
		for _, line := range []string{"GET /me", "GET /healthz", "GET /nothing", "PUT /me", "POST /login"} { // whatever comes of it
			e := ask(line, origin, false)
			e.has(t, share)
			e.has(t, map[string]string{"Access-Control-Expose-Headers": "Retry-After,WWW-Authenticate,X-Request-Id", "Vary": "Origin"})
		}
		e := ask("OPTIONS /me", origin, true)
		e.answered(t, 204, "")
		e.has(t, share)
		e.has(t, map[string]string{
			"Access-Control-Allow-Methods": "GET,POST,PATCH,DELETE", "Access-Control-Allow-Headers": "Authorization,Content-Type,traceparent,tracestate,baggage,sentry-trace",
			"Access-Control-Max-Age": "600",
		})
		e.secured(t)
	}
	for _, origin := range []string{"null", "https://evil.example", "http://app.example.com", page + ".evil.example", page + ":443", "https://evilapp.example.com", ownOrigin} {
		for _, e := range []exchange{ask("GET /me", origin, false), ask("OPTIONS /me", origin, true)} {
			for name := range e.Answer.Header {
				if name == "Access-Control-Allow-Origin" || name == "Access-Control-Allow-Credentials" {
					t.Errorf("%s from %s: %s: %q", e.Request.To, origin, name, e.Answer.Header[name])
				}
			}
		}
	}
	e := startInside(t).do(t, "GET /healthz", map[string][]string{"Origin": {page}}, "") // nobody is configured
	if _, ok := e.Answer.Header["Access-Control-Allow-Origin"]; ok {
		t.Errorf("%v", e.Answer.Header)
	}
}

// Another scheme is no credential here: a page behind Basic authentication sends it with each request.
func TestAnotherSchemeBesideCookies(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	b := from(a)
	b.header["Authorization"] = []string{"Basic YTpi"}
	b.login(t)
	b.send(t, "GET /me", "").answered(t, 200, strings.Replace(account, "Ada", "", 1))
	b.send(t, "PATCH /me", `{"name":"Ada"}`).answered(t, 200, account)
	b.send(t, "GET /verify", "").answered(t, 200, verified)
	b.send(t, "POST /refresh", "").answered(t, 200, `{`+kept+`}`)
	b.send(t, "DELETE /sessions", "").answered(t, 204, "")
	b.send(t, "POST /logout", "").answered(t, 204, "")
	b.send(t, "GET /me", "").refused(t, 401, "unauthenticated", "")
	b.send(t, "POST /refresh", "").refused(t, 401, "unauthenticated", "")

	access := a.post(t, "/login", credentials).member(t, "accessToken")
	header := map[string][]string{"Authorization": {"Bearer  " + access}}
	a.do(t, "GET /me", header, "").answered(t, 200, account)
	conn := connect(t, a.nats)
	ask(t, conn, "auth.account.get", header, "").replied(t, account)
	ask(t, conn, "auth.account.get", map[string][]string{"Authorization": {"Basic YTpi"}}, "").refused(t, 401, "unauthenticated", "")
}
