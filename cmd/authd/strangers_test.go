package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

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
