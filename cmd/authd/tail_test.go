package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/persistence"
)

// reach are the flags with which a command reaches the embedded bus of a running instance.
func (a *instance) reach() []string {
	return []string{"--nats-listen=" + strings.TrimPrefix(a.nats, "nats://"), "--data-dir=" + filepath.Join(a.dir, "data")}
}

// tail returns the lines of "authd events tail --no-follow".
func (a *instance) tail(t *testing.T, args ...string) []string {
	t.Helper()
	said := command(t, t.TempDir(), append(append([]string{"events", "tail", "--no-follow"}, a.reach()...), args...)...)
	return strings.FieldsFunc(said, func(r rune) bool { return r == '\n' })
}

// told waits until the events of an instance on SQLite are published.
func (a *instance) told(t *testing.T) {
	t.Helper()
	store, err := persistence.Open(t.Context(), "sqlite://"+a.dir+"/data/authd.db")
	check(t, err)
	defer func() { check(t, store.Close()) }()
	published(t, store)
}

func TestEventsTail(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.post(t, "/register", strings.Replace(credentials, "}", `,"name":"Ada L\u009b31m"}`, 1)).refused(t, 422, "validation_failed", `[{"field":"name","reason":"invalid"}]`)
	a.post(t, "/register", strings.Replace(credentials, "}", `,"name":"Ada \u202e L"}`, 1))
	session := a.post(t, "/login", credentials).member(t, "sessionId")
	a.told(t)

	var types []string
	for _, line := range a.tail(t, "--json") {
		var e struct {
			ID, Type, Subject string
			Time              time.Time
			Data              map[string]any
		}
		check(t, json.Unmarshal([]byte(line), &e))
		if !regexp.MustCompile(`^\{"id":"[0-9a-f-]{36}","type":"[a-z._]+","subject":"[\w-]+","time":"[^"]+Z","data":\{.*\}\}$`).MatchString(line) || time.Since(e.Time) > patience {
			t.Errorf("%s", line)
		}
		types = append(types, e.Type+" "+e.Subject)
		if e.Type == "session.created" && e.Data["sessionId"] != session {
			t.Errorf("%v", e.Data)
		}
	}
	if got := strings.Join(types[1:], ", "); !strings.HasPrefix(types[0], "key.rotated ") || got != "user.registered 1, session.created 1" {
		t.Errorf("%v", types)
	}

	lines := a.tail(t, "--subject=user.>")
	if len(lines) != 1 || !regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]{12}Z  user\.registered        1       email=ada@example\.com name="Ada \\u202e L" createdAt=\S+Z$`).MatchString(lines[0]) {
		t.Errorf("%q", lines)
	}
	if lines := a.tail(t, "--since=0s"); len(lines) != 0 {
		t.Errorf("%q", lines)
	}
	if lines := a.tail(t, "--since="+time.Now().Add(-time.Hour).Format(time.RFC3339)); len(lines) != 3 {
		t.Errorf("%q", lines)
	}
}

func TestEventsTailFollowsUntilItIsStopped(t *testing.T) {
	t.Parallel()
	a := start(t)
	cmd := exec.Command("owned-authd", append([]string{"events", "tail", "--json", "--subject=user.*"}, a.reach()...)...)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	hold, err := cmd.StdinPipe()
	check(t, err)
	defer hold.Close()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewReader(out)
	for _, name := range []string{"ada", "bob"} {
		a.post(t, "/register", strings.Replace(credentials, "ada", name, 1))
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, name+"@example.com") {
			t.Errorf("%s, %v", line, err)
		}
	}
	check(t, cmd.Process.Signal(os.Interrupt))
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("%s, %v", rest, err)
	}
	check(t, cmd.Wait())
}

func TestEventsTailOnABusElsewhere(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.post(t, "/register", credentials)
	a.told(t)
	seed := embedded.SeedFile(filepath.Join(a.dir, "data", "nats"), embedded.Admin)
	said := command(t, t.TempDir(), "events", "tail", "--no-follow", "--nats-url="+a.nats, "--nats-nkey-seed-file="+seed)
	if strings.Count(said, "\n") != 2 {
		t.Error(said)
	}
	cmd := exec.Command("authd", "events", "tail", "--nats-url="+a.nats) // as an app
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "is the user allowed to read the stream?") {
		t.Errorf("%s, %v", out, err)
	}
}

// Events that a stream lost come back beside the running service.
func TestOutboxRepublish(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.post(t, "/register", credentials)
	a.told(t)
	admin := connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Admin))
	_, err := admin.Request("$JS.API.STREAM.DELETE.AUTH_EVENTS", nil, patience)
	check(t, err)
	said := command(t, a.dir, "outbox", "republish", "--since=1h")
	if !strings.HasPrefix(said, "events that will be published once more: 2;") {
		t.Error(said)
	}
	a.told(t)
	if said := command(t, a.dir, "outbox", "status"); said != "no events wait to be published\n" {
		t.Error(said)
	}
	if lines := a.tail(t); len(lines) != 2 {
		t.Errorf("%q", lines)
	}
}
