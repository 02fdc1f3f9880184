package operations_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testoutbox"
)

// tail returns the lines of "authd events tail --no-follow".
func tail(t *testing.T, a *testauthd.Instance, args ...string) []string {
	t.Helper()
	said := testauthd.Run(t, t.TempDir(), append(append([]string{"events", "tail", "--no-follow"}, a.Reach()...), args...)...)
	return strings.FieldsFunc(said, func(r rune) bool { return r == '\n' })
}

func TestEventsTail(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	a.Post(t, "/register", strings.Replace(testauthd.Credentials, "}", `,"name":"Ada L\u009b31m"}`, 1)).Refused(t, 422, "validation_failed", `[{"field":"name","reason":"invalid"}]`)
	a.Post(t, "/register", strings.Replace(testauthd.Credentials, "}", `,"name":"Ada \u202e L"}`, 1))
	session := a.Post(t, "/login", testauthd.Credentials).Member(t, "sessionId")
	testoutbox.PublishedOf(t, a.Dir)

	var types []string
	for _, line := range tail(t, a, "--json") {
		var e struct {
			ID, Type, Subject string
			Time              time.Time
			Data              map[string]any
		}
		check(t, json.Unmarshal([]byte(line), &e))
		if !regexp.MustCompile(`^\{"id":"[0-9a-f-]{36}","type":"[a-z._]+","subject":"[\w-]+","time":"[^"]+Z","data":\{.*\}\}$`).MatchString(line) || time.Since(e.Time) > testauthd.Patience {
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

	lines := tail(t, a, "--subject=user.>")
	if len(lines) != 1 || !regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]{12}Z  user\.registered        1       email=ada@example\.com name="Ada \\u202e L" createdAt=\S+Z$`).MatchString(lines[0]) {
		t.Errorf("%q", lines)
	}
	if lines := tail(t, a, "--since=0s"); len(lines) != 0 {
		t.Errorf("%q", lines)
	}
	if lines := tail(t, a, "--since="+time.Now().Add(-time.Hour).Format(time.RFC3339)); len(lines) != 3 {
		t.Errorf("%q", lines)
	}
}

func TestEventsTailFollowsUntilItIsStopped(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	cmd := testauthd.Command(t, testauthd.Owned, append([]string{"events", "tail", "--json", "--subject=user.*"}, a.Reach()...)...)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	hold, err := cmd.StdinPipe()
	check(t, err)
	defer hold.Close()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewReader(out)
	for _, name := range []string{"ada", "bob"} {
		a.Post(t, "/register", strings.Replace(testauthd.Credentials, "ada", name, 1))
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
	a := testauthd.Start(t)
	a.Post(t, "/register", testauthd.Credentials)
	testoutbox.PublishedOf(t, a.Dir)
	seed := embedded.SeedFile(filepath.Join(a.Dir, "data", "nats"), embedded.Admin)
	said := testauthd.Run(t, t.TempDir(), "events", "tail", "--no-follow", "--nats-url="+a.NATS, "--nats-nkey-seed-file="+seed)
	if strings.Count(said, "\n") != 2 {
		t.Error(said)
	}
	cmd := testauthd.Command(t, "authd", "events", "tail", "--nats-url="+a.NATS) // as an app
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "is the user allowed to read the stream?") {
		t.Errorf("%s, %v", out, err)
	}
}

// Events that a stream lost come back beside the running service.
func TestOutboxRepublish(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	a.Post(t, "/register", testauthd.Credentials)
	testoutbox.PublishedOf(t, a.Dir)
	admin := testauthd.Connect(t, a.NATS, embedded.Credentials(filepath.Join(a.Dir, "data", "nats"), embedded.Admin))
	_, err := admin.Request("$JS.API.STREAM.DELETE.AUTH_EVENTS", nil, testauthd.Patience)
	check(t, err)
	said := testauthd.Run(t, a.Dir, "outbox", "republish", "--since=1h")
	if !strings.HasPrefix(said, "events that will be published once more: 2;") {
		t.Error(said)
	}
	testoutbox.PublishedOf(t, a.Dir)
	if said := testauthd.Run(t, a.Dir, "outbox", "status"); said != "no events wait to be published\n" {
		t.Error(said)
	}
	if lines := tail(t, a); len(lines) != 2 {
		t.Errorf("%q", lines)
	}
}
