// Package browser_test runs a real browser against authd, because the browser decides which cookies
// it sends and which answers a page may read.
package browser_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	wire "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testtool"
)

func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser, which -short does not")
	}
	t.Parallel()
	chromium := startChromium(t)
	for name, test := range map[string]func(t *testing.T, w *world){
		"Session":         browserKeepsTheSession,
		"TwoTabs":         browserRefreshesInTwoTabs,
		"Example":         browserRunsTheExample,
		"Neighbour":       browserProtectsFromNeighbours,
		"OtherSite":       browserProtectsFromOtherSites,
		"ListedElsewhere": browserKeepsNoCookiesForOtherSites,
		"Docs":            browserReadsTheDocuments,
		"Frame":           browserFramesNothing,
	} {
		t.Run(name, func(t *testing.T) { test(t, newWorld(t, chromium)) })
	}
	t.Run("Links", func(t *testing.T) {
		browserFollowsLinks(t, newWorld(t, chromium, append(withMail, "--email-verification=required", "--new-device-notice=off")...))
	})
}

const (
	cookieLogin = `{"email":"ada@example.com","password":"correct horse battery","carrier":"cookie"}`
	adaAlone    = `{"email":"ada@example.com"}`

	// kept is the part of an answer about tokens that are in cookies.
	kept = `"tokenType":"Bearer","expiresIn":900,"sessionId":"<session>"`
)

// withMail keeps mails in the outbox, where the test reads them.
var withMail = []string{"--mailer=off", "--mail-login=on", "--rate-limits=off"}

// startChromium runs a Chromium that knows no host but this one, until the test ends.
func startChromium(t *testing.T) context.Context {
	t.Helper()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(testtool.Find(t, "chromium", "chromium")),
		chromedp.NoInheritEnv,
		chromedp.Env("PATH="+os.Getenv("PATH"), "HOME="+t.TempDir(), "TMPDIR="+os.TempDir()),
		chromedp.Flag("headless", "new"),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("disable-features", "Translate,OptimizationHints,MediaRouter,CertificateTransparencyComponentUpdater"),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(t.Logf))
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("close Chromium: %v", err)
		}
		cancel()
		stop()
	})
	check(t, chromedp.Do(ctx)) // starts it
	return ctx
}

// world is an authd and the sites of others, in a browser that has seen none of them.
type world struct {
	*testauthd.Instance
	edge string // authd as the browser knows it

	// Origins: app and elsewhere are in CORS_ORIGINS; neighbour is of authd's site, as app is.
	app, neighbour, elsewhere, evil string

	tabs context.Context
}

func newWorld(t *testing.T, chromium context.Context, flags ...string) *world {
	t.Helper()
	site := func(host string) (*http.ServeMux, string) {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(rw, blank)
		})
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		return mux, strings.Replace(server.URL, "127.0.0.1", host, 1)
	}
	w := &world{}
	pages, app := site("localhost")
	w.app = app
	_, w.neighbour = site("localhost")
	_, w.elsewhere = site("127.0.0.1")
	_, w.evil = site("127.0.0.1")
	w.Instance = testauthd.Start(t, append(flags, "--docs=public", "--cors-origins="+w.app+","+w.elsewhere)...)
	w.edge = strings.Replace(w.HTTP, "127.0.0.1", "localhost", 1)

	script := testauthd.Document(t, "frontend/session.js", map[string]string{"https://auth.example.com": w.edge})
	pages.HandleFunc("GET /session.js", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = io.WriteString(rw, script)
	})

	// A profile of its own: cookies do not know ports.
	tabs, cancel := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	check(t, chromedp.Do(tabs))
	w.tabs = tabs
	return w
}

// blank is the page of every site. attempt sends what a page can and returns what it gets to
// see: a status and a body, "opaque", or the name of an error.
const blank = `<!doctype html><title>a page</title><link rel="icon" href="data:,"><script>
async function attempt(line, init) {
	const [method, url] = line.split(" ")
	try {
		const answer = await fetch(url, {method, credentials: "include", ...init})
		return answer.type === "opaque" ? "opaque" : answer.status + " " + await answer.text()
	} catch (error) {
		return error.name
	}
}
const json = body => ({headers: {"Content-Type": "application/json"}, body})
</script>`

// tab is a page in the browser.
type tab struct {
	ctx  context.Context
	edge string

	mu   sync.Mutex
	sent []*request
}

// request is one as the browser's network saw it.
type request struct {
	id      wire.RequestID
	line    string // "POST /login"
	cookies int    // how many came along
	status  int64  // of the answer; 0 is none, or none yet
	failed  string // why there is none, or why the page may not have it

	returned bool
}

// open loads a page in a new tab.
func (w *world) open(t *testing.T, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(w.tabs)
	t.Cleanup(cancel)
	tab := &tab{ctx: ctx, edge: w.edge}
	check(t, chromedp.Listen(ctx, tab.note))
	tab.load(t, url)
	return tab
}

func (b *tab) load(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, testauthd.Patience)
	defer cancel()
	check(t, chromedp.Do(ctx, chromedp.Navigate(url)))
}

// note keeps what concerns requests to authd. The parts of one may come in any order.
func (b *tab) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	about := func(id wire.RequestID) *request {
		for _, s := range b.sent {
			if s.id == id {
				return s
			}
		}
		b.sent = append(b.sent, &request{id: id})
		return b.sent[len(b.sent)-1]
	}
	switch e := event.(type) {
	case *wire.EventRequestWillBeSent:
		s := about(e.RequestID)
		if path, ok := strings.CutPrefix(e.Request.URL, b.edge); ok {
			s.line = e.Request.Method + " " + path
		}
	case *wire.EventRequestWillBeSentExtraInfo:
		s := about(e.RequestID)
		for name, value := range e.Headers {
			if strings.EqualFold(name, "Cookie") {
				s.cookies = strings.Count(fmt.Sprint(value), "__Host-")
			}
		}
	case *wire.EventResponseReceivedExtraInfo:
		about(e.RequestID).status = e.StatusCode
	case *wire.EventLoadingFailed:
		about(e.RequestID).failed = e.ErrorText
	}
}

// answered returns the requests to authd that were answered and not yet returned, and waits
// for n of them. A preflight is none.
func (b *tab) answered(t *testing.T, n int) (all []request) {
	t.Helper()
	testauthd.Until(t, fmt.Sprintf("%d requests are answered", n), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.sent {
			if s.line != "" && !strings.HasPrefix(s.line, "OPTIONS ") && s.status != 0 && !s.returned {
				s.returned = true
				all = append(all, *s)
			}
		}
		return len(all) >= n
	})
	return all
}

// try runs the body of an asynchronous function in the page and returns what that returns.
func (b *tab) try(body string) (string, error) {
	ctx, cancel := context.WithTimeout(b.ctx, testauthd.Patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[string]("(async () => {"+body+"})()", chromedp.EvalAwaitPromise))
}

func (b *tab) run(t *testing.T, body string) string {
	t.Helper()
	result, err := b.try(body)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return result
}

// ask wants authd's answer to a page.
func (b *tab) ask(t *testing.T, line, init string, status int, body string) {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	b.saw(t, fmt.Sprintf("return attempt(%q, %s)", method+" "+b.edge+path, cmp.Or(init, "{}")), status, body)
}

// saw wants what a script returns to be an answer.
func (b *tab) saw(t *testing.T, script string, status int, body string) {
	t.Helper()
	code, got, _ := strings.Cut(b.run(t, script), " ")
	if body == "" && got != "" || code != fmt.Sprint(status) || body != "" && testauthd.Canonical(t, testauthd.Mask(got)) != testauthd.Canonical(t, body) {
		t.Fatalf("%s: %s %s\nwant %d %s", script, code, got, status, body)
	}
}

// asks sends JSON.
func asks(body string) string { return fmt.Sprintf("json(%q)", body) }

// login makes an account and a session from a page, which ends on that page.
func (b *tab) login(t *testing.T) {
	t.Helper()
	b.ask(t, "POST /register", asks(testauthd.Credentials), 201, `{"message":"User registered successfully","userId":1}`)
	b.ask(t, "POST /login", asks(cookieLogin), 200, `{"message":"Login successful","userId":1,`+kept+`}`)
}

var loggedIn = strings.Replace(testauthd.Account, "Ada", "", 1)

// cookies are those that the browser keeps for authd, by name.
func (b *tab) cookies(t *testing.T) map[string]wire.Cookie {
	t.Helper()
	kept, err := chromedp.Run(b.ctx, func(ctx context.Context, target *chromedp.Target) ([]*wire.Cookie, error) {
		got, err := cdp.Call(ctx, target, wire.GetCookies, wire.GetCookiesParams{URLs: []string{b.edge}})
		return got.Cookies, err
	})
	check(t, err)
	all := map[string]wire.Cookie{}
	for _, c := range kept {
		all[c.Name] = *c
	}
	return all
}

func (b *tab) forget(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := chromedp.Run(b.ctx, func(ctx context.Context, target *chromedp.Target) (cdp.Empty, error) {
			return cdp.Call(ctx, target, wire.DeleteCookies, wire.DeleteCookiesParams{Name: name, URL: b.edge})
		})
		check(t, err)
	}
}

// refused wants a page to see a refusal.
func (b *tab) refused(t *testing.T, line, init string, status int, code string) {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	got := b.run(t, fmt.Sprintf("return attempt(%q, %s)", method+" "+b.edge+path, cmp.Or(init, "{}")))
	if !strings.HasPrefix(got, fmt.Sprint(status)+" {") || !strings.Contains(got, `"code":"`+code+`"`) {
		t.Fatalf("%s: %s\nwant %d %s", line, got, status, code)
	}
}

func browserKeepsTheSession(t *testing.T, w *world) {
	app := w.open(t, w.app)
	app.login(t)

	// No script sees the cookies, neither here nor on a page of authd itself.
	own := w.open(t, w.edge+"/healthz")
	for _, tab := range []*tab{app, own} {
		if got := tab.run(t, `return document.cookie + JSON.stringify(window.cookieStore ? await cookieStore.getAll() : [])`); got != "[]" {
			t.Errorf("a script sees %q", got)
		}
	}
	if got := app.run(t, `const answer = await fetch("`+w.edge+`/refresh", {method: "POST", credentials: "include"})
		return answer.status + [...answer.headers.keys()].filter(name => name.includes("cookie"))`); got != "200" {
		t.Errorf("refresh: %s", got)
	}
	cookies := app.cookies(t)
	for name, site := range map[string]wire.CookieSameSite{"__Host-access": "Lax", "__Host-refresh": "Strict"} {
		c := cookies[name]
		if !c.Secure || !c.HTTPOnly || c.SameSite != site || c.Path != "/" || c.Domain != "localhost" || c.Session { // no dot: this host alone
			t.Errorf("%+v", c)
		}
	}
	if len(cookies) != 2 {
		t.Errorf("%d cookies", len(cookies))
	}

	app.ask(t, "GET /me", "", 200, loggedIn)
	app.ask(t, "PATCH /me", asks(`{"name":"Ada"}`), 200, testauthd.Account)
	app.ask(t, "POST /me/password", asks(`{"currentPassword":"correct horse battery","newPassword":"battery staple correct"}`), 200, `{`+kept+`}`)
	app.ask(t, "GET /verify", "", 200, testauthd.Verified)
	before := app.cookies(t)
	app.ask(t, "POST /refresh", "", 200, `{`+kept+`}`)
	if after := app.cookies(t); after["__Host-refresh"].Value == before["__Host-refresh"].Value {
		t.Error("the refresh cookie is as before")
	}
	app.refused(t, "DELETE /me", asks(`{"password":"wrong"}`), 401, "invalid_credentials")

	app.ask(t, "POST /logout", "", 204, "")
	app.refused(t, "GET /me", "", 401, "unauthenticated")
	if left := app.cookies(t); len(left) != 0 {
		t.Errorf("after logout: %v", left)
	}
}

func browserRefreshesInTwoTabs(t *testing.T, w *world) {
	tabs := []*tab{w.open(t, w.app), w.open(t, w.app)}
	tabs[0].login(t)
	for range 5 {
		check(t, testauthd.All(len(tabs), func(i int) error {
			for _, line := range []string{"POST " + w.edge + "/refresh", "GET " + w.edge + "/me"} {
				got, err := tabs[i].try(fmt.Sprintf("return attempt(%q)", line))
				if err != nil || !strings.HasPrefix(got, "200 ") {
					return fmt.Errorf("tab %d: %s: %s %w", i, line, got, err)
				}
			}
			return nil
		}))
	}
	if sessions := tabs[1].run(t, `return attempt("GET `+w.edge+`/sessions")`); strings.Count(sessions, "sessionId") != 1 {
		t.Errorf("%s", sessions)
	}
}

// The example of docs/frontend.md, as it is but for the address of authd.
func browserRunsTheExample(t *testing.T, w *world) {
	app := w.open(t, w.app)
	app.ask(t, "POST /register", asks(testauthd.Credentials), 201, `{"message":"User registered successfully","userId":1}`)
	app.answered(t, 1)
	app.run(t, `window.session = await import("/session.js"); return ""`)
	call := func(path string) string {
		return `const answer = await session.call(session.AUTH + "` + path + `"); return answer.status + " " + await answer.text()`
	}
	login := func(password string) string {
		return `const answer = await session.login("ada@example.com", "` + password + `"); return answer.status + " " + (await answer.json()).code`
	}
	wants := func(script, want string, lines ...string) {
		t.Helper()
		if got := app.run(t, script); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
		var got []string
		for _, s := range app.answered(t, len(lines)) {
			got = append(got, fmt.Sprintf("%s %d", s.line, s.status))
		}
		slices.Sort(got) // what is sent at once has no order
		slices.Sort(lines)
		if !slices.Equal(got, lines) {
			t.Errorf("%s sent %q, want %q", script, got, lines)
		}
	}
	wants(login("wrong"), "401 invalid_credentials", "POST /login 401")
	wants(call("/me"), `401 {"type":`, "GET /me 401", "POST /refresh 401") // nobody has logged in: it gives up
	wants(login("correct horse battery"), "200 undefined", "POST /login 200")
	wants(call("/me"), `200 {"userId":1,`, "GET /me 200")

	app.forget(t, "__Host-access") // as when it runs out
	wants(call("/me"), `200 {"userId":1,`, "GET /me 401", "POST /refresh 200", "GET /me 200")
	app.forget(t, "__Host-access")
	wants(`const paths = ["/me", "/sessions", "/verify"], fetch = window.fetch
		let done, refused = 0
		const allRefused = new Promise(resolve => { done = resolve })
		window.fetch = async (url, init) => {
			if (url.endsWith("/refresh")) { // a slow one
				await allRefused
				await new Promise(resolve => setTimeout(resolve, 200))
			}
			const answer = await fetch(url, init)
			if (answer.status === 401 && ++refused === paths.length) done()
			return answer
		}
		const answers = await Promise.all(paths.map(path => session.call(session.AUTH + path)))
		window.fetch = fetch
		return answers.map(answer => answer.status).join()`, "200,200,200",
		"GET /me 401", "GET /sessions 401", "GET /verify 401", "POST /refresh 200", "GET /me 200", "GET /sessions 200", "GET /verify 200")
	app.forget(t, "__Host-access")
	wants(`const answer = await session.call(session.AUTH + "/me", session.json("PATCH", {name: "Ada"})); return (await answer.json()).name`, "Ada",
		"PATCH /me 401", "POST /refresh 200", "PATCH /me 200")

	// Two tabs refresh at the same time.
	app.forget(t, "__Host-access")
	tabs := []*tab{w.open(t, w.app), w.open(t, w.app)}
	check(t, testauthd.All(len(tabs), func(i int) error {
		got, err := tabs[i].try(`window.session = await import("/session.js"); ` + call("/me"))
		if err != nil || !strings.HasPrefix(got, "200 ") {
			return fmt.Errorf("tab %d: %s %w", i, got, err)
		}
		return nil
	}))

	// The session ends elsewhere.
	access := w.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	w.Do(t, "DELETE /sessions", testauthd.Bearer(access), "").Answered(t, 204, "")
	wants(call("/me"), `401 {"type":"urn:zyotra:auth:problem:token_revoked"`, "GET /me 401", "POST /refresh 401")
	wants(login("correct horse battery"), "200 undefined", "POST /login 200")
	wants(`return String((await session.logout()).status)`, "204", "POST /logout 204")
	if left := app.cookies(t); len(left) != 0 {
		t.Errorf("after logout: %v", left)
	}
}

// attack is a request of a page that must not be able to change anything.
type attack struct {
	line, init string
	outcome    // for a page of the same site, whose requests have the cookies
	fromAfar   outcome
}

// outcome is what authd answers, 0 if it is not even asked, and what the page sees of it.
type outcome struct {
	status int64
	page   string
}

const (
	form      = `{mode: "no-cors"}`
	plain     = `{mode: "no-cors", headers: {"Content-Type": "text/plain"}, body: `
	plainCORS = `{headers: {"Content-Type": "text/plain"}, body: `
)

var attacks = func() (all []attack) {
	password := `'{"currentPassword":"correct horse battery","newPassword":"battery staple correct"}'`
	unseen, opaque := func(status int64) outcome { return outcome{status, "TypeError"} }, func(status int64) outcome { return outcome{status, "opaque"} }
	add := func(line, init string, near, far outcome) { all = append(all, attack{line, init, near, far}) }

	add("GET /me", "{}", unseen(200), unseen(401)) // it is answered, but not to the page
	add("GET /sessions", "{}", unseen(200), unseen(401))
	for _, line := range []string{"PATCH /me", "DELETE /me", "DELETE /sessions", "POST /me/password", "POST /login", "POST /refresh", "POST /logout"} {
		add(line, "json('{}')", unseen(0), unseen(0)) // needs a preflight, and that gives no leave
	}
	for _, line := range []string{"DELETE /me", "DELETE /sessions"} {
		add(line, "{}", unseen(0), unseen(0))
		add(line, form, unseen(0), unseen(0))
	}
	add("POST /logout", "{}", unseen(403), unseen(401))
	add("POST /logout", form, opaque(403), opaque(401))
	add("POST /refresh", "{}", unseen(403), unseen(401))
	add("POST /refresh", form, opaque(403), opaque(401))
	for line, body := range map[string]string{
		"POST /login": `'` + cookieLogin + `'`, "POST /me/password": password, "POST /logout": "'{}'", "POST /refresh": "'{}'",
	} {
		add(line, plain+body+"}", opaque(415), opaque(415))
		add(line, plainCORS+body+"}", unseen(415), unseen(415))
	}
	return all
}()

func browserProtectsFromNeighbours(t *testing.T, w *world) { w.attack(t, w.neighbour, true) }
func browserProtectsFromOtherSites(t *testing.T, w *world) { w.attack(t, w.evil, false) }

// attack does whatever a page can think of, and wants nothing to have happened to the session
// of an app's page. A page of the same site has the session's cookies in its requests, and
// thus a chance.
func (w *world) attack(t *testing.T, origin string, sameSite bool) {
	app := w.open(t, w.app)
	app.login(t)
	cookies := app.cookies(t)
	page := w.open(t, origin)
	arrives := func(line string, want int64) {
		t.Helper()
		if want == 0 { // it may begin with a preflight and ends there; else the next one sees it
			if sent := page.answered(t, 0); len(sent) != 0 {
				t.Errorf("%s sent %+v", line, sent)
			}
			return
		}
		sent, n := page.answered(t, 1), 0
		if sameSite {
			n = 2
		}
		if len(sent) != 1 || sent[0].line != line || sent[0].status != want || sent[0].cookies != n {
			t.Errorf("%s sent %+v, want it to be answered with %d, and %d cookies", line, sent, want, n)
		}
	}
	for _, a := range attacks {
		want := a.outcome
		if !sameSite {
			want = a.fromAfar
		}
		method, path, _ := strings.Cut(a.line, " ")
		if got := page.run(t, fmt.Sprintf("return attempt(%q, %s)", method+" "+w.edge+path, a.init)); got != want.page {
			t.Errorf("%s %s: the page sees %s, want %s", a.line, a.init, got, want.page)
		}
		arrives(a.line, want.status)
	}
	for _, form := range []struct {
		path, enctype, input string
		near, far            int64
	}{
		{"/logout", "", "", 403, 401},
		{"/refresh", "", "", 403, 401},
		{"/login", "", `<input name=email value=ada@example.com>`, 415, 415},
		{"/login", "text/plain", `<input name='{"email":"ada@example.com","password":"correct horse battery","carrier":"cookie","' value='":""}'>`, 415, 415},
		{"/logout", "text/plain", `<input name='{"' value='":""}'>`, 415, 415},
	} {
		page.load(t, origin)
		page.run(t, fmt.Sprintf("document.write(%q); setTimeout(() => document.forms[0].submit()); return ''",
			`<form method=post action="`+w.edge+form.path+`" enctype="`+form.enctype+`">`+form.input+`</form>`))
		arrives("POST "+form.path, map[bool]int64{true: form.near, false: form.far}[sameSite])
	}

	app.ask(t, "GET /me", "", 200, loggedIn)
	if after := app.cookies(t); !reflect.DeepEqual(after, cookies) {
		t.Errorf("cookies were %v, are %v", cookies, after)
	}
	sessions := app.run(t, `return attempt("GET `+w.edge+`/sessions")`)
	if strings.Count(sessions, "sessionId") != 1 {
		t.Errorf("%s", sessions)
	}
	app.ask(t, "POST /refresh", "", 200, `{`+kept+`}`)
	w.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken") // the password is the same
}

// CORS_ORIGINS is of no use to a page of another site: the cookies are not for it.
func browserKeepsNoCookiesForOtherSites(t *testing.T, w *world) {
	page := w.open(t, w.elsewhere)
	page.login(t)
	if kept := page.cookies(t); len(kept) != 0 {
		t.Errorf("%v", kept)
	}
	page.refused(t, "GET /me", "", 401, "unauthenticated")

	w.open(t, w.app).ask(t, "POST /login", asks(cookieLogin), 200, `{"message":"Login successful","userId":1,`+kept+`}`)
	page.refused(t, "GET /me", "", 401, "unauthenticated")
	page.refused(t, "POST /refresh", asks("{}"), 401, "invalid_token")
}

func browserFramesNothing(t *testing.T, w *world) {
	for _, origin := range []string{w.evil, w.neighbour, w.app} {
		page := w.open(t, origin)
		page.run(t, `document.body.append(Object.assign(document.createElement("iframe"), {src: "`+w.edge+`/healthz"})); return ""`)
		testauthd.Until(t, "a page of "+origin+" is refused a frame", func() bool {
			page.mu.Lock()
			defer page.mu.Unlock()
			return slices.ContainsFunc(page.sent, func(s *request) bool {
				return s.line == "GET /healthz" && s.failed == "net::ERR_BLOCKED_BY_RESPONSE"
			})
		})
	}
}

// The pages that links in mails open do nothing before a click, and what they are for after it.
func browserFollowsLinks(t *testing.T, w *world) {
	box := testoutbox.LettersOf(t, w.Dir)
	follow := func(m events.Mail) *tab {
		t.Helper()
		path, ok := strings.CutPrefix(m.Link, "http://localhost:3000")
		if !ok {
			t.Fatalf("link %q", m.Link)
		}
		page := w.open(t, "about:blank")
		var mu sync.Mutex
		var complaints []string
		check(t, chromedp.Listen(page.ctx, func(event any) {
			mu.Lock()
			defer mu.Unlock()
			switch e := event.(type) {
			case *log.EventEntryAdded:
				if e.Entry.Source != "network" && e.Entry.Level != "verbose" { // refusals and advice
					complaints = append(complaints, e.Entry.Text)
				}
			case *runtime.EventExceptionThrown:
				complaints = append(complaints, testauthd.Encode(t, e.ExceptionDetails))
			}
		}))
		t.Cleanup(func() {
			mu.Lock()
			defer mu.Unlock()
			if len(complaints) > 0 {
				t.Errorf("%s: %q", path, complaints)
			}
		})
		page.load(t, w.edge+path)
		for _, s := range page.answered(t, 1) { // the page; its files may be known
			if !strings.HasPrefix(s.line, "GET ") || strings.Contains(s.line, testoutbox.Token(t, m)) {
				t.Errorf("opening %s sent %s", m.Kind, s.line)
			}
		}
		return page
	}
	click := func(page *tab, before, says string) {
		t.Helper()
		got := page.run(t, before+`
			const status = document.querySelector("[role=status]")
			status.textContent = ""
			document.querySelector("button").click()
			while (!status.textContent) await new Promise(resolve => setTimeout(resolve, 20))
			return status.textContent`)
		if !strings.HasPrefix(got, says) {
			t.Errorf("the page says %q, want %q", got, says)
		}
	}

	typed := func(password string) string {
		return fmt.Sprintf(`document.querySelector("[type=password]").value = %q;`, password)
	}

	w.Post(t, "/register", testauthd.Credentials).Done(t)
	mail := box.Next(t, events.MailVerify)
	page := follow(mail)
	w.Post(t, "/login", testauthd.Credentials).Refused(t, 401, "invalid_credentials", "") // nothing has changed
	w.Post(t, "/email/resend", adaAlone).Done(t)
	again := follow(box.Next(t, events.MailVerify))
	click(page, typed("correct horse battery"), "This link is not good any more")
	if got := again.run(t, `const f = document.querySelector("form").elements
		return [f.username.value, f.username.autocomplete, f.password.autocomplete, document.querySelector("fieldset").checkVisibility()].join()`); got != "ada@example.com,username,new-password,true" {
		t.Errorf("the page has %s", got)
	}
	click(again, typed("short"), "This password is too short.")
	click(again, typed("correct horse battery"), "Your address is confirmed.")
	access := w.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	if got := again.run(t, `return location.hash + document.querySelector("form").checkVisibility()`); got != "false" {
		t.Errorf("afterwards: %s", got)
	}

	w.Post(t, "/password/forgot", adaAlone).Done(t)
	page = follow(box.Next(t, events.MailReset))
	click(page, typed("short"), "This password is too short.")
	w.Get(t, "/me", access).Done(t)
	click(page, typed("battery staple horse"), "Your new password is in force.")
	w.Get(t, "/me", access).Refused(t, 401, "token_revoked", "")

	page = follow(box.Next(t, events.MailPasswordChanged))
	click(page, "", "Your account is logged out everywhere.")
	page = follow(box.Next(t, events.MailReset))
	click(page, typed("correct horse battery"), "Your new password is in force.")
	box.All(t)

	own := testauthd.Bearer(w.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken"))
	own["Content-Type"] = []string{"application/json"}
	w.Do(t, "POST /me/email", own, `{"newEmail":"bob@example.com","password":"correct horse battery"}`).Done(t)
	page = follow(box.Next(t, events.MailChange))
	if got := page.run(t, `const f = document.querySelector("form").elements
		return [f.password.autocomplete, document.querySelector("fieldset").checkVisibility(), document.querySelector("#hint").textContent.trim()].join()`); got != "current-password,true,The password of the account whose address changes." {
		t.Errorf("the page has %s", got)
	}
	click(page, typed("battery staple horse"), "This is not the password of your account.")
	click(page, typed("correct horse battery"), "Your address has changed.")
	page = follow(box.Next(t, events.MailChanged))
	click(page, "", "Your address is back.")
	w.Post(t, "/login", testauthd.Credentials).Refused(t, 401, "invalid_credentials", "")
	click(follow(box.Next(t, events.MailReset)), typed("correct horse battery"), "Your new password is in force.")
	w.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	box.All(t)

	// The browser that registered need not give the password, unless it lost its cookie.
	form := w.open(t, w.edge+"/not-me")
	for _, lost := range []bool{false, true} {
		address := fmt.Sprintf("%v@example.com", lost)
		got := form.run(t, fmt.Sprintf(`const answer = await fetch("/register", {method: "POST", headers: {"Content-Type": "application/json"}, body: %q})
			return answer.status + " " + document.cookie + await answer.text()`, testauthd.Login(address, "correct horse battery")))
		if got != `202 {"message":"A mail to the address tells how to go on"}` {
			t.Errorf("registered: %s", got)
		}
		page = follow(box.Next(t, events.MailVerify))
		if got := page.run(t, `return "" + document.querySelector("fieldset").checkVisibility()`); got != "false" {
			t.Errorf("the page asks for the password: %s", got)
		}
		if lost {
			form.forget(t, "__Host-registration")
			click(page, "", "Give the password of your account")
			click(page, typed("correct horse battery"), "Your address is confirmed.")
		} else {
			click(page, "", "Your address is confirmed.")
		}
		if _, there := form.cookies(t)["__Host-registration"]; there {
			t.Error("the cookie is still there")
		}
		w.Post(t, "/login", testauthd.Login(address, "correct horse battery")).Member(t, "accessToken")
	}
	page = w.open(t, w.edge+"/not-me")
	if got := page.run(t, `return document.querySelector("[role=status]").textContent + document.querySelector("button").disabled`); got != "This link is not complete. Copy all of it from the mail.true" {
		t.Errorf("without a token: %q", got)
	}
}

// The page to read and try the API is content with authd and with its policy.
func browserReadsTheDocuments(t *testing.T, w *world) {
	page := w.open(t, "about:blank")
	var mu sync.Mutex
	var complaints, strangers []string
	check(t, chromedp.Listen(page.ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded: // what the browser itself says, as about a policy
			complaints = append(complaints, fmt.Sprintf("%s %s: %s", e.Entry.Source, e.Entry.Level, e.Entry.Text))
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, fmt.Sprintf("console %s: %s", e.Type, testauthd.Encode(t, e.Args)))
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, testauthd.Encode(t, e.ExceptionDetails))
		case *wire.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, w.edge+"/") && !strings.HasPrefix(e.Request.URL, "data:") {
				strangers = append(strangers, e.Request.URL)
			}
		}
	}))
	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	check(t, json.Unmarshal([]byte(w.Get(t, "/openapi.json", "").Answer.Body), &api))
	var want []string
	for path, operations := range api.Paths {
		for method := range operations {
			if method != "parameters" {
				want = append(want, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(want)

	page.load(t, w.edge+"/docs")
	const later = `const later = async (what) => { while (!what()) await new Promise(resolve => setTimeout(resolve, 20)); return what() };`
	got := strings.Split(page.run(t, later+`
		await later(() => document.querySelector(".opblock"))
		return [...document.querySelectorAll(".opblock")].map(block => block.querySelector(".opblock-summary-method").textContent + " " +
			block.querySelector(".opblock-summary-path").dataset.path).sort().join("\n")`), "\n")
	if !slices.Equal(got, want) {
		t.Errorf("the page shows %q, want %q", got, want)
	}
	if got := page.run(t, later+`
		document.querySelector(".opblock-summary-path[data-path='/healthz']").click()
		await later(() => document.querySelector("#operations-Operations-alive .headers tbody td + td")?.textContent) // a $ref: it is resolved then
		document.querySelector("#operations-Operations-alive .execute").click()
		return (await later(() => document.querySelector(".live-responses-table tbody .response-col_status"))).textContent`); !strings.HasPrefix(got, "200") {
		t.Errorf("tried out, /healthz answers %s", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(complaints)+len(strangers) > 0 {
		t.Errorf("%q\nstrangers are asked: %q", complaints, strangers)
	}
}

// The page shows the example that was run.
func TestThePageForFrontEndsShowsTheExample(t *testing.T) {
	if !strings.Contains(testauthd.Document(t, "frontend.md", nil), "\n```js\n"+testauthd.Document(t, "frontend/session.js", nil)+"```\n") {
		t.Error("docs/frontend.md does not show docs/frontend/session.js as it is")
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
