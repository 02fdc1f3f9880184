package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// lastSeen logs in with the headers and returns where the service thinks that came from.
func lastSeen(t *testing.T, a *instance, header map[string][]string) string {
	t.Helper()
	header["Content-Type"] = []string{"application/json"}
	access := a.do(t, "POST /login", header, credentials).member(t, "accessToken")
	var list struct {
		Sessions []struct {
			CreatedIP string
			Current   bool
		}
	}
	check(t, json.Unmarshal([]byte(a.get(t, "/sessions", access).Answer.Body), &list))
	for _, s := range list.Sessions {
		if s.Current {
			return s.CreatedIP
		}
	}
	t.Fatal("no current session")
	return ""
}

func TestForwardingHeadersCountFromTrustedProxiesAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, proxies, want string }{
		{"nobody is trusted", "", "127.0.0.1"},
		{"another is trusted", "10.0.0.0/8", "127.0.0.1"},
		{"the peer is trusted", "127.0.0.1", "192.0.2.9"},
		{"the peer's network is trusted", "10.1.0.0/16, 127.0.0.0/8", "192.0.2.9"},
		{"the hop before is trusted too", "127.0.0.1,192.0.2.0/24", "198.51.100.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := startInside(t, "--trusted-proxies="+c.proxies)
			a.post(t, "/register", credentials)
			for _, header := range []map[string][]string{
				{"X-Forwarded-For": {"203.0.113.66, 198.51.100.7, 192.0.2.9"}},
				{"X-Forwarded-For": {"203.0.113.66", "198.51.100.7,192.0.2.9"}},
				{"X-Forwarded-For": {"203.0.113.66:1, 198.51.100.7:40000 , 192.0.2.9:5"}},
				{"X-Forwarded-For": {"203.0.113.66, 198.51.100.7, ::ffff:192.0.2.9"}},
			} {
				for _, spoofed := range []string{"X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip", "X-Client-Ip", "Client-Ip"} {
					header[spoofed] = []string{"203.0.113.66"}
				}
				if got := lastSeen(t, a, header); got != c.want {
					t.Errorf("%v: %s, want %s", header["X-Forwarded-For"], got, c.want)
				}
			}
			if c.want == "127.0.0.1" {
				return
			}
			// What cannot be read, and all left of it, is nobody's word.
			for text, want := range map[string]string{
				"":                          "127.0.0.1",
				"unknown":                   "127.0.0.1",
				"198.51.100.7, 192.0.2.999": "127.0.0.1",
				"127.0.0.1":                 "127.0.0.1",
				"2001:db8::1":               "2001:db8::1",
				"[2001:db8::1]:443":         "2001:db8::1",
				"fe80::1%eth0":              "fe80::1",
			} {
				if got := lastSeen(t, a, map[string][]string{"X-Forwarded-For": {text}}); got != want {
					t.Errorf("%q: %s, want %s", text, got, want)
				}
			}
		})
	}
}

// Every answer has the headers, whoever gives it: a route, Fiber, or fasthttp beneath it.
func TestEveryAnswerIsSecured(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--cors-origins="+page)
	a.post(t, "/register", credentials).secured(t)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	for _, line := range []string{
		"GET /me", "GET /sessions", "GET /verify", "GET /healthz", "GET /readyz", "HEAD /me", "PATCH /me", "GET /", "GET /nothing",
		"PUT /login", "OPTIONS /login", "TRACE /login", "BREW /coffee", "GET /%2e%2e/%2e%2e/etc/passwd", "GET /?%zz", "DELETE /sessions/none",
	} {
		a.do(t, line, bearer(access), "").secured(t)
	}
	a.post(t, "/login", "[").secured(t)
	a.post(t, "/login", padded(64<<10+1)).secured(t)
	a.do(t, "POST /login", nil, credentials).secured(t)
	a.do(t, "POST /logout", bearer(access), "").secured(t)
}

// A sender who takes their time gets ten seconds for a request, and others are served
// meanwhile, among a thousand connections that say nothing.
func TestSlowAndIdleConnectionsHurtNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the ten seconds that a slow request gets")
	}
	t.Parallel()
	a := start(t)
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	address := strings.TrimPrefix(a.http, "http://")
	open := func(first string) net.Conn {
		conn, err := net.Dial("tcp", address)
		check(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, first)
		check(t, err)
		return conn
	}
	for range 1000 {
		open("")
	}
	const head = "POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
	slow := map[string]net.Conn{
		"says nothing":      open(""),
		"a slow header":     open("POST /login HTTP/1.1\r\nHost: a\r\n"),
		"a slow body":       open(head + "Content-Length: 100\r\n\r\n{"),
		"a slow chunk":      open(head + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
		"a slow next one":   open("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /he"),
		"a large slow body": open(head + "Content-Length: 60000\r\n\r\n" + strings.Repeat(" ", 30_000)),
	}
	for range 20 {
		a.get(t, "/verify", access).answered(t, 200, verified)
	}
	begun := time.Now()
	dripping := make(chan struct{})
	defer close(dripping)
	for _, conn := range slow {
		go func() { // a byte now and then does not buy more time
			for {
				select {
				case <-time.After(time.Second):
					if _, err := io.WriteString(conn, " "); err != nil {
						return
					}
				case <-dripping:
					return
				}
			}
		}()
	}
	for name, conn := range slow {
		check(t, conn.SetReadDeadline(begun.Add(patience)))
		if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open after %s", name, patience)
		}
	}
	a.get(t, "/verify", access).answered(t, 200, verified)
}

// A path is what it says: no variant of one passes for another, and none reaches a route
// without its guard.
func TestPathVariantsAreOtherPaths(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	address := strings.TrimPrefix(a.http, "http://")
	for _, target := range []string{
		"/me/", "//me", "/./me", "/x/../me", "/ME", "/%6de", "/me%2f", "/me;x=y", "/me%00", "/me/.", "/%2e/me", "/me%20", "/me/password/../../me", "\\me", "/me#x",
	} {
		conn, err := net.Dial("tcp", address)
		check(t, err)
		check(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", target)
		check(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		check(t, err)
		if resp.StatusCode != 404 && resp.StatusCode != 400 && resp.StatusCode != 401 {
			t.Errorf("%s: %d", target, resp.StatusCode)
		}
		conn.Close()
	}
	a.get(t, "/me", "").refused(t, 401, "unauthenticated", "")
}

// crowd is an authd with many users, each with a session, made behind its back: hashing
// their passwords would take the test's time.
func crowd(t *testing.T, n int) (a *instance, access []string) {
	t.Helper()
	const secret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"
	a = startInside(t, "--access-token-secret="+secret)
	store, err := persistence.Open(t.Context(), "sqlite://"+a.dir+"/data/authd.db")
	check(t, err)
	defer func() { check(t, store.Close()) }()
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range n {
		id, err := store.CreateUser(t.Context(), persistence.NewUser{
			Email: fmt.Sprintf("user%d@example.com", i), EmailKey: fmt.Sprintf("user%d@example.com", i), Name: name(i, 0), At: now,
		})
		check(t, err)
		session := fmt.Sprintf("%036d", i)
		check(t, store.CreateSession(t.Context(), persistence.Session{
			ID: session, UserID: id, Generation: 1, AMR: []string{"pwd"}, CreatedAt: now, UsedAt: now,
			Used: auth.ClientInfo{UserAgent: name(i, 0)}, ExpiresAt: now.Add(time.Hour), DeadlineAt: now.Add(time.Hour), Carrier: auth.CarrierBody,
		}))
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iss": "http://localhost:3000", "aud": "zyotra", "sub": fmt.Sprint(id), "userId": fmt.Sprint(id), "sid": session, "jti": uuid.NewString(),
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "auth_time": now.Unix(), "amr": []string{"pwd"}, "scope": "",
		})
		token.Header["typ"] = "at+jwt"
		signed, err := token.SignedString([]byte(secret))
		check(t, err)
		access = append(access, signed)
	}
	return a, access
}

// name is the one that user i has after n changes: long, and like nobody else's.
func name(i, n int) string { return strings.Repeat(fmt.Sprintf("%d.%d ", i, n), 20) }

// Buffers are used again by the next request; what is in them must not be.
func TestParallelUsersNeverSeeEachOther(t *testing.T) {
	t.Parallel()
	const users, rounds = 200, 4
	const workers = 8 // so few that none waits for longer than the edge does, on a busy machine too
	a, access := crowd(t, users)
	conn := connect(t, a.nats)
	holds := func(e exchange, i, n int) error {
		body, err := url.QueryUnescape(e.Answer.Body)
		if err != nil {
			return err
		}
		if strings.Contains(body, "@") && !strings.Contains(body, fmt.Sprintf(`"user%d@example.com"`, i)) || !strings.Contains(body, name(i, n)) {
			return fmt.Errorf("user %d after %d: %s: %d %.200s", i, n, e.Request.To, e.Answer.Status, e.Answer.Body)
		}
		return nil
	}
	act := func(i int) error {
		own := bearer(access[i])
		for n := range rounds {
			e, err := a.served("GET /me", own, "")
			if err := errors.Join(err, holds(e, i, n)); err != nil {
				return err
			}
			if e, err = a.served("GET /sessions", own, ""); err != nil {
				return err
			}
			if err := holds(e, i, 0); err != nil { // the session's user agent
				return err
			}
			header := bearer(access[i])
			header["Content-Type"] = []string{"application/json"}
			e, err = a.try("PATCH /me", header, `{"name":"`+name(i, n+1)+`"}`)
			if err := errors.Join(err, holds(e, i, n+1)); err != nil {
				return err
			}
			if e, err = a.try("PATCH /me", header, fmt.Sprintf(`{"nobody%dknows":1}`, i)); err != nil {
				return err
			}
			if !strings.Contains(e.Answer.Body, fmt.Sprintf(`"nobody%dknows"`, i)) {
				return fmt.Errorf("user %d: %s", i, e.Answer.Body)
			}
			e = ask(t, conn, "auth.account.get", own, "")
			if err := holds(e, i, n+1); err != nil {
				return err
			}
		}
		return nil
	}
	check(t, all(workers, func(w int) error {
		for i := w; i < users; i += workers {
			if err := act(i); err != nil {
				return err
			}
		}
		return nil
	}))
	if log := a.stderr.String(); strings.Contains(log, "@example.com") || strings.Contains(log, "eyJ") {
		t.Error("the log tells of users")
	}
}

// A member of a query that a route does not know could be a mistake for one that it does.
func TestQueriesAreReadStrictly(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--docs=public")
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	for query, fields := range map[string]string{
		"scopes=a":         `[{"field":"scopes","reason":"unknown_member"}]`,
		"Scope=a":          `[{"field":"Scope","reason":"unknown_member"}]`,
		"scope=":           `[{"field":"scope","reason":"empty"}]`,
		"scope":            `[{"field":"scope","reason":"empty"}]`,
		"scope=&scope=x":   `[{"field":"scope","reason":"empty"}]`,
		"scope=x&scope=x":  `[{"field":"scope","reason":"duplicate_member"}]`,
		"scope=%20":        `[{"field":"scope","reason":"syntax"}]`,
		"scope=a++b":       `[{"field":"scope","reason":"syntax"}]`,
		"scope=a%09b":      `[{"field":"scope","reason":"syntax"}]`,
		"scope=%22":        `[{"field":"scope","reason":"syntax"}]`,
		"scope=x&_method=": `[{"field":"_method","reason":"unknown_member"}]`,
	} {
		a.get(t, "/verify?"+query, access).refused(t, 400, "malformed_request", fields)
	}
	a.get(t, "/verify?scope=x", access).refused(t, 403, "insufficient_scope", "")
	a.get(t, "/verify?", access).answered(t, 200, verified) // Caddy's "uri /verify?" may leave it
	var described struct {
		Paths map[string]map[string]json.RawMessage
	}
	check(t, json.Unmarshal([]byte(document(t, "openapi.json", nil)), &described))
	for path, operations := range described.Paths {
		if _, ok := operations["get"]; !ok {
			continue
		}
		path = strings.NewReplacer("{file}", "start.js", "{id}", "x").Replace(path)
		a.get(t, path+"?nobody=knows", access).refused(t, 400, "malformed_request", `[{"field":"nobody","reason":"unknown_member"}]`)
		a.get(t, path+"?nobody", access).refused(t, 400, "malformed_request", `[{"field":"nobody","reason":"unknown_member"}]`)
	}
}
