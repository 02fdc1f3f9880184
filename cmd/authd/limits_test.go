package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// house is the service as whoever guesses sees it: one or two instances, each with both doors.
type house struct {
	instances []*instance
	conns     []*nats.Conn // to their buses
	database  string
}

// eachHouse runs f with a house on either database, in which ada is registered: on Postgres, two
// instances share it.
func eachHouse(t *testing.T, f func(t *testing.T, h house), flags ...string) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) house{
		"SQLite": func(t *testing.T) house {
			a := startInside(t, flags...)
			return house{instances: []*instance{a}, database: "sqlite://" + a.dir + "/data/authd.db"}
		},
		"two instances on Postgres": func(t *testing.T) house {
			url := testpg.URL(t)
			flags := append(withPostgres(url), flags...)
			return house{instances: []*instance{start(t, flags...), startInside(t, flags...)}, database: url}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			for _, a := range h.instances {
				h.conns = append(h.conns, a.asApp(t))
			}
			h.instances[0].post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
			f(t, h)
		})
	}
}

func login(address, password string) string {
	return fmt.Sprintf(`{"email":%q,"password":%q}`, address, password)
}

// sentFrom is a request of the bus with the source that it comes from.
func sentFrom(ip, body string) string {
	return strings.TrimSuffix(body, "}") + `,"client":{"ip":"` + ip + `"}}`
}

const (
	wrong    = `{"email":"ada@example.com","password":"wrong"}`
	loopback = "127.0.0.1" // where the tests' own requests over HTTP come from
	faraway  = "198.51.100.7"
)

// ways sends a login from this machine through every door of every instance.
func (h house) ways() (all []func(t *testing.T, body string) exchange) {
	for i, a := range h.instances {
		all = append(all,
			func(t *testing.T, body string) exchange { return a.post(t, "/login", body) },
			func(t *testing.T, body string) exchange {
				return ask(t, h.conns[i], "auth.login", nil, sentFrom(loopback, body))
			})
	}
	return all
}

// limited wants the answer of either door to a try that has to wait, and returns what it says
// but for how long.
func (e exchange) limited(t *testing.T) (says string) {
	t.Helper()
	var body struct {
		Code       string
		Message    string
		RetryAfter int64
	}
	check(t, json.Unmarshal([]byte(e.Answer.Body), &body))
	if body.Code != "rate_limited" || body.RetryAfter < 1 || body.RetryAfter > 900 {
		t.Fatalf("%s: %d %v %s, want rate_limited", e.Request.To, e.Answer.Status, e.Answer.Header, e.Answer.Body)
	}
	if e.Answer.Status == 0 {
		e.has(t, map[string]string{"Nats-Service-Error": body.Message, "Nats-Service-Error-Code": "429"})
	} else {
		e.secured(t)
		e.has(t, map[string]string{"Content-Type": "application/problem+json", "Retry-After": strconv.FormatInt(body.RetryAfter, 10)})
		if e.Answer.Status != http.StatusTooManyRequests {
			t.Errorf("%s: status %d", e.Request.To, e.Answer.Status)
		}
	}
	return regexp.MustCompile(`"retryAfter":\d+`).ReplaceAllString(e.Answer.Body, `"retryAfter":0`)
}

func TestFiveWrongPasswordsThroughAnyDoorAndThenOneHasToWait(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		ways := h.ways()
		for i := range 5 {
			ways[i%len(ways)](t, wrong).refused(t, 401, "invalid_credentials", "")
		}
		for _, way := range ways {
			says := way(t, wrong).limited(t)
			if right := way(t, credentials).limited(t); right != says {
				t.Errorf("the right password is told %s\nanother one %s", right, says)
			}
		}
		for _, conn := range h.conns {
			ask(t, conn, "auth.login", nil, sentFrom(faraway, credentials)).member(t, "accessToken")
			ask(t, conn, "auth.login", nil, credentials).member(t, "accessToken")
		}
	})
}

func TestHoweverAnAddressIsSpelledItIsOneAccount(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		ways := h.ways()
		for _, spellings := range [][]string{
			{"ada@example.com", "ADA@example.com", "Ada@EXAMPLE.com"},
			{"andr\u00e9@example.com", "andre\u0301@example.com", "ANDR\u00c9@example.com"},
			{"ada@b\u00fccher.example", "ada@xn--bcher-kva.example", "ada@BU\u0308CHER.example"},
			{"neither address nor account"},
		} {
			for i := range 5 {
				ways[i%len(ways)](t, login(spellings[i%len(spellings)], "wrong")).refused(t, 401, "invalid_credentials", "")
			}
			for i, spelling := range spellings {
				ways[i%len(ways)](t, login(spelling, "correct horse battery")).limited(t)
			}
		}
	})
}

func TestASuccessBeginsAnew(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		ways := h.ways()
		for i := range 3 {
			for n := range 4 {
				ways[(i+n)%len(ways)](t, wrong).refused(t, 401, "invalid_credentials", "")
			}
			ways[i%len(ways)](t, credentials).member(t, "accessToken")
		}
	})
}

// Whoever has tried too often gets in with the password that an operator sets, at every door.
func TestASetPasswordLetsItsUserIn(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		const fresh = "battery staple blues"
		for range 5 {
			h.instances[0].post(t, "/login", wrong).refused(t, 401, "invalid_credentials", "")
		}
		for _, way := range h.ways() {
			way(t, credentials).limited(t)
		}
		ask(t, asAdmin(t, h.instances[0]), "auth.admin.users.set_password", nil, `{"userId":1,"password":"`+fresh+`"}`).replied(t, `{"ended":0}`)
		for _, way := range h.ways() {
			until(t, "let in", func() bool {
				return strings.Contains(way(t, login("ada@example.com", fresh)).Answer.Body, "accessToken")
			})
		}
	})
}

func TestEveryRequestWithAPasswordCountsAsALogin(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		own := bearer(h.instances[0].post(t, "/login", credentials).member(t, "accessToken"))
		inJSON := map[string][]string{"Authorization": own["Authorization"], "Content-Type": {"application/json"}}
		change := func(password string) string {
			return `{"currentPassword":"` + password + `","newPassword":"battery staple horse"}`
		}
		remove := func(password string) string { return `{"password":"` + password + `"}` }
		a, conn := h.instances[len(h.instances)-1], h.conns[0]
		tries := func(password string) []exchange {
			return []exchange{
				a.do(t, "POST /me/password", inJSON, change(password)),
				ask(t, conn, "auth.password.change", own, sentFrom(loopback, change(password))),
				a.do(t, "DELETE /me", inJSON, remove(password)),
				ask(t, conn, "auth.account.delete", own, sentFrom(loopback, remove(password))),
			}
		}
		h.instances[0].post(t, "/login", wrong).refused(t, 401, "invalid_credentials", "")
		for _, e := range tries("wrong") {
			e.refused(t, 401, "invalid_credentials", "")
		}
		for _, e := range append(tries("correct horse battery"), h.instances[0].post(t, "/login", credentials)) {
			e.limited(t)
		}
		ask(t, conn, "auth.password.change", own, sentFrom("nowhere", change("wrong"))).refused(t, 422, "validation_failed", `[{"field":"client.ip","reason":"invalid"}]`)
		ask(t, conn, "auth.account.delete", own, sentFrom(faraway, remove("correct horse battery"))).replied(t, "{}")
	})
}

func TestOfManyAtOnceJustTheBurstIsCompared(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		answers := make([]exchange, 64)
		check(t, all(len(answers), func(i int) (err error) {
			answers[i], err = h.instances[i%len(h.instances)].try("POST /login", jsonBody, wrong)
			return err
		}))
		compared := 0
		for _, e := range answers {
			if e.Answer.Status == http.StatusUnauthorized {
				compared++
				continue
			}
			e.limited(t)
		}
		if compared != 5 {
			t.Errorf("%d passwords were compared", compared)
		}
	})
}

// An attempt counts although its client hangs up before the answer. The interval is so long that no
// count runs out during the test.
func TestHangingUpCounts(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--limit-login=5/15m")
	conn := a.asApp(t)
	a.post(t, "/register", credentials)
	locked, err := conn.SubscribeSync("user.locked")
	check(t, err)
	check(t, conn.Flush())
	reasons := func() (list []string) {
		for _, o := range outcomes(a.log(t)) {
			if o.Subject == "auth.login" {
				list = append(list, o.Reason)
			}
		}
		return list
	}
	hangUp := func() {
		before := len(reasons())
		if before%2 == 0 {
			check(t, conn.PublishRequest("auth.login", nats.NewInbox(), []byte(sentFrom(loopback, wrong))))
		} else {
			peer, err := net.Dial("tcp", strings.TrimPrefix(a.http, "http://"))
			check(t, err)
			_, err = fmt.Fprintf(peer, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(wrong), wrong)
			check(t, err)
			check(t, peer.Close())
		}
		until(t, "the attempt has an outcome", func() bool { return len(reasons()) > before })
	}
	for !slices.Contains(reasons(), "rate_limited") {
		if len(reasons()) == 20 {
			t.Fatalf("none of 20 attempts has to wait: %v", reasons())
		}
		hangUp()
	}
	compared := slices.DeleteFunc(reasons(), func(r string) bool { return r != "wrong_password" })
	if len(compared) == 0 || len(compared) > 5 {
		t.Errorf("%d passwords were compared: %v", len(compared), reasons())
	}
	_, err = locked.NextMsg(patience)
	check(t, err)
	a.post(t, "/login", credentials).limited(t)
}

// Only configured proxies are asked whom they ask for, and an IPv6 network is one source.
func TestForwardingHeadersDoNotMakeSources(t *testing.T) {
	t.Parallel()
	forwarded := func(t *testing.T, a *instance, hops, body string) exchange {
		t.Helper()
		return a.do(t, "POST /login", map[string][]string{"Content-Type": {"application/json"}, "X-Forwarded-For": {hops}}, body)
	}
	t.Run("without proxies", func(t *testing.T) {
		t.Parallel()
		a := startInside(t)
		a.post(t, "/register", credentials)
		for i := range 5 {
			forwarded(t, a, fmt.Sprint("203.0.113.", i), wrong).refused(t, 401, "invalid_credentials", "")
		}
		forwarded(t, a, "203.0.113.9", credentials).limited(t)
		a.post(t, "/login", credentials).limited(t)
	})
	t.Run("behind a proxy", func(t *testing.T) {
		t.Parallel()
		a := startInside(t, "--trusted-proxies=127.0.0.1")
		a.post(t, "/register", credentials)
		for i := range 5 {
			forwarded(t, a, fmt.Sprintf("203.0.113.%d, 2001:db8:1:2::%d", i, i), wrong).refused(t, 401, "invalid_credentials", "")
		}
		forwarded(t, a, "2001:db8:1:2:ffff:ffff:ffff:ffff", credentials).limited(t)
		ask(t, a.asApp(t), "auth.login", nil, sentFrom("2001:db8:1:2::", credentials)).limited(t)
		forwarded(t, a, "2001:db8:1:3::1", credentials).member(t, "accessToken")
	})
}

// What strangers use up from many sources keeps out strangers, and not where the owner is.
func TestTheOwnerGetsInWhileStrangersHaveToWait(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		h.instances[0].post(t, "/login", credentials).member(t, "accessToken")
		for i := range 6 {
			ask(t, h.conns[i%len(h.conns)], "auth.login", nil, sentFrom(fmt.Sprint("203.0.113.", i), wrong)).refused(t, 401, "invalid_credentials", "")
		}
		for _, conn := range h.conns {
			ask(t, conn, "auth.login", nil, sentFrom(faraway, credentials)).limited(t)
		}
		for _, a := range h.instances {
			a.post(t, "/login", wrong).refused(t, 401, "invalid_credentials", "")
		}
		h.instances[0].post(t, "/login", credentials).member(t, "accessToken")
	}, "--limit-login-account=6/15m")
}

func TestRegistrationsAreLimited(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) { // in which one was registered
		register := func(i int) exchange {
			body := strings.Replace(credentials, "ada", fmt.Sprint("user", i/2), 1)
			if i%2 == 0 {
				return ask(t, h.conns[i%len(h.conns)], "auth.register", nil, sentFrom(loopback, body))
			}
			return h.instances[i%len(h.instances)].post(t, "/register", body) // taken, and counted
		}
		for i := range 19 {
			if e := register(i); strings.Contains(e.Answer.Body, "rate_limited") {
				t.Fatalf("%d: %s", i, e.Answer.Body)
			}
		}
		register(20).limited(t)
		register(21).limited(t)
		h.instances[0].post(t, "/register", `{"email":"nobody","password":"short"}`).refused(t, 422, "validation_failed", `[{"field":"email","reason":"invalid"},{"field":"password","reason":"too_short"}]`)
		ask(t, h.conns[0], "auth.register", nil, sentFrom(faraway, strings.Replace(credentials, "ada", "bob", 1))).member(t, "message")
	})
}

func TestRefreshesOfASessionAreLimited(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		token := h.instances[0].post(t, "/login", credentials).member(t, "refreshToken")
		for i := range 30 {
			body := `{"refreshToken":"` + token + `"}`
			if i%2 == 0 {
				token = h.instances[i%len(h.instances)].post(t, "/refresh", body).member(t, "refreshToken")
			} else {
				token = ask(t, h.conns[i%len(h.conns)], "auth.refresh", nil, body).member(t, "refreshToken")
			}
		}
		body := `{"refreshToken":"` + token + `"}`
		h.instances[0].post(t, "/refresh", body).limited(t)
		ask(t, h.conns[0], "auth.refresh", nil, body).limited(t)
	}, "--limit-refresh-session=30/15m")
}

// One event for a block, however many run into it, and none for an address without an account.
func TestABlockIsToldOnce(t *testing.T) {
	eachHouse(t, func(t *testing.T, h house) {
		heard, err := h.conns[0].SubscribeSync("user.locked")
		check(t, err)
		check(t, h.conns[0].Flush())
		ways := h.ways()
		for _, address := range []string{"nobody@example.com", "no address", "ada@example.com"} {
			for i := range 5 {
				ways[i%len(ways)](t, login(address, "wrong")).refused(t, 401, "invalid_credentials", "")
			}
			for i := range 8 {
				ways[i%len(ways)](t, login(address, "wrong")).limited(t)
			}
		}
		if len(h.instances) == 1 { // otherwise either relay may publish it, each on a bus of its own
			m, err := heard.NextMsg(patience)
			check(t, err)
			if got := mask(string(m.Data)); !strings.HasPrefix(got, `{"userId":1,"until":"<time>","client":{"ip":"127.0.0.1"`) || m.Header.Get("ce-subject") != "1" {
				t.Errorf("%v %s", m.Header, got)
			}
		}
		if n := h.emitted(t, "user.locked"); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

// emitted counts the events of a type in the database.
func (h house) emitted(t *testing.T, kind string) (n int) {
	t.Helper()
	store, err := persistence.Open(t.Context(), h.database)
	check(t, err)
	defer func() { check(t, store.Close()) }()
	check(t, store.DB().NewRaw("SELECT count(*) FROM outbox WHERE type = ?", kind).Scan(t.Context(), &n))
	return n
}

func TestRateLimitsCanBeLifted(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--rate-limits=off")
	if !strings.Contains(a.line(t, "RATE_LIMITS=off"), `"level":"WARN"`) {
		t.Error("that is no warning")
	}
	a.post(t, "/register", credentials)
	for range 8 {
		a.post(t, "/login", wrong).refused(t, 401, "invalid_credentials", "")
	}
	token := a.post(t, "/login", credentials).member(t, "refreshToken")
	for range 40 {
		token = a.post(t, "/refresh", `{"refreshToken":"`+token+`"}`).member(t, "refreshToken")
	}
}

func TestGoldenRateLimited(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--limit-login=1/15m")
	a.post(t, "/login", credentials)
	for name, e := range map[string]exchange{
		"http-rate-limited": a.post(t, "/login", credentials),
		"nats-rate-limited": ask(t, a.asApp(t), "auth.login", nil, sentFrom(loopback, credentials)),
	} {
		e.Answer.Body = e.limited(t)
		if e.Answer.Status != 0 {
			e.Answer.Header["Retry-After"] = []string{"0"}
		}
		golden(t, name, e)
	}
}
