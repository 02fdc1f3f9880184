package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"go.yaml.in/yaml/v4"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testport"
	"github.com/zyotra/auth/internal/testtool"
)

// gateways are the real programs. Each runs on the configuration that docs/gateways.md
// shows, in which only addresses are replaced.
var gateways = map[string]func(t *testing.T, authd, app string) *gateway{
	"nginx": startNginx,
	"caddy": startCaddy,
}

// gateway is a program that listens on url and was started by a test.
type gateway struct {
	url    string
	exited chan struct{}
}

func startNginx(t *testing.T, authd, app string) *gateway {
	program := testtool.Find(t, "nginx", "nginx-light")
	return startGateway(t, func(dir, listen string) *exec.Cmd {
		site := document(t, "gateways/nginx.conf", map[string]string{
			"443 ssl": listen, "127.0.0.1:3000": authd, "127.0.0.1:8080": app,
			"    ssl_certificate     /etc/nginx/tls/app.example.com.pem;\n": "",
			"    ssl_certificate_key /etc/nginx/tls/app.example.com.key;\n": "",
		})
		var temp strings.Builder
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			fmt.Fprintf(&temp, "%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
		}
		write(t, dir, "nginx.conf", "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"+
			temp.String()+site+"}\n")
		return exec.Command(program, "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	})
}

func startCaddy(t *testing.T, authd, app string) *gateway {
	program := testtool.Find(t, "caddy", "caddy")
	return startGateway(t, func(dir, listen string) *exec.Cmd {
		site := document(t, "gateways/Caddyfile", map[string]string{
			"app.example.com": "http://" + listen, "127.0.0.1:3000": authd, "127.0.0.1:8080": app,
		})
		write(t, dir, "Caddyfile", "{\n\tadmin off\n\tauto_https off\n}\n"+site)
		cmd := exec.Command(program, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
		cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		return cmd
	})
}

// document returns a file of docs with replacements, each of which it must hold.
func document(t *testing.T, name string, replacements map[string]string) string {
	t.Helper()
	return testauthd.Document(t, name, replacements)
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
}

// startGateway runs a program on a reserved port and waits until it serves. It tries again if a
// program that reserves no port was faster.
func startGateway(t *testing.T, command func(dir, listen string) *exec.Cmd) *gateway {
	t.Helper()
	for range 3 {
		listen := testport.Address(t)
		dir := t.TempDir()
		cmd := command(dir, listen)
		g := &gateway{url: "http://" + listen, exited: make(chan struct{})}
		said := newTranscript()
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, said, said
		check(t, cmd.Start())
		go func() {
			_ = cmd.Wait()
			close(g.exited)
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-g.exited
			if t.Failed() {
				t.Logf("%v:\n%s", cmd.Args, said)
			}
		})
		until(t, cmd.Args[0]+" serves or has ended", func() bool { return g.ended() || g.serves() })
		if !g.ended() {
			return g
		}
		t.Logf("%v has ended:\n%s", cmd.Args, said)
	}
	t.Fatal("the gateway does not start")
	return nil
}

func (g *gateway) ended() bool {
	select {
	case <-g.exited:
		return true
	default:
		return false
	}
}

// serves asks for what the gateway answers without asking anybody.
func (g *gateway) serves() bool {
	resp, err := client.Get(g.url + "/auth/verify")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusNotFound
}

// witness records the requests that come to a handler.
type witness struct {
	*httptest.Server
	mu   sync.Mutex
	seen []message
}

func watch(t *testing.T, next http.Handler) *witness {
	t.Helper()
	w := &witness{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w.mu.Lock()
		w.seen = append(w.seen, message{To: r.Method + " " + r.RequestURI, Header: r.Header.Clone(), Body: string(body)})
		w.mu.Unlock()
		next.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *witness) address() string { return w.Listener.Addr().String() }

// take returns what was recorded since the last take.
func (w *witness) take() []message {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// guarded is an app behind a gateway that asks authd.
type guarded struct {
	*gateway
	edge, handlers *instance
	ask, app       *witness // what the gateway asks authd, and what reaches the app
}

const gatewaySecret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"

func startGuarded(t *testing.T, start func(t *testing.T, authd, app string) *gateway) *guarded {
	t.Helper()
	edge, handlers := startApart(t, "--access-token-secret="+gatewaySecret)
	target, err := url.Parse(edge.http)
	check(t, err)
	ask := watch(t, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			panic(http.ErrAbortHandler) // to the gateway it looks as if authd were away
		},
	})
	// The app says who asks, as it was told.
	app := watch(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Header.Get("X-Auth-User-Id"), r.Header.Get("X-Auth-Session-Id"))
	}))
	return &guarded{start(t, ask.address(), app.address()), edge, handlers, ask, app}
}

// user is somebody who has logged in.
type user struct{ id, session, access string }

func (g *guarded) login(t *testing.T, name string) user {
	t.Helper()
	body := `{"email":"` + name + `@example.com","password":"correct horse battery"}`
	g.edge.post(t, "/register", body)
	login := g.edge.post(t, "/login", body)
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(login.member(t, "accessToken"), claims)
	check(t, err)
	return user{claims["userId"].(string), login.member(t, "sessionId"), login.member(t, "accessToken")}
}

// try sends a request through the gateway.
func (g *guarded) try(line string, header map[string][]string, body string) (exchange, error) {
	return (&instance{http: g.url, foreign: true}).try(line, header, body)
}

func (g *guarded) do(t *testing.T, line string, header map[string][]string, body string) exchange {
	t.Helper()
	g.ask.take()
	g.app.take()
	e, err := g.try(line, header, body)
	check(t, err)
	return e
}

// passed wants the request to have reached the app, once and as u's, and authd to have been
// asked for it once.
func (g *guarded) passed(t *testing.T, e exchange, u user) (asked, reached message) {
	t.Helper()
	asks, apps := g.ask.take(), g.app.take()
	if e.Answer.Status != http.StatusOK || len(asks) != 1 || len(apps) != 1 {
		t.Fatalf("%s: %d %s\nauthd was asked %v\nthe app %v", e.Request.To, e.Answer.Status, e.Answer.Body, asks, apps)
	}
	asked, reached = asks[0], apps[0]
	want := map[string]string{"xauthuserid": u.id, "xauthsessionid": u.session}
	if got := identity(reached.Header); !maps.Equal(got, want) {
		t.Errorf("%s: the app sees %v, want %v\nin %v", e.Request.To, got, want, reached.Header)
	}
	return asked, reached
}

// identity are the headers that say who asks, read as carelessly as an app might. One without
// a value says nothing.
func identity(header http.Header) map[string]string {
	got := map[string]string{}
	for name, values := range header {
		name = strings.ToLower(strings.NewReplacer("-", "", "_", "", ".", "").Replace(name))
		if value := strings.Join(values, ","); value != "" && strings.HasPrefix(name, "xauth") {
			got[name] += value
		}
	}
	return got
}

// stopped wants the request not to have reached the app.
func (g *guarded) stopped(t *testing.T, e exchange, status int) {
	t.Helper()
	if apps := g.app.take(); e.Answer.Status != status || len(apps) != 0 {
		t.Errorf("%s: %d, want %d; the app was asked %v", e.Request.To, e.Answer.Status, status, apps)
	}
}

func TestGateways(t *testing.T) {
	t.Parallel()
	for name, start := range gateways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGuarded(t, start)
			ada, bob := g.login(t, "ada"), g.login(t, "bob")
			t.Run("Unauthenticated", func(t *testing.T) { gatewayRefuses(t, g, ada) })
			t.Run("Identity", func(t *testing.T) { gatewayTellsWhoAsks(t, g, ada, bob) })
			t.Run("Cookies", func(t *testing.T) { gatewayKnowsBrowsers(t, g) })
			t.Run("Spoofed", func(t *testing.T) { gatewayDropsSpoofedIdentity(t, g, ada) })
			t.Run("Body", func(t *testing.T) { gatewayKeepsBodyFromAuthd(t, g, ada) })
			t.Run("Parallel", func(t *testing.T) { gatewayMixesNobodyUp(t, g) })
			t.Run("Authd", func(t *testing.T) { gatewayServesAuthd(t, g) })
			t.Run("LoggedOut", func(t *testing.T) { gatewayHearsOfLogout(t, g, ada, bob) })
			t.Run("AuthdAway", func(t *testing.T) { gatewayRefusesWithoutAuthd(t, g, bob) })
		})
	}
}

func gatewayRefuses(t *testing.T, g *guarded, u user) {
	past := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(u.access, past)
	check(t, err)
	for _, name := range []string{"iat", "nbf", "exp", "auth_time"} {
		past[name] = past[name].(float64) - 3600
	}
	expired, err := token.SignedString([]byte(gatewaySecret))
	check(t, err)

	for name, header := range map[string]map[string][]string{
		"no token":      nil,
		"garbage":       bearer("garbage"),
		"tampered":      bearer(u.access[:len(u.access)-4] + "AAAA"),
		"expired":       bearer(expired),
		"no bearer":     {"Authorization": {"Basic YWRhOmFkYQ=="}},
		"identity only": {"X-Auth-User-Id": {u.id}, "X-Auth-Session-Id": {u.session}},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS"} {
			e := g.do(t, method+" /"+strings.ReplaceAll(name, " ", "-"), header, "")
			g.stopped(t, e, http.StatusUnauthorized)
			if got := e.Answer.Header["Www-Authenticate"]; len(got) != 1 || !strings.HasPrefix(got[0], "Bearer ") {
				t.Errorf("%s: WWW-Authenticate is %q", name, got)
			}
		}
	}
}

func gatewayTellsWhoAsks(t *testing.T, g *guarded, ada, bob user) {
	for _, u := range []user{ada, bob, ada} {
		e := g.do(t, "GET /orders?scope=admin&scope=x", bearer(u.access), "")
		asked, reached := g.passed(t, e, u)
		if reached.To != "GET /orders?scope=admin&scope=x" {
			t.Errorf("the app sees %s", reached.To)
		}
		// The query is the app's business.
		if asked.To != "GET /verify" || asked.Header["X-Forwarded-Method"][0] != "GET" {
			t.Errorf("authd is asked %s %v", asked.To, asked.Header)
		}
	}
	// A browser's token is in a cookie, and where the request comes from decides with it.
	browser := map[string][]string{
		"Cookie": {"a=b; __Host-access=garbage"}, "Origin": {"https://app.example.com"}, "Sec-Fetch-Site": {"same-origin"},
	}
	g.stopped(t, g.do(t, "GET /browser", browser, ""), http.StatusUnauthorized)
	asked := g.ask.take()
	for name, want := range browser {
		if len(asked) != 1 || !slices.Equal(asked[0].Header[name], want) {
			t.Errorf("authd does not hear %s: %v", name, asked)
		}
	}
}

// A browser logs in through the gateway and is known by its cookie. What it changes needs a
// page of the app's.
func gatewayKnowsBrowsers(t *testing.T, g *guarded) {
	b := from(&instance{http: g.url, foreign: true})
	g.edge.post(t, "/register", strings.Replace(credentials, "ada", "eve", 1))
	login := b.send(t, "POST /auth/login", strings.Replace(cookieLogin, "ada", "eve", 1))
	if len(b.cookies) != 2 {
		t.Fatalf("%d %s", login.Answer.Status, login.Answer.Body)
	}
	g.ask.take()
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(b.cookies["__Host-access"], claims)
	check(t, err)
	eve := user{id: claims["userId"].(string), session: login.member(t, "sessionId")}
	pass := func(line, body string) {
		t.Helper()
		e := b.send(t, line, body)
		g.passed(t, e, eve)
	}
	pass("GET /orders", "")
	pass("POST /orders", "{}")
	b.header = map[string][]string{"Sec-Fetch-Site": {"none"}} // a link that somebody typed
	pass("GET /orders", "")
	for _, header := range []map[string][]string{
		nil, {"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}}, {"X-Forwarded-Method": {"GET"}}, {"Sec-Fetch-Site": {"same-site"}},
	} {
		b.header = header
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			g.stopped(t, b.send(t, method+" /orders", "{}"), http.StatusForbidden)
		}
	}
	b.header = from(nil).header
	g.ask.take()
	g.stopped(t, b.send(t, "POST /auth/logout", ""), http.StatusNoContent)
	b.cookies["__Host-access"] = claims["jti"].(string)
	g.stopped(t, b.send(t, "GET /orders", ""), http.StatusUnauthorized)
	g.ask.take()
}

// Whatever a client says of who it is, the app hears what authd says, or nothing.
func gatewayDropsSpoofedIdentity(t *testing.T, g *guarded, u user) {
	for _, spoof := range []map[string][]string{
		{"X-Auth-User-Id": {"999"}, "X-Auth-Session-Id": {"other"}, "X-Auth-Scopes": {"admin"}},
		{"x-auth-user-id": {"999"}, "x-auth-scopes": {"admin"}},
		{"X-AUTH-USER-ID": {"999"}, "X-AUTH-SCOPES": {"admin"}},
		{"X-Auth-User-Id": {"998", "999"}, "X-Auth-Scopes": {"", "admin"}},
		{"X_Auth_User_Id": {"999"}, "X_Auth_Scopes": {"admin"}},
		{"x_auth_user_id": {"999"}, "x-auth_scopes": {"admin"}},
		{"X.Auth.User.Id": {"999"}, "X-Auth.Scopes": {"admin"}},
	} {
		headers := bearer(u.access)
		maps.Copy(headers, spoof) // not canonical: they are sent as they are written
		g.passed(t, g.do(t, "GET /spoofed", headers, ""), u)
	}
	// What a client says of the connection must not take away what the gateway adds.
	headers := bearer(u.access)
	headers["Connection"] = []string{"close, X-Auth-User-Id, X-Auth-Session-Id, X-Forwarded-Method"}
	asked, _ := g.passed(t, g.do(t, "GET /connection", headers, ""), u)
	if got := asked.Header["X-Forwarded-Method"]; !slices.Equal(got, []string{"GET"}) {
		t.Errorf("X-Forwarded-Method is %q", got)
	}
	// Nor is the client believed about itself.
	headers = bearer(u.access)
	headers["X-Forwarded-Method"], headers["X-Forwarded-For"] = []string{"GET"}, []string{"192.0.2.1"}
	asked, _ = g.passed(t, g.do(t, "DELETE /forwarded", headers, ""), u)
	for name, want := range map[string]string{"X-Forwarded-Method": "DELETE", "X-Forwarded-For": "127.0.0.1"} {
		if got := asked.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func gatewayKeepsBodyFromAuthd(t *testing.T, g *guarded, u user) {
	for _, size := range []int{0, 2, 100 << 10} { // the last is more than authd would read
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			body := strings.Repeat("x", size)
			e := g.do(t, method+" /orders", bearer(u.access), body)
			asked, reached := g.passed(t, e, u)
			if reached.To != method+" /orders" || reached.Body != body {
				t.Errorf("the app sees %s with %d bytes, want %s with %d", reached.To, len(reached.Body), method, size)
			}
			if asked.To != "GET /verify" || asked.Body != "" || asked.Header["X-Forwarded-Method"][0] != method {
				t.Errorf("authd is asked %s %v with %d bytes", asked.To, asked.Header, len(asked.Body))
			}
		}
	}
	// One of unknown length comes in chunks.
	req, err := http.NewRequest("POST", g.url+"/chunks", io.MultiReader(strings.NewReader("in "), strings.NewReader("chunks")))
	check(t, err)
	req.Header = bearer(u.access)
	resp, err := client.Do(req)
	check(t, err)
	resp.Body.Close()
	asked, reached := g.passed(t, exchange{message{To: "POST /chunks"}, message{Status: resp.StatusCode}}, u)
	if asked.Body != "" || reached.Body != "in chunks" {
		t.Errorf("authd sees %q, the app %q", asked.Body, reached.Body)
	}
}

func gatewayMixesNobodyUp(t *testing.T, g *guarded) {
	users := make([]user, 10)
	for i := range users {
		users[i] = g.login(t, fmt.Sprintf("user%d", i))
	}
	check(t, all(100, func(i int) error {
		u := users[i%len(users)]
		e, err := g.try("GET /parallel", bearer(u.access), "")
		if want := u.id + " " + u.session; err == nil && e.Answer.Body != want {
			err = fmt.Errorf("%d %q, want %q", e.Answer.Status, e.Answer.Body, want)
		}
		return err
	}))
}

// Browsers reach authd under the host of the app, but not what is for gateways.
func gatewayServesAuthd(t *testing.T, g *guarded) {
	header := map[string][]string{"Content-Type": {"application/json"}, "X-Forwarded-For": {"192.0.2.1"}}
	e := g.do(t, "POST /auth/login", header, credentials)
	g.stopped(t, e, http.StatusOK)
	e.member(t, "accessToken")
	if asked := g.ask.take(); len(asked) != 1 || asked[0].To != "POST /login" ||
		!slices.Equal(asked[0].Header["X-Forwarded-For"], []string{"127.0.0.1"}) {
		t.Errorf("authd is asked %v", asked)
	}
	for _, path := range []string{"verify", "readyz", "healthz", "./verify", "x/../verify", "%76erify", "/verify", "verify/x"} {
		e := g.do(t, "GET /auth/"+path, bearer(e.member(t, "accessToken")), "")
		g.stopped(t, e, http.StatusNotFound)
	}
}

func gatewayHearsOfLogout(t *testing.T, g *guarded, out, other user) {
	g.passed(t, g.do(t, "GET /", bearer(out.access), ""), out)
	g.edge.do(t, "POST /logout", bearer(out.access), "").answered(t, 204, "")
	g.stopped(t, g.do(t, "GET /", bearer(out.access), ""), http.StatusUnauthorized)
	g.passed(t, g.do(t, "GET /", bearer(other.access), ""), other)
}

func gatewayRefusesWithoutAuthd(t *testing.T, g *guarded, u user) {
	refused := func(what string) {
		e := g.do(t, "GET /", bearer(u.access), "")
		if apps := g.app.take(); e.Answer.Status < 500 || len(apps) != 0 {
			t.Errorf("%s: %d; the app was asked %v", what, e.Answer.Status, apps)
		}
	}
	g.handlers.stop(t)
	refused("the bus is away") // authd answers 503
	g.edge.stop(t)
	refused("authd has stopped")
	g.ask.Close()
	refused("nobody listens")
}

// The page shows the configurations that were tested.
func TestThePageForGatewaysShowsTheFiles(t *testing.T) {
	page := document(t, "gateways.md", nil)
	for _, name := range []string{"nginx.conf", "traefik.yaml", "Caddyfile", "envoy.yaml"} {
		file := document(t, "gateways/"+name, nil)
		if !strings.Contains(page, "\n"+file+"```\n") {
			t.Errorf("docs/gateways.md does not show docs/gateways/%s as it is", name)
		}
	}
}

// Traefik is in no Debian, so its configuration is not run. It is read, and says what it must.
func TestTraefikConfiguration(t *testing.T) {
	var config struct {
		HTTP struct {
			Middlewares map[string]struct {
				ForwardAuth *struct {
					Address             string
					TrustForwardHeader  bool     `yaml:"trustForwardHeader"`
					AuthRequestHeaders  []string `yaml:"authRequestHeaders"`
					AuthResponseHeaders []string `yaml:"authResponseHeaders"`
				} `yaml:"forwardAuth"`
				StripPrefix *struct{ Prefixes []string } `yaml:"stripPrefix"`
			}
			Routers map[string]struct {
				Rule, Service string
				Priority      int
				Middlewares   []string
				EntryPoints   []string `yaml:"entryPoints"`
				TLS           *struct{}
			}
			Services map[string]struct {
				LoadBalancer struct {
					Servers []struct{ URL string }
				} `yaml:"loadBalancer"`
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(document(t, "gateways/traefik.yaml", nil)))
	decoder.KnownFields(true)
	check(t, decoder.Decode(&config))

	for name, router := range config.HTTP.Routers {
		if _, ok := config.HTTP.Services[router.Service]; !ok {
			t.Errorf("router %s: there is no service %s", name, router.Service)
		}
		if router.TLS == nil {
			t.Errorf("router %s serves without TLS", name)
		}
		for _, m := range router.Middlewares {
			if _, ok := config.HTTP.Middlewares[m]; !ok {
				t.Errorf("router %s: there is no middleware %s", name, m)
			}
		}
	}
	if got := config.HTTP.Routers["app"].Middlewares; !slices.Equal(got, []string{"auth"}) {
		t.Errorf("the app is behind %v", got)
	}
	ask := config.HTTP.Middlewares["auth"].ForwardAuth
	if ask.TrustForwardHeader {
		t.Error("clients are believed who they are")
	}
	slices.Sort(ask.AuthResponseHeaders)
	if want := []string{"X-Auth-Scopes", "X-Auth-Session-Id", "X-Auth-User-Id"}; !slices.Equal(ask.AuthResponseHeaders, want) {
		t.Errorf("the app hears %v, want %v", ask.AuthResponseHeaders, want)
	}
	for _, name := range []string{"Authorization", "Cookie", "Origin", "Sec-Fetch-Site"} {
		if !slices.Contains(ask.AuthRequestHeaders, name) {
			t.Errorf("authd does not hear %s", name)
		}
	}
	if !strings.HasSuffix(ask.Address, ":3000/verify") {
		t.Errorf("asks %s", ask.Address)
	}

}

// A visitor's credentials for something else, and what is wrong with them, never become an error of the
// gateway.
func TestVerifyRefusesClientsWith401Or403(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	b := from(a)
	b.login(t)
	session := "__Host-access=" + b.cookies["__Host-access"]
	for name, header := range map[string]map[string][]string{
		"a token of another service":    {"Authorization": {"Bearer sk-1"}, "Cookie": {session}},
		"a malformed token":             {"Authorization": {"Bearer a b"}, "Cookie": {session}},
		"no scheme":                     {"Authorization": {"sk-1"}, "Cookie": {session}},
		"two headers":                   {"Authorization": {"Bearer a", "Bearer a"}},
		"two headers of another scheme": {"Authorization": {"Basic YTpi", "Basic YTpi"}, "Cookie": {session}},
		"two cookies":                   {"Cookie": {session + "; " + session}},
		"noise in a cookie":             {"Cookie": {"__Host-access=\xff\xfe"}, "Sec-Fetch-Site": {"same-origin"}},
		"noise in a header":             {"Authorization": {"Bearer \xff\xfe"}},
		"a long token":                  {"Authorization": {"Bearer " + strings.Repeat("a", 15<<10)}},
	} {
		for _, line := range []string{"GET /verify", "GET /verify?scope=a", "POST /verify/orders"} {
			e, err := (&instance{http: a.http, foreign: true}).try(line, header, "")
			check(t, err)
			e.Request.To = line + " with " + name
			e.refused(t, 401, "invalid_token", "")
		}
	}
	for _, scheme := range []string{"Basic YTpi", "Digest username=\"a\"", ""} {
		header := map[string][]string{"Authorization": {scheme}, "Cookie": {session}, "Content-Encoding": {"gzip"}}
		a.do(t, "GET /verify", header, "").answered(t, 200, verified)
	}
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	a.do(t, "GET /verify", map[string][]string{"Authorization": {"bearer   " + access}}, "").answered(t, 200, verified)
}

// Envoy asks with the method and the path of its client's request.
func TestVerifyForGatewaysThatKeepMethodAndPath(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	a.post(t, "/register", credentials)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	b := from(a)
	b.login(t)
	envoy := &instance{http: a.http, foreign: true}
	try := func(line string, header map[string][]string) exchange {
		t.Helper()
		e, err := envoy.try(line, header, "")
		check(t, err)
		return e
	}
	for _, path := range []string{"", "/", "/orders/1", "/orders?scope=admin&x", "/login", "/%6d%65?_method=GET", "/a;b/c%2fd"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"} {
			line := method + " /verify" + path
			if path == "" && method == "OPTIONS" {
				continue // a preflight
			}
			e := try(line, bearer(access))
			e.has(t, map[string]string{"X-Auth-User-Id": "1"})
			if method == "HEAD" {
				if e.Answer.Status != 200 || e.Answer.Body != "" {
					t.Errorf("%s: %d %q", line, e.Answer.Status, e.Answer.Body)
				}
				continue
			}
			e.answered(t, 200, verified)
			try(line, nil).refused(t, 401, "unauthenticated", "")
		}
	}
	// With a cookie, a method that changes something needs a proof, whoever tells it.
	cookie := map[string][]string{"Cookie": {"__Host-access=" + b.cookies["__Host-access"]}}
	try("GET /verify/orders", cookie).answered(t, 200, verified)
	for _, forwarded := range [][]string{nil, {"GET"}, {"GET", "HEAD"}} {
		cookie["X-Forwarded-Method"] = forwarded
		for _, method := range []string{"POST", "DELETE", "PROPFIND"} {
			try(method+" /verify/orders", cookie).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
		}
	}
	for _, forwarded := range [][]string{{"POST"}, {"GET", "POST"}} {
		cookie["X-Forwarded-Method"] = forwarded
		try("GET /verify/orders", cookie).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
		try("GET /verify", cookie).refused(t, 403, "forbidden", `[{"field":"Origin","reason":"not_allowed"}]`)
	}
	// The client cannot choose another route, which would answer it 200.
	for _, target := range []string{"/verify/../healthz", "/verify//../healthz", "/verify/%2e%2e/healthz", "/verify/x/../../healthz", "/verify/..%2fhealthz", "/verify/../confirm.js"} {
		w := a.dial(t)
		w.send("GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n", false)
		e := w.answer(t)
		e.Request.To = target
		e.refused(t, 401, "unauthenticated", "")
	}
}

// No Debian has Envoy, so its configuration is not run either. What it would send is tested above.
func TestEnvoyConfiguration(t *testing.T) {
	var config any
	check(t, yaml.Unmarshal([]byte(document(t, "gateways/envoy.yaml", nil)), &config))
	text := document(t, "gateways/envoy.yaml", nil)
	for _, must := range []string{
		"failure_mode_allow: false", "path_prefix: /verify\n", "normalize_path: true", "headers_with_underscores_action: REJECT_REQUEST",
		"remove: x-auth-user-id", "remove: x-auth-session-id", "remove: x-auth-scopes",
		"exact: cookie", "exact: origin", "exact: sec-fetch-site", "exact: x-auth-user-id", "exact: www-authenticate",
	} {
		if !strings.Contains(text, must) {
			t.Errorf("no %s", must)
		}
	}
	if strings.Index(text, "header_mutation") > strings.Index(text, "ext_authz") {
		t.Error("what authd says is removed")
	}
}

// nginx sends browsers that open a page to the sign-in page, and passes websockets on.
func TestNginxSignInAndWebsockets(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, startNginx)
	e := g.do(t, "GET /orders?a=b", map[string][]string{"Sec-Fetch-Mode": {"navigate"}}, "")
	g.stopped(t, e, http.StatusFound)
	e.has(t, map[string]string{"Location": g.url + "/sign-in?to=/orders?a=b"})
	g.stopped(t, g.do(t, "POST /orders", map[string][]string{"Sec-Fetch-Mode": {"navigate"}}, ""), http.StatusUnauthorized)
	g.do(t, "GET /sign-in", map[string][]string{"X-Auth-User-Id": {"1"}}, "")
	if apps := g.app.take(); len(apps) != 1 || len(identity(apps[0].Header)) != 0 {
		t.Errorf("the sign-in page sees %v", apps)
	}
	ada := g.login(t, "ada")
	header := bearer(ada.access)
	header["Connection"], header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	_, reached := g.passed(t, g.do(t, "GET /socket", header, ""), ada)
	if got := reached.Header["Upgrade"]; !slices.Equal(got, []string{"websocket"}) || !slices.Equal(reached.Header["Connection"], []string{"upgrade"}) {
		t.Errorf("the app sees Upgrade %q and Connection %q", got, reached.Header["Connection"])
	}
}
