package operations_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testcert"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testsmtp"
)

// roleBus is an external bus with roles.
type roleBus struct {
	url  string
	dir  string // of the credentials
	kind string // of their files: nk or creds; "" if there are none
	ca   string // "" without TLS
}

// flags are those of a command that has the credentials of the directory.
func (b roleBus) flags() []string {
	if b.kind == "" { // everybody is let in
		return []string{"--nats-url=" + b.url}
	}
	flags := []string{"--nats-url=" + b.url, map[string]string{"nk": "--nats-nkey-seed-file=", "creds": "--nats-creds="}[b.kind] + b.dir}
	if b.ca != "" {
		flags = append(flags, "--nats-tls-ca="+b.ca)
	}
	return flags
}

// as connects in a role.
func (b roleBus) as(t *testing.T, role string) *nats.Conn {
	t.Helper()
	prefix := "_INBOX_" + role
	if role == embedded.App {
		prefix = "_INBOX"
	}
	if b.kind == "" {
		return testauthd.Connect(t, b.url, nats.CustomInboxPrefix(prefix))
	}
	file := filepath.Join(b.dir, role+"."+b.kind)
	options := []nats.Option{nats.CustomInboxPrefix(prefix), nats.UserCredentials(file)}
	if b.kind == "nk" {
		key, err := nats.NkeyOptionFromSeed(file)
		check(t, err)
		options[1] = key
	}
	if b.ca != "" {
		options = append(options, nats.RootCAs(b.ca))
	}
	return testauthd.Connect(t, b.url, options...)
}

// clusterWithRoles is three servers with TLS, as "authd nats-config" writes them down.
func clusterWithRoles(t *testing.T) roleBus {
	t.Helper()
	dir, ca := t.TempDir(), testcert.New(t)
	config := testauthd.Run(t, dir, "nats-config", "--dir=keys", "--servers="+strings.Join(testnats.Hosts, ","), "--tls="+ca.Dir)
	c := testnats.StartCluster(t, testnats.Config{Text: testnats.Moved(config)})
	return roleBus{strings.ReplaceAll(c.URLs(), "nats://", "tls://"), filepath.Join(dir, "keys"), "nk", ca.CAFile()}
}

// operatorMode is one server whose users nsc made.
func operatorMode(t *testing.T) roleBus {
	t.Helper()
	dir := t.TempDir()
	testnats.RunNSC(t, testauthd.Run(t, dir, "nats-config", "--dir="+dir+"/creds", "--nsc"))
	servers, _, _ := strings.Cut(testauthd.Run(t, dir, "nats-config", "--dir=unused"), "system_account:")
	resolver, err := os.ReadFile(dir + "/creds/resolver.conf")
	check(t, err)
	s := testnats.Start(t, testnats.Config{Text: testnats.Moved(servers + string(resolver))})
	return roleBus{s.URL(), dir + "/creds", "creds", ""}
}

// The whole service on a bus that gives each part its own rights and no more.
func TestEachPartHasItsRole(t *testing.T) {
	t.Parallel()
	for name, deploy := range map[string]struct {
		bus      func(*testing.T) roleBus
		replicas int
	}{
		"cluster of three": {clusterWithRoles, 3},
		"operator mode":    {operatorMode, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus := deploy.bus(t)
			inbox, smtp := startSMTP(t)
			flags := append(append(testauthd.WithPostgres(testpg.URL(t)), bus.flags()...), "--email-verification=optional")
			a := testauthd.Start(t, append(flags, smtp...)...)

			login := rolesStory(t, a, bus)
			inbox.Wait(t, "ada@example.com") // the mailer has read it
			edgeWithoutOtherKeys(t, bus, login)
			replicated(t, bus, deploy.replicas)
			subscriberFollows(t, bus)
			strangersAreKeptOut(t, bus)
			operatorsAsk(t, bus)
			if strings.Contains(strings.ToLower(a.Stderr.String()), "permissions violation") {
				t.Errorf("a part may not what it wants:\n%s", a.Stderr)
			}
		})
	}
}

// startSMTP starts a mail server and returns the flags of instances that send there.
func startSMTP(t *testing.T) (inbox *testsmtp.Server, flags []string) {
	t.Helper()
	inbox = testsmtp.Start(t)
	return inbox, []string{"--smtp-url=" + inbox.URL, "--smtp-tls-ca=" + inbox.CAFile, "--mail-from=Acme <no-reply@acme.example>"}
}

// rolesStory is a registration, a login and a verification, over HTTP and as an app.
func rolesStory(t *testing.T, a *testauthd.Instance, bus roleBus) (access string) {
	t.Helper()
	app := bus.as(t, embedded.App)
	registered, err := app.SubscribeSync("user.registered")
	check(t, err)
	check(t, app.Flush())
	testauthd.SignUp(t, a)
	testoutbox.Receive(t, registered, "user.registered", "1")
	access = testauthd.Ask(t, app, "auth.login", nil, testauthd.Credentials).Member(t, "accessToken")
	testauthd.Ask(t, app, "auth.verify", nil, `{"token":"`+access+`"}`).Replied(t, testauthd.Verified)
	a.Get(t, "/verify", access).Answered(t, 200, testauthd.Verified)
	testauthd.Until(t, "it is ready in all parts", func() bool { return a.Get(t, "/readyz", "").Answer.Status == 200 })
	return access
}

// edgeWithoutOtherKeys runs an edge that has its own credentials alone.
func edgeWithoutOtherKeys(t *testing.T, bus roleBus, access string) {
	t.Helper()
	file := "edge." + bus.kind
	content, err := os.ReadFile(filepath.Join(bus.dir, file))
	check(t, err)
	alone := t.TempDir()
	check(t, os.WriteFile(filepath.Join(alone, file), content, 0o600))
	bus.dir = alone
	edge := testauthd.Start(t, append([]string{"serve", "--edge"}, bus.flags()...)...)
	edge.Get(t, "/verify", access).Answered(t, 200, testauthd.Verified)
	edge.Get(t, "/me", access).Answered(t, 200, strings.NewReplacer(`"Ada"`, `""`).Replace(testauthd.Account))
}

// replicated wants the streams on so many servers.
func replicated(t *testing.T, bus roleBus, replicas int) {
	t.Helper()
	js, err := jetstream.New(bus.as(t, embedded.Admin))
	check(t, err)
	for _, name := range []string{events.Stream, "AUTH_MAIL", "AUTH_MAIL_FAILED"} {
		s, err := js.Stream(t.Context(), name)
		check(t, err)
		if n := s.CachedInfo().Config.Replicas; n != replicas {
			t.Errorf("%s is kept on %d servers", name, n)
		}
		if c := s.CachedInfo().Cluster; replicas > 1 && (c == nil || len(c.Replicas) != replicas-1) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// subscriberFollows reads the events as a subscriber, who cannot change what is kept.
func subscriberFollows(t *testing.T, bus roleBus) {
	t.Helper()
	conn := bus.as(t, embedded.Subscriber)
	got := make(chan events.UserRegistered, 1)
	sub, err := events.Subscribe(t.Context(), conn, events.Consumer{Name: "directory"}, events.On(
		func(_ context.Context, _ events.Event, e events.UserRegistered) error { got <- e; return nil }))
	check(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sub.Run(ctx) }()
	if e := <-got; e.UserID != 1 {
		t.Errorf("%+v", e)
	}
	stop()
	check(t, <-ended)
	mayNot(t, conn, "$JS.API.STREAM.DELETE.AUTH_EVENTS", "$JS.API.STREAM.PURGE.AUTH_EVENTS", "$JS.API.STREAM.UPDATE.AUTH_EVENTS",
		"$JS.API.STREAM.INFO.AUTH_MAIL", "$JS.API.STREAM.MSG.GET.AUTH_MAIL", "$JS.API.CONSUMER.CREATE.AUTH_MAIL.directory")
}

// strangersAreKeptOut checks what an attacker would try first.
func strangersAreKeptOut(t *testing.T, bus roleBus) {
	t.Helper()
	app := bus.as(t, embedded.App)
	mayNot(t, app, "user.registered", "session.revoked", "mail.requested", "auth.admin.users.list", "$JS.API.STREAM.LIST", "_INBOX_edge.x")
	for _, subject := range []string{"auth.login", "auth.>", "_INBOX_edge.>", "_INBOX_service.>", "mail.>", ">"} {
		_, err := app.SubscribeSync(subject)
		check(t, err)
		check(t, app.Flush())
		if err := app.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("an app may read %s: %v", subject, err)
		}
	}
	mayNot(t, bus.as(t, embedded.Edge), "user.registered", "auth.admin.users.list", "$JS.API.STREAM.LIST")
	mayNot(t, bus.as(t, embedded.Mailer), "auth.login", "mail.requested", "$JS.API.STREAM.DELETE.AUTH_MAIL", "$JS.API.STREAM.INFO.AUTH_EVENTS")
	mayNot(t, bus.as(t, embedded.Service), "user.registered", "session.revoked", "mail.requested", "$JS.API.STREAM.LIST")
	mayNot(t, bus.as(t, embedded.Relay), "auth.login", "_INBOX.x", "auth.admin.users.list")
}

// mayNot wants each publication refused.
func mayNot(t *testing.T, conn *nats.Conn, subjects ...string) {
	t.Helper()
	for _, subject := range subjects {
		check(t, conn.Publish(subject, nil))
		check(t, conn.Flush())
		if err := conn.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("%s may publish %s: %v", conn.Opts.InboxPrefix, subject, err)
		}
	}
}

// operatorsAsk uses the command line with the directory, and without the operator's key.
func operatorsAsk(t *testing.T, bus roleBus) {
	t.Helper()
	if said := testauthd.Run(t, t.TempDir(), append([]string{"users", "list", "--json"}, bus.flags()...)...); !strings.HasPrefix(said, `{"userId":1,`) {
		t.Error(said)
	}
	said := testauthd.Run(t, t.TempDir(), append([]string{"events", "tail", "--json", "--no-follow", "--subject=user.registered"}, bus.flags()...)...)
	var event struct{ Type string }
	check(t, json.Unmarshal([]byte(said), &event))
	if event.Type != "user.registered" {
		t.Error(said)
	}
	testauthd.Run(t, t.TempDir(), append([]string{"mail", "status"}, bus.flags()...)...)

	flags := bus.flags()
	flags[1] += "/app." + bus.kind
	cmd := testauthd.Command(t, "authd", append([]string{"users", "list"}, flags...)...)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "only operators may ask") {
		t.Errorf("%s, %v", out, err)
	}
}

// An authd that the servers refuse for a while, as when a key is replaced in the wrong order,
// comes back by itself.
func TestRefusedCredentialsAreTriedAgain(t *testing.T) {
	t.Parallel()
	config := func(dir string) func(testnats.Place) string {
		text, err := embedded.External{Dir: dir}.Config()
		check(t, err)
		return testnats.Moved(text)
	}
	dir, others := t.TempDir()+"/keys", t.TempDir()+"/keys"
	s := testnats.Start(t, testnats.Config{Text: config(dir)})
	a := testauthd.Start(t, roleBus{s.URL(), dir, "nk", ""}.flags()...)
	testauthd.SignUp(t, a)
	check(t, s.Reload(t.Context(), config(others)))
	for _, role := range []string{embedded.Service, embedded.Relay, embedded.Edge} {
		testauthd.Until(t, role+" was refused more than once", func() bool {
			refused := 0
			for line := range strings.Lines(a.Stderr.String()) {
				if strings.Contains(line, `"role":"`+role+`"`) && strings.Contains(strings.ToLower(line), "authorization violation") {
					refused++
				}
			}
			return refused > 2
		})
	}
	a.Get(t, "/readyz", "").Refused(t, 503, "unavailable", `[{"field":"bus","reason":"away"}]`)
	check(t, s.Reload(t.Context(), config(dir)))
	testauthd.Until(t, "it is back", func() bool { return a.Get(t, "/readyz", "").Answer.Body == `{"status":"ready"}` })
	a.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
}
