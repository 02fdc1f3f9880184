package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testpg"
)

// quiet wants a secret nowhere in what an authd has said so far.
func (a *instance) quiet(t *testing.T, secret string) {
	t.Helper()
	if strings.Contains(a.stderr.String(), secret) {
		t.Errorf("the log tells %q:\n%s", secret, a.stderr)
	}
}

func TestThePasswordOfTheBusIsNotLogged(t *testing.T) {
	t.Parallel()
	url := externalNATS(t, server.Options{Username: "authd", Password: "hunter22"})
	for _, credentials := range []string{"authd:hunter22@", "authd:hunter23@"} {
		a := launch(t, t.TempDir(), "--nats-url="+strings.Replace(url, "//", "//"+credentials, 1))
		if strings.Contains(credentials, "hunter22") {
			a.ready(t).stop(t)
		} else {
			a.refused(t, exitFailed, "NATS_URL")
		}
		a.quiet(t, "hunter2")
	}
}

// A URL without a colon before its @ holds a token (nats.Token), not a user.
func TestTheTokenOfTheBusIsNotLogged(t *testing.T) {
	t.Parallel()
	url := externalNATS(t, server.Options{Authorization: "hunter22"})
	start(t, "--nats-url="+strings.Replace(url, "//", "//hunter22@", 1)).quiet(t, "hunter22")
}

func TestASettingThatOnlyItsUserCanJudgeIsNamedToo(t *testing.T) {
	t.Parallel()
	nats := "--nats-url=" + externalNATS(t, server.Options{})
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "hunter22"), []byte("hunter22"), 0o600))
	for _, bad := range []struct {
		name  string
		flags []string
	}{
		{"DATABASE_URL", []string{"--secret-key=" + masterSecret, "--database-url=postgres://authd:hunter22@127.0.0.1:port/auth"}},
		{"DATABASE_URL", []string{"--secret-key=" + masterSecret, "--database-url=postgres://authd:hunter22@127.0.0.1/auth?sslmode=maybe"}},
		{"NATS_CREDS", []string{nats, "--nats-creds=missing"}},
		{"NATS_NKEY_SEED_FILE", []string{nats, "--nats-nkey-seed-file=missing"}},
		{"NATS_TLS_CA", []string{nats, "--nats-tls-ca=missing"}},
		{"TOKEN_AUDIENCE", []string{"--token-audience="}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			a := launch(t, t.TempDir(), bad.flags...)
			a.refused(t, exitUsage, "authd: "+bad.name+" ", "; for example "+bad.name+"=")
			a.quiet(t, "hunter22")
		})
	}
	for _, flag := range []string{"nats-creds", "nats-nkey-seed-file", "nats-tls-ca"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			a := launch(t, dir, nats, "--data-dir="+t.TempDir(), "--"+flag+"="+filepath.Join(dir, "hunter22"))
			a.refused(t, exitUsage, strings.ToUpper(strings.ReplaceAll(flag, "-", "_")))
		})
	}
}

// With HS256 no key in the database is sealed, yet the passwords and the refresh tokens
// still hang on the master secret.
func TestAnotherSecretKeyIsNoticedWithHS256Too(t *testing.T) {
	t.Parallel()
	flags := []string{"--database-url=" + testpg.URL(t), "--migrate", "--access-token-secret=Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"}
	first := start(t, append(flags, "--secret-key="+masterSecret)...)
	first.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	first.stop(t)
	launch(t, t.TempDir(), append(flags, "--secret-key="+secret.Generate())...).refused(t, exitUsage, "SECRET_KEY")
}

func TestFilesAreTheirOwnersAloneWhateverTheUmask(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := strings.Join(listenAnywhere, " ")
	a := execute(t, dir, exec.Command("sh", "-c", "umask 0; exec owned-authd "+args)).ready(t)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	seen := 0
	walk := func() {
		check(t, filepath.WalkDir(filepath.Join(dir, "data"), func(path string, entry fs.DirEntry, err error) error {
			check(t, err)
			info, err := entry.Info()
			check(t, err)
			seen++
			want := fs.FileMode(0o600)
			if entry.IsDir() {
				want = 0o700
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
			}
			return nil
		}))
	}
	walk() // the database's log is there only while it runs
	a.stop(t)
	walk()
	if seen < 10 {
		t.Errorf("only %d files", seen)
	}
}

func TestOffOpensNoPortButThatOfHTTP(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("owned-authd", "--log-format=json", "--port=0", "--nats-listen=off", "--metrics-addr=off")
	a := execute(t, t.TempDir(), cmd).ready(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(a.http, "http://"))
	check(t, err)
	if got := listening(t, cmd.Process.Pid); !slices.Equal(got, []string{port}) {
		t.Errorf("listens on %v, want %s alone", got, port)
	}
}

// listening are the TCP ports on which a process listens (proc_pid_fd(5), proc_pid_net(5)).
func listening(t *testing.T, pid int) (ports []string) {
	t.Helper()
	sockets := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	check(t, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:[") {
			sockets[strings.Trim(to, "socket:[]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		check(t, err)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !sockets[f[9]] {
				continue
			}
			var port int
			_, err := fmt.Sscanf(f[1][strings.LastIndexByte(f[1], ':')+1:], "%X", &port)
			check(t, err)
			ports = append(ports, fmt.Sprint(port))
		}
	}
	return ports
}

// What the service does is for operators to read, unless they show it.
func TestDocumentsAreShownToOperators(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	shown := startInside(t, "--docs=public")
	operators := strings.TrimSuffix(a.metrics, "/metrics")
	for _, path := range []string{"/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json", "/asyncapi.json"} {
		a.get(t, path, "").refused(t, 404, "not_found", "")
		if e := shown.get(t, path, ""); e.Answer.Status != 200 {
			t.Errorf("%s with DOCS=public: %d", path, e.Answer.Status)
		}
		e, err := (&instance{http: operators, foreign: true}).try("GET "+path, nil, "")
		check(t, err)
		if e.Answer.Status != 200 || e.Answer.Body == "" {
			t.Errorf("%s for operators: %d", path, e.Answer.Status)
		}
		if path == "/openapi.json" && !strings.Contains(e.Answer.Body, `"url": "`+ownOrigin+`"`) {
			t.Error("the document does not say where the service is")
		}
	}
	launch(t, t.TempDir(), "--docs=everybody").refused(t, exitUsage, "authd: DOCS ", "; for example DOCS=")
}

// A page of another site could let its own name lead to this machine (DNS rebinding).
func TestOperatorsPagesAreServedUnderAddressesAlone(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	operators := strings.TrimSuffix(a.metrics, "/metrics")
	for host, status := range map[string]int{
		"127.0.0.1:9464": 200, "localhost": 200, "[::1]:9464": 200,
		"evil.example": 403, "evil.example:9464": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example:9464": 403,
	} {
		for _, path := range []string{"/", "/metrics", "/dev/mailbox", "/dev/mailbox.json", "/dev/mailbox/1", "/debug/pprof/", "/debug/pprof/cmdline", "/openapi.json", "/docs", "/healthz", "/readyz"} {
			req, err := http.NewRequest("GET", operators+path, nil)
			check(t, err)
			req.Host = host
			resp, err := client.Do(req)
			check(t, err)
			resp.Body.Close()
			want := status
			if strings.HasSuffix(path, "z") {
				want = 200 // for load balancers, and they tell nothing
			}
			missing := strings.HasSuffix(path, "cmdline") || strings.HasSuffix(path, "/1") // both are 404 to everybody who may ask
			if resp.StatusCode != want && !(missing && want == 200) {
				t.Errorf("%s of %s: %d, want %d", path, host, resp.StatusCode, want)
			}
		}
	}
}
