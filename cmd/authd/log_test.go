package main

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
)

// logLine is a record of the log.
type logLine struct {
	Time, Level, Msg, Subject, Outcome, Reason, Method, Route, Code, RequestID, TraceID string
}

// log returns the records that have arrived. The last line may be incomplete: another process writes it.
func (a *instance) log(t *testing.T) (records []logLine) {
	t.Helper()
	for text := range strings.Lines(a.stderr.String()) {
		if !strings.HasSuffix(text, "\n") {
			break
		}
		var l logLine
		check(t, json.Unmarshal([]byte(text), &l))
		records = append(records, l)
	}
	return records
}

// lines returns the records with the id of a request.
func (a *instance) lines(t *testing.T, id string) []logLine {
	t.Helper()
	return slices.DeleteFunc(a.log(t), func(l logLine) bool { return l.RequestID != id })
}

// outcomes returns the records of the authentication log.
func outcomes(lines []logLine) []logLine {
	return slices.DeleteFunc(slices.Clone(lines), func(l logLine) bool { return l.Msg != "authentication" })
}

// outcome waits until the authentication log has a record of a request, and returns all of them. A
// reply may arrive before the log of another process does.
func (a *instance) outcome(t *testing.T, id string) (got []logLine) {
	t.Helper()
	until(t, "the outcome of "+id+" is logged", func() bool {
		got = outcomes(a.lines(t, id))
		return len(got) > 0
	})
	return got
}

func (m message) requestID() string { return http.Header(m.Header).Get("X-Request-Id") }

var uuidV7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// A request has one name, from the answer over the edge's log to that of the handlers, and one
// outcome.
func TestARequestHasOneNameEverywhere(t *testing.T) {
	t.Parallel()
	handlers := start(t, "serve", "--handlers", "--log-level=debug")
	edge := start(t, "serve", "--edge", "--log-level=debug", "--nats-url="+handlers.nats,
		"--nats-nkey-seed-file="+embedded.SeedFile(handlers.dir+"/data/nats", embedded.Edge))
	seen := map[string]bool{}
	for _, e := range []exchange{
		edge.post(t, "/register", credentials), edge.post(t, "/login", credentials), edge.post(t, "/login", `{"email":"ada@example.com","password":"wrong"}`),
	} {
		id := e.Answer.requestID()
		if !uuidV7.MatchString(id) || seen[id] {
			t.Errorf("%s is %q", e.Request.To, id)
		}
		seen[id] = true
		subject := "auth." + strings.TrimPrefix(e.Request.To, "POST /")
		got := handlers.outcome(t, id)
		if len(got) != 1 || got[0].Subject != subject || !strings.HasSuffix(got[0].Time, "Z") || (got[0].Outcome == "success") != (e.Answer.Status < 300) {
			t.Errorf("%s: %+v", e.Request.To, got)
		}
	}
	refused := edge.post(t, "/login", `{"email":"bob@example.com","password":"wrong"}`)
	for a, want := range map[*instance]logLine{
		edge:     {Msg: "request refused", Method: "POST", Route: "/login", Code: "invalid_credentials"},
		handlers: {Msg: "request refused", Subject: "auth.login", Code: "invalid_credentials"},
	} {
		until(t, "it is logged", func() bool {
			return slices.ContainsFunc(a.lines(t, refused.Answer.requestID()), func(l logLine) bool {
				l.Time, l.Level, l.RequestID = "", "", ""
				return l == want
			})
		})
	}
	for _, e := range []exchange{edge.get(t, "/nothing", ""), edge.get(t, "/healthz", ""), edge.get(t, "/docs", ""), edge.do(t, "BREW /login", nil, "")} {
		if !uuidV7.MatchString(e.Answer.requestID()) {
			t.Errorf("%s: %v", e.Request.To, e.Answer.Header)
		}
	}
}

// Only a proxy that is trusted names requests over HTTP; on the bus everybody names their own.
func TestWhoMayNameARequest(t *testing.T) {
	t.Parallel()
	named := func(id string) map[string][]string {
		return map[string][]string{"Content-Type": {"application/json"}, "X-Request-Id": {id}}
	}
	stranger, proxy := startInside(t), startInside(t, "--trusted-proxies=127.0.0.1")
	const sane = "edge-7.4_f"
	if id := stranger.do(t, "POST /login", named(sane), credentials).Answer.requestID(); !uuidV7.MatchString(id) {
		t.Errorf("a stranger's became %q", id)
	}
	if id := proxy.do(t, "POST /login", named(sane), credentials).Answer.requestID(); id != sane || len(proxy.outcome(t, sane)) != 1 {
		t.Errorf("a proxy's became %q:\n%s", id, proxy.stderr)
	}
	for _, bad := range []string{"a b", `a","level":"ERROR`, strings.Repeat("x", 65), ""} {
		if id := proxy.do(t, "POST /login", named(bad), credentials).Answer.requestID(); !uuidV7.MatchString(id) {
			t.Errorf("%q became %q", bad, id)
		}
	}
	conn := connect(t, stranger.nats)
	ask(t, conn, "auth.login", nats.Header{"Request-Id": {sane}}, credentials)
	if got := stranger.outcome(t, sane); len(got) != 1 {
		t.Errorf("on the bus: %+v\n%s", got, stranger.stderr)
	}
	ask(t, conn, "auth.login", nats.Header{"Request-Id": {"a b"}}, credentials)
	if strings.Contains(stranger.stderr.String(), "a b") {
		t.Errorf("%s", stranger.stderr)
	}
}

// eavesdropper remembers whatever was sent and answered.
type eavesdropper struct {
	mu   sync.Mutex
	seen strings.Builder
}

func (w *eavesdropper) saw(e exchange) exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen.WriteString(encodeAll(e))
	return e
}

func encodeAll(e exchange) string {
	text, _ := json.Marshal(e) // of strings alone
	return string(text) + e.Request.Body + "\n" + e.Answer.Body + "\n"
}

// secrets are the tokens, codes, passwords, addresses and names that it saw.
func (w *eavesdropper) secrets() (all []string) {
	for _, form := range []string{
		`(eyJ[\w-]+\.[\w-]+\.[\w-]+)`, `"token":"([A-Z2-7]{26})"`, `"code":"(\d{8})"`,
		`"(?:password|newPassword|currentPassword|email|newEmail|name)":"([^"]{6,})"`,
	} {
		for _, found := range regexp.MustCompile(form).FindAllStringSubmatch(w.seen.String(), -1) {
			all = append(all, found[1])
			if parts := strings.Split(found[1], "."); strings.HasPrefix(found[1], "eyJ") {
				all = append(all, parts[1], parts[2])
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Every flow through both doors, at the most talkative level, with a tracer: no token, code,
// password, address or name is in the log, in a span or in the statistics.
func TestNothingSecretIsToldAnywhere(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	inbox, flags := startSMTP(t)
	a := launchTraced(t, c.url, nil, append(flags, "--log-level=debug", "--email-verification=required", "--mail-login=on", "--rate-limits=off")...).ready(t)
	conn := connect(t, a.nats)
	var w eavesdropper
	over := func(t *testing.T, path, _, body string) exchange { return w.saw(a.post(t, path, body)) }
	on := func(t *testing.T, _, subject, body string) exchange {
		return w.saw(ask(t, conn, subject, nil, sentFrom(faraway, body)))
	}
	storyByMail(t, a, over, inbox, "ada.hunter22@example.com", "new.hunter23@example.com")
	storyByMail(t, a, on, inbox, "bob.hunter24@example.com", "new.hunter25@example.com")

	lovelace := login("ada.hunter22@example.com", "battery staple horse")
	b := from(a)
	w.saw(b.send(t, "POST /login", strings.Replace(lovelace, "{", `{"carrier":"cookie",`, 1))).done(t)
	for _, value := range b.cookies {
		w.saw(exchange{Request: message{Body: value}})
	}
	session := w.saw(a.post(t, "/login", lovelace))
	own := bearer(session.member(t, "accessToken"))
	own["Content-Type"] = []string{"application/json"}
	w.saw(a.do(t, "PATCH /me", own, `{"name":"Lovelace hunter26"}`)).done(t)
	w.saw(a.do(t, "POST /me/password", own, `{"currentPassword":"wrong hunter27","newPassword":"hunter28 hunter28"}`))
	session = w.saw(a.do(t, "POST /me/password", own, `{"currentPassword":"battery staple horse","newPassword":"hunter29 hunter29"}`)).done(t)
	own["Authorization"] = bearer(session.member(t, "accessToken"))["Authorization"]
	refresh := `{"refreshToken":"` + session.member(t, "refreshToken") + `"}`
	w.saw(a.post(t, "/refresh", refresh)).done(t)
	tampered := session.member(t, "accessToken") + "x"
	w.saw(a.get(t, "/verify", tampered))
	w.saw(a.get(t, "/me", tampered))
	w.saw(ask(t, conn, "auth.verify", nil, `{"token":"`+tampered+`"}`))
	w.saw(a.post(t, "/login", `{"email":"hunter30 is my password","password":"hunter31 hunter31"}`))
	w.saw(a.post(t, "/login", `{"email":"ada@example.com","password":"hunter32","hunter32":"hunter33 hunter33"}`))
	w.saw(a.post(t, "/password/reset", `{"token":"WQ3VYHJ2LK5NBX7TRC4MDZ6PGA","newPassword":"hunter34 hunter34"}`))
	w.saw(a.do(t, "DELETE /sessions/hunter35", own, ""))
	w.saw(a.do(t, "DELETE /me", own, `{"password":"hunter29 hunter29"}`)).done(t)
	w.saw(a.post(t, "/logout", refresh))
	stats := ask(t, connect(t, a.nats), "$SRV.STATS.auth", nil, "").Answer.Body
	a.stop(t)

	told := map[string]string{"the log": a.stderr.String(), "the spans": c.text.String(), "the statistics": stats}
	secrets := w.secrets()
	if len(secrets) < 60 {
		t.Errorf("only %d secrets were seen", len(secrets))
	}
	for where, text := range told {
		for _, secret := range append(secrets, "eyJ") {
			if strings.Contains(text, secret) {
				t.Errorf("%s tells %q", where, secret)
			}
		}
		for _, mark := range regexp.MustCompile(`.{0,80}hunter[0-9]{2}.{0,20}`).FindAllString(text, -1) {
			if !strings.Contains(mark, "hunter32") { // the name of a member is told, to its sender too
				t.Errorf("%s tells of %s", where, mark)
			}
		}
	}
	for line := range strings.Lines(a.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a record: %q", line)
		}
	}
}
