package embedded_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
	service := inRole(t, c.Servers[0].URL(), dir, embedded.Service, options...)
	_, err := service.Subscribe("auth.verify", func(m *nats.Msg) { _ = m.Respond([]byte("yes")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Flush(); err != nil {
		t.Fatal(err)
	}
	app := inRole(t, c.Servers[2].URL(), dir, embedded.App, options...)
	for {
		reply, err := app.RequestWithContext(t.Context(), "auth.verify", nil)
		if errors.Is(err, nats.ErrNoResponders) {
			continue // the other server has not told this one yet
		}
		if err != nil || string(reply.Data) != "yes" {
			t.Errorf("%v", err)
		}
		return
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

// A key is replaced while both are good.
func TestExternalLetsFormerKeysIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/keys"
	e := embedded.External{Dir: dir}
	external(t, e)
	former := filepath.Join(dir, "service.former.nk")
	if err := os.Rename(filepath.Join(dir, "service.nk"), former); err != nil {
		t.Fatal(err)
	}
	both := testnats.Start(t, testnats.Config{Text: at(external(t, e))})
	for _, file := range []string{former, filepath.Join(dir, "service.nk")} {
		c := dialURL(t, both.URL(), seedOption(t, file), nats.CustomInboxPrefix("_INBOX_service"))
		for _, r := range rights {
			if r.role == embedded.Service {
				r.hold(t, c)
			}
		}
	}
	aside := filepath.Join(t.TempDir(), "service.nk")
	if err := os.Rename(former, aside); err != nil {
		t.Fatal(err)
	}
	without := testnats.Start(t, testnats.Config{Text: at(external(t, e))})
	if _, err := nats.Connect(without.URL(), seedOption(t, aside)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the former key is good for ever: %v", err)
	}
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
	admin := jetStream(t, inRole(t, s.URL(), dir, embedded.Admin).Conn)
	if _, err := admin.AccountInfo(t.Context()); err != nil {
		t.Errorf("JetStream: %v", err)
	}
	operator := dialURL(t, s.URL(), credentials(t, dir, "sys"))
	if _, err := operator.RequestWithContext(t.Context(), "$SYS.REQ.SERVER.PING", nil); err != nil {
		t.Error(err)
	}
}
