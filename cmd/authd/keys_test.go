package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testpg"
)

// command runs a command that ends, in a directory, and returns what it says.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("authd", args...)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("authd %v: %v\n%s", args, err, &stderr)
	}
	return string(out)
}

// login begins a session and returns its access token and the kid that signed it.
func (a *instance) login(t *testing.T) (token, kid string) {
	t.Helper()
	token = a.post(t, "/login", credentials).member(t, "accessToken")
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	check(t, err)
	var header struct{ Kid string }
	check(t, json.Unmarshal(head, &header))
	return token, header.Kid
}

// published are the kids in the key set.
func (a *instance) published(t *testing.T) (kids []string) {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	check(t, json.Unmarshal([]byte(a.get(t, "/.well-known/jwks.json", "").Answer.Body), &set))
	for _, key := range set.Keys {
		kids = append(kids, key.Kid)
	}
	return kids
}

// Each instance has a bus of its own, so that it is known who signs and who verifies.
func TestKeysChangeBesideRunningInstances(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	run := func() *instance {
		return start(t, append(withPostgres(url), "--nats-url="+externalNATS(t, server.Options{}))...)
	}
	keys := func(args ...string) string {
		t.Helper()
		return command(t, t.TempDir(), append(append([]string{"keys"}, args...), "--database-url="+url, "--secret-key="+masterSecret)...)
	}
	a := run()
	b := run()
	signUp(t, a)
	token, first := a.login(t)
	every := func(what string, so func(*instance) bool) {
		t.Helper()
		until(t, what, func() bool { return so(a) && so(b) })
	}

	next, _, _ := strings.Cut(keys("rotate", "--now"), " ")
	every("both publish both keys", func(i *instance) bool { return slices.Equal(i.published(t), []string{next, first}) })
	for _, i := range []*instance{a, b} {
		if _, kid := i.login(t); kid != next {
			t.Errorf("signed with %s, want %s", kid, next)
		}
		i.get(t, "/verify", token).answered(t, 200, verified)
	}

	check(t, b.signal(syscall.SIGKILL))
	b.wait(t, patience)
	keys("retire", first)
	b = run()
	every("both publish the new key alone", func(i *instance) bool { return slices.Equal(i.published(t), []string{next}) })
	fresh, _ := b.login(t)
	every("both refuse what the old one signed", func(i *instance) bool { return i.get(t, "/verify", token).Answer.Status == 401 })
	for _, i := range []*instance{a, b} {
		i.get(t, "/verify", token).refused(t, 401, "invalid_token", "")
		i.get(t, "/verify", fresh).answered(t, 200, verified)
	}
}

func TestTheGeneratedSecretIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := launch(t, dir).ready(t)
	signUp(t, a)
	a.stop(t)
	name := filepath.Join(dir, "data", secretFile)
	former, err := os.ReadFile(name)
	check(t, err)
	put := func(text string) { t.Helper(); check(t, os.WriteFile(name, []byte(text+"\n"), 0o600)) }

	next := secret.Generate()
	put(next)
	launch(t, dir).refused(t, exitUsage, "SECRET_KEY is not the one")
	put(next + "," + strings.TrimSpace(string(former)))
	a = launch(t, dir).ready(t)
	if strings.Contains(a.stderr.String(), "can go") {
		t.Error("the former one is given up before everything is sealed anew")
	}
	if said := command(t, dir, "keys", "reseal"); !strings.Contains(said, "signing keys 1, peppers 1") {
		t.Errorf("while the service runs: %s", said)
	}
	a.stop(t)
	a = launch(t, dir).ready(t)
	a.line(t, "the second SECRET_KEY can go")
	a.stop(t)

	put(next)
	a = launch(t, dir).ready(t)
	for range 2 { // the first one stores the password afresh
		token, _ := a.login(t)
		a.get(t, "/verify", token).answered(t, 200, verified)
	}
	a.stop(t)
}
