package main

import (
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
)

// A bus on which strangers may do everything is refused, by the service and by an edge alone, unless
// NATS_OPEN allows it.
func TestAnOpenBusIsRefused(t *testing.T) {
	t.Parallel()
	url := "--nats-url=" + externalNATS(t, withJetStream(t))
	for _, parts := range [][]string{{"serve"}, {"serve", "--edge"}, {"serve", "--handlers"}} {
		launch(t, t.TempDir(), append(parts, url, "--nats-open=off")...).
			refused(t, exitFailed, "NATS_URL", "clients without credentials may", "ask auth.admin.>", "publish events", "authd nats-config", "NATS_OPEN=on")
	}
	doctor(t, exitFailed, append(alone(t), url, "--nats-open=off")...).has(t, "strangers", broken, "ask auth.admin.>")

	a := start(t, url, "--nats-open=on")
	a.line(t, `NATS_OPEN=on`)
	doctor(t, exitStopped, append(a.beside(), url, "--nats-open=on")...).has(t, "strangers", unwise, "ask auth.admin.>")
}

// withOneUser is a server that lets in one user alone, and its URL with that user.
func withOneUser(t *testing.T) (url string) {
	t.Helper()
	o := withJetStream(t)
	o.Username, o.Password = "authd", "hunter22"
	return "nats://authd:hunter22@" + externalNATS(t, o)[len("nats://"):]
}

// A server of the cluster that is away at the start is checked when it comes: if strangers may misuse
// it, the service ends.
func TestAServerThatComesLaterIsCheckedThen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	later := l.Addr().(*net.TCPAddr)
	check(t, l.Close())
	a := start(t, "--nats-open=off", "--nats-url="+withOneUser(t)+",nats://authd:hunter22@"+later.String())
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: later.Port, NoLog: true, NoSigs: true})
	check(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if code := a.wait(t, patience); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	a.line(t, "127.0.0.1:"+strconv.Itoa(later.Port)+", clients without credentials may")
}

func TestSettingsOfStrangersAreRefused(t *testing.T) {
	t.Parallel()
	url := "--nats-url=nats://127.0.0.1:1"
	for name, args := range map[string][]string{
		"NATS_ANONYMOUS": {url, "--nats-anonymous=on"},
		"NATS_OPEN":      {"--nats-open=on"},
		`"maybe"`:        {"--nats-anonymous=maybe"},
		`"perhaps"`:      {url, "--nats-open=perhaps"},
	} {
		launch(t, t.TempDir(), args...).refused(t, exitUsage, name)
	}
}

// Clients on other machines need a key, which is made at the start, unless NATS_ANONYMOUS says
// otherwise.
func TestClientsNeedAKeyUnlessTheListenerIsOnLoopback(t *testing.T) {
	t.Parallel()
	listening := func(args ...string) *instance {
		all := append([]string{"--port=0", "--metrics-addr=off", "--log-format=json", "--nats-listen=0.0.0.0:0"}, args...)
		return execute(t, t.TempDir(), exec.Command("owned-authd", all...)).ready(t)
	}
	a := listening()
	if conn, err := nats.Connect(a.nats); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a client without a key: %v, %v", conn, err)
	}
	key, err := nats.NkeyOptionFromSeed(filepath.Join(a.dir, "data", "nats", "keys", embedded.App+".nk"))
	check(t, err)
	ask(t, connect(t, a.nats, key), "auth.keys", nil, `{}`)

	open := listening("--nats-anonymous=on")
	open.line(t, "NATS_ANONYMOUS=on")
	ask(t, connect(t, open.nats), "auth.keys", nil, `{}`)
	d := doctor(t, exitStopped, append(alone(t), "--nats-listen=0.0.0.0:0", "--nats-anonymous=on")...)
	d.has(t, "strangers", unwise, "NATS_ANONYMOUS=on")
	d = doctor(t, exitStopped, append(alone(t), "--nats-listen=0.0.0.0:0")...)
	d.has(t, "strangers", fine, "every client needs credentials")
}
