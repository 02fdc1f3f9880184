package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testcert"
	"github.com/zyotra/auth/internal/testnats"
)

// external is a configuration whose keys are in dir.
func external(t *testing.T, e embedded.External) string {
	t.Helper()
	text, err := e.Config()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var three = []string{"nats-1", "nats-2", "nats-3"}

// at moves a configuration to where the test lets servers listen and keep their files.
func at(text string) func(testnats.Place) string {
	return func(p testnats.Place) string {
		moved := []string{`"/data"`, strconv.Quote(p.Store), "0.0.0.0:6222", p.Cluster}
		for i, route := range p.Routes {
			moved = append(moved, three[i]+":6222", route)
		}
		return strings.NewReplacer(moved...).Replace(text)
	}
}

// inRole connects as those do who have the key or the credentials of a role.
func inRole(t *testing.T, url, dir, role string, options ...nats.Option) client {
	t.Helper()
	return dialURL(t, url, append(options, credentials(t, dir, role), nats.CustomInboxPrefix(inbox(t, role)))...)
}

func credentials(t *testing.T, dir, role string) nats.Option {
	t.Helper()
	if file := filepath.Join(dir, role+".creds"); exists(file) {
		return nats.UserCredentials(file)
	}
	return seedOption(t, filepath.Join(dir, role+".nk"))
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func inbox(t *testing.T, role string) string {
	t.Helper()
	for _, r := range embedded.Roles() {
		if r.Name == role {
			return r.InboxPrefix
		}
	}
	t.Fatalf("no role %s", role)
	return ""
}

// allRights checks the rights of every role on a server whose credentials are in dir.
func allRights(t *testing.T, url, dir string) {
	t.Helper()
	for _, r := range rights {
		t.Run(r.role, func(t *testing.T) { r.hold(t, inRole(t, url, dir, r.role)) })
	}
}

func TestExternalServersHaveTheRights(t *testing.T) {
	t.Parallel()
	t.Run("one", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir() + "/keys"
		s := testnats.Start(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir}))})
		allRights(t, s.URL(), dir)
	})
	t.Run("three", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir() + "/keys"
		c := testnats.StartCluster(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir, Servers: three}))})
		allRights(t, c.URLs(), dir)
		throughTheCluster(t, c, dir)
	})
	t.Run("three with TLS", func(t *testing.T) {
		t.Parallel()
		dir, ca := t.TempDir()+"/keys", testcert.New(t)
		c := testnats.StartCluster(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir, Servers: three, TLS: ca.Dir}))})
		throughTheCluster(t, c, dir, nats.RootCAs(ca.CAFile()))
		if nc, err := nats.Connect(c.URLs(), credentials(t, dir, embedded.App)); err == nil {
			nc.Close()
			t.Error("the certificate of nobody in particular is believed")
		}
	})
}

// throughTheCluster checks that what is asked on one server is answered from another.
func throughTheCluster(t *testing.T, c *testnats.Cluster, dir string, options ...nats.Option) {
	t.Helper()
	answer(t, inRole(t, c.Servers[0].URL(), dir, embedded.Service, options...), "auth.verify")
	asked(t, inRole(t, c.Servers[2].URL(), dir, embedded.App, options...), "auth.verify")
}

// answer answers a subject.
func answer(t *testing.T, c client, subject string) {
	t.Helper()
	_, err := c.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("yes")) })
	if err := errors.Join(err, c.Flush()); err != nil {
		t.Fatal(err)
	}
}

// asked wants an answer, as soon as the servers have told each other who gives it.
func asked(t *testing.T, c client, subject string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		reply, err := c.RequestWithContext(ctx, subject, nil)
		if errors.Is(err, nats.ErrNoResponders) {
			continue
		}
		if err != nil || string(reply.Data) != "yes" {
			t.Errorf("%s: %v", subject, err)
		}
		return
	}
}

func subscribe(t *testing.T, c client, subject string) *nats.Subscription {
	t.Helper()
	sub, err := c.SubscribeSync(subject)
	if err := errors.Join(err, c.Flush()); err != nil {
		t.Fatal(err)
	}
	return sub
}

func publish(t *testing.T, c client, subject string) {
	t.Helper()
	if err := errors.Join(c.Publish(subject, nil), c.Flush()); err != nil {
		t.Fatal(err)
	}
}

func TestExternalServersAskForCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	closed := testnats.Start(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir}))})
	if nc, err := nats.Connect(closed.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a stranger connects: %v, %v", nc, err)
	}
	open := testnats.Start(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir, AnonymousApp: true}))})
	rights[0].hold(t, dialURL(t, open.URL())) // the app's
	guestsAreApart(t, func() client { return dialURL(t, open.URL()) }, func(role string) client { return inRole(t, open.URL(), dir, role) })
}

func TestExternalServersHaveOperators(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/keys"
	s := testnats.Start(t, testnats.Config{Text: at(external(t, embedded.External{Dir: dir}))})
	operator := dialURL(t, s.URL(), seedOption(t, dir+"/sys.nk"))
	if _, err := operator.RequestWithContext(t.Context(), "$SYS.REQ.SERVER.PING", nil); err != nil {
		t.Error(err)
	}
}

func TestExternalIsTheSameAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/keys"
	e := embedded.External{Dir: dir, Servers: three, TLS: "/etc/nats/"}
	first := external(t, e)
	if second := external(t, e); second != first {
		t.Errorf("another configuration:\n%s\n%s", first, second)
	}
	open := e
	open.AnonymousApp = true
	guests := external(t, open)
	if again := external(t, open); again != guests {
		t.Error("another configuration with guests")
	}
	if err := os.Remove(filepath.Join(dir, "guest.nk")); err != nil {
		t.Error(err)
	}
	if other := external(t, embedded.External{Dir: t.TempDir() + "/keys", Servers: three, TLS: "/etc/nats/"}); other == first {
		t.Error("two directories have the same keys")
	}
	mode(t, dir, fs.ModeDir|0o700)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(embedded.Roles())+2 { // the operators', and the password of routes
		t.Errorf("%v, %v", entries, err)
	}
	for _, entry := range entries {
		mode(t, filepath.Join(dir, entry.Name()), 0o600)
		secret, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if entry.Name() != "routes.password" && strings.Contains(first, strings.TrimSpace(string(secret))) {
			t.Errorf("the configuration holds %s", entry.Name())
		}
	}
}

// The keys that the embedded server made go on being good.
func TestExternalTakesTheKeysOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).Shutdown()
	before := seeds(t, dir)
	s := testnats.Start(t, testnats.Config{Text: at(external(t, embedded.External{Dir: filepath.Join(dir, "keys")}))})
	for role, seed := range seeds(t, dir) {
		if seed != before[role] {
			t.Errorf("%s has another key", role)
		}
	}
	inRole(t, s.URL(), filepath.Join(dir, "keys"), embedded.Service)
}

// A key is replaced while the servers run: both are good until the former one is taken away,
// which also cuts off who has it.
func TestAKeyIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/keys"
	e := embedded.External{Dir: dir}
	s := testnats.Start(t, testnats.Config{Text: at(external(t, e))})
	key, former := filepath.Join(dir, "service.nk"), filepath.Join(dir, "service.former.nk")
	closed := make(chan error, 8)
	as := func(file string) client {
		return dialURL(t, s.URL(), seedOption(t, file), nats.CustomInboxPrefix("_INBOX_service"), nats.ReconnectWait(10*time.Millisecond),
			nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
	}
	reload := func() {
		t.Helper()
		if err := s.Reload(t.Context(), at(external(t, e))); err != nil {
			t.Fatal(err)
		}
	}
	before := as(key)
	if err := os.Rename(key, former); err != nil {
		t.Fatal(err)
	}
	reload()
	if err := before.Flush(); err != nil || before.Reconnects != 0 {
		t.Errorf("who has the former key is disconnected: %v", err)
	}
	for _, r := range rights {
		if r.role == embedded.Service {
			r.hold(t, as(former))
			r.hold(t, as(key))
		}
	}

	aside := filepath.Join(t.TempDir(), "service.nk")
	if err := os.Rename(former, aside); err != nil {
		t.Fatal(err)
	}
	reload()
	if err := <-closed; !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("it is cut off with %v", err)
	}
	if _, err := nats.Connect(s.URL(), seedOption(t, aside)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the former key is good for ever: %v", err)
	}
	as(key)
}

func TestExternalRefuses(t *testing.T) {
	t.Parallel()
	for name, servers := range map[string][]string{
		"two": {"a", "b"}, "one": {"a"}, "twice": {"a", "b", "a"}, "port": {"a:1", "b", "c"},
		"empty": {"a", "", "c"}, "quote": {`a"`, "b", "c"}, "URL": {"nats://a", "b", "c"},
	} {
		dir := t.TempDir() + "/keys"
		text, err := embedded.External{Dir: dir, Servers: servers}.Config()
		if !errors.Is(err, embedded.ErrServers) || text != "" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if exists(dir) {
			t.Errorf("%s: keys were made", name)
		}
	}
	for name, spoil := range map[string]func(dir string) error{
		"open directory": func(dir string) error { return os.Chmod(dir, 0o755) },
		"open key":       func(dir string) error { return os.Chmod(dir+"/relay.nk", 0o644) },
		"no key":         func(dir string) error { return os.WriteFile(dir+"/relay.nk", []byte("hunter22"), 0o600) },
		"no former key":  func(dir string) error { return os.WriteFile(dir+"/relay.former.nk", []byte("hunter22"), 0o600) },
		"weak password":  func(dir string) error { return os.WriteFile(dir+"/routes.password", []byte("hunter22"), 0o600) },
	} {
		dir := t.TempDir() + "/keys"
		e := embedded.External{Dir: dir, Servers: three}
		external(t, e)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		text, err := e.Config()
		if err == nil || text != "" || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

// The script makes roles with the same rights, on servers that have no list of them.
func TestOperatorModeHasTheRights(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "it's here") // a shell must not take it apart
	script, err := embedded.NSC(dir)
	if err != nil {
		t.Fatal(err)
	}
	testnats.RunNSC(t, script)
	mode(t, filepath.Join(dir, "service.creds"), 0o600)

	text := external(t, embedded.External{Dir: t.TempDir() + "/keys"})
	servers, _, found := strings.Cut(text, "system_account:")
	if !found {
		t.Fatal(text)
	}
	resolver, err := os.ReadFile(filepath.Join(dir, "resolver.conf"))
	if err != nil {
		t.Fatal(err)
	}
	s := testnats.Start(t, testnats.Config{Text: at(servers + string(resolver))})
	allRights(t, s.URL(), dir)
	passes(t, s.URL(), dir, nil)
	admin := jetStream(t, inRole(t, s.URL(), dir, embedded.Admin).Conn)
	if _, err := admin.AccountInfo(t.Context()); err != nil {
		t.Errorf("JetStream: %v", err)
	}
	operator := dialURL(t, s.URL(), credentials(t, dir, "sys"))
	if _, err := operator.RequestWithContext(t.Context(), "$SYS.REQ.SERVER.PING", nil); err != nil {
		t.Error(err)
	}
}

// A leaf node with the app's key lets its clients, who have none, be apps and no more.
func TestALeafNodeIsAnApp(t *testing.T) {
	t.Parallel()
	hub, leaf, dir := withLeaf(t)
	service := inRole(t, hub.URL(), dir, embedded.Service)
	forged := subscribe(t, service, "user.registered")
	answer(t, service, "auth.verify")
	stranger := dialURL(t, leaf.URL())
	events, logins := subscribe(t, stranger, "session.revoked"), subscribe(t, stranger, "auth.login")

	asked(t, stranger, "auth.verify")
	publish(t, stranger, "user.registered")
	asked(t, stranger, "auth.verify") // takes the same way, behind it
	if n, _, _ := forged.Pending(); n != 0 {
		t.Error("a leaf's client publishes events")
	}
	publish(t, inRole(t, hub.URL(), dir, embedded.Edge), "auth.login")
	publish(t, inRole(t, hub.URL(), dir, embedded.Relay), "session.revoked")
	if _, err := events.NextMsg(2 * time.Minute); err != nil {
		t.Errorf("a leaf's client does not hear the events: %v", err)
	}
	if n, _, _ := logins.Pending(); n != 0 {
		t.Error("a leaf's client reads login requests")
	}
}

// withLeaf starts a server with roles and another one that is its leaf, as an app.
func withLeaf(t *testing.T) (hub, leaf *testnats.Server, dir string) {
	t.Helper()
	dir = t.TempDir() + "/keys"
	text := external(t, embedded.External{Dir: dir}) + "leafnodes { listen: \"127.0.0.1:-1\" }\n"
	hub = testnats.Start(t, testnats.Config{Text: at(text)})
	seed, err := os.ReadFile(filepath.Join(dir, "app.nk"))
	if err != nil {
		t.Fatal(err)
	}
	remote := fmt.Sprintf("leafnodes { remotes: [ { url: \"nats-leaf://127.0.0.1:%d\", seed: $APP_SEED } ] }\n", leafPort(t, hub))
	leaf = testnats.Start(t, testnats.Config{
		Text: func(testnats.Place) string { return remote },
		Env:  []string{"APP_SEED=" + strings.TrimSpace(string(seed))},
	})
	return hub, leaf, dir
}

// leafPort is where a server listens for leaf nodes.
func leafPort(t *testing.T, s *testnats.Server) int {
	t.Helper()
	resp, err := http.Get(s.Monitor() + "/varz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct {
		Leaf struct{ Port int }
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	return page.Leaf.Port
}
