package main

import (
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// taken is an address that somebody listens on.
func taken(t *testing.T) (host, port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	host, port, err = net.SplitHostPort(listener.Addr().String())
	check(t, err)
	return host, port
}

func TestATakenPortIsAnError(t *testing.T) {
	t.Parallel()
	host, port := taken(t)
	execute(t, t.TempDir(), exec.Command("owned-authd", "--log-format=json", "--nats-listen=off", "--port="+port)).
		refused(t, exitFailed, "HOST, PORT", host+":"+port, "address already in use")
	execute(t, t.TempDir(), exec.Command("owned-authd", "--log-format=json", "--port=0", "--nats-listen="+host+":"+port)).
		refused(t, exitFailed, "NATS_LISTEN", host+":"+port, "address already in use")
}

func TestADataDirectoryHasOneProcess(t *testing.T) {
	t.Parallel()
	first := start(t)
	launch(t, first.dir).refused(t, exitFailed, "DATA_DIR", "in use by another authd (process ")
	execute(t, first.dir, exec.Command("owned-authd", "migrate", "status")).
		refused(t, exitFailed, "DATA_DIR", "in use by another authd")
	if got := first.get(t, "/readyz", "").Answer.Status; got != http.StatusOK {
		t.Errorf("the first one answers %d", got)
	}
}

// By whatever name and with whatever directories: the file is the accounts.
func TestASQLiteFileHasOneProcess(t *testing.T) {
	t.Parallel()
	first := start(t)
	file := filepath.Join(first.dir, "data", "authd.db")
	other := filepath.Join(t.TempDir(), "other.db")
	check(t, os.Symlink(file, other))
	for _, path := range []string{file, other} {
		launch(t, t.TempDir(), "--database-url=sqlite://"+path).
			refused(t, exitFailed, "DATABASE_URL sqlite://"+file, "in use by another authd (process ", "share a Postgres")
		execute(t, t.TempDir(), exec.Command("owned-authd", "migrate", "status", "--database-url=sqlite://"+path)).
			refused(t, exitFailed, "DATABASE_URL", "in use by another authd")
	}
	first.stop(t)
	launch(t, t.TempDir(), "--database-url=sqlite://"+other, "--secret-key-file="+filepath.Join(first.dir, "data", "secret.key")).ready(t)
}

func TestADataDirectoryIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.stop(t)
	check(t, filepath.WalkDir(filepath.Join(a.dir, "data"), func(path string, entry fs.DirEntry, err error) error {
		check(t, err)
		info, err := entry.Info()
		check(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	}))

	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "data"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "data", "holiday.jpg"), nil, 0o644))
	launch(t, dir).refused(t, exitUsage, "DATA_DIR", "open to other users (mode 0755)")
}

// Kubernetes prepares a volume for a group by fsGroup: the directory stays root's, and its mode is
// set again at each mount.
func TestAVolumeOfAGroupIsTakenWithAWarning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	check(t, os.Mkdir(data, 0o755))
	check(t, os.WriteFile(filepath.Join(data, "lost+found"), nil, 0o600))
	check(t, os.Chmod(data, 0o775|os.ModeSetgid))
	a := launch(t, dir).ready(t)
	a.line(t, "is open to other users (mode 0775)")
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	a.stop(t)
	check(t, filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		check(t, err)
		info, err := entry.Info()
		check(t, err)
		if !entry.IsDir() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	}))
}

// Nobody reads standard error after "authd 2>&1 | head -1".
func TestTheLogsReaderMayGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("owned-authd", append([]string{"--log-level=debug"}, listenAnywhere...)...)
	reader, writer, err := os.Pipe()
	check(t, err)
	hold, err := cmd.StdinPipe()
	check(t, err)
	defer hold.Close()
	cmd.Dir, cmd.Stderr, cmd.Env = dir, writer, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	check(t, cmd.Start())
	check(t, writer.Close())
	var line struct{ Msg, HTTP string }
	for lines := json.NewDecoder(reader); line.Msg != "ready"; {
		check(t, lines.Decode(&line))
	}
	check(t, reader.Close())
	for range 3 { // each is a line of the log
		response, err := http.Post(line.HTTP+"/login", "application/json", strings.NewReader(credentials))
		check(t, err)
		check(t, response.Body.Close())
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d", response.StatusCode)
		}
	}
	check(t, cmd.Process.Signal(syscall.SIGHUP))
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGHUP: %v", err)
	}
}

func TestWithoutANATSListenerHTTPWorks(t *testing.T) {
	t.Parallel()
	a := execute(t, t.TempDir(), exec.Command("owned-authd", "--log-format=json", "--port=0", "--nats-listen=off")).ready(t)
	if a.nats != "in this process only" {
		t.Errorf("NATS is at %q", a.nats)
	}
	a.get(t, "/readyz", "").answered(t, http.StatusOK, `{"status":"ready"}`)
}

func TestPostgresNeedsItsSchema(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	flags := []string{"--database-url=" + url, "--secret-key=" + masterSecret}
	launch(t, t.TempDir(), flags...).refused(t, exitFailed, "lacks migrations: 0001_accounts", "authd migrate up", "--migrate")
	start(t, append(flags, "--migrate")...).stop(t)
	start(t, flags...).stop(t)

	store, err := persistence.Open(t.Context(), url)
	check(t, err)
	defer store.Close()
	newer(t, store.DB())
	for _, args := range [][]string{flags, append(flags, "--migrate")} {
		launch(t, t.TempDir(), args...).refused(t, exitFailed, "newer version: it has 9999")
	}
}

// newer leaves the trace of a migration that this version does not know.
func newer(t *testing.T, db *bun.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), "INSERT INTO schema_migrations (name, group_id) VALUES ('9999', 9)")
	check(t, err)
}

func TestPostgresNeedsASecretKeyAndTheSameOneAgain(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	launch(t, t.TempDir(), "--database-url="+url, "--migrate").refused(t, exitUsage, "SECRET_KEY is required", "openssl rand")
	start(t, withPostgres(url)...).stop(t)
	other := secret.Generate()
	launch(t, t.TempDir(), "--database-url="+url, "--secret-key="+other).refused(t, exitUsage, "SECRET_KEY is not the one")
	// While it is replaced, the new one comes first and the former one still opens.
	start(t, "--database-url="+url, "--secret-key="+other+","+masterSecret).stop(t)
}

func TestADatabaseThatIsAwayIsAnError(t *testing.T) {
	t.Parallel()
	_, port := taken(t)
	url := "postgres://authd:hunter22@127.0.0.1:" + port + "/auth?connect_timeout=1"
	a := launch(t, t.TempDir(), "--database-url="+url, "--secret-key="+masterSecret)
	a.refused(t, exitFailed, "DATABASE_URL")
	if strings.Contains(a.stderr.String(), "hunter22") {
		t.Error("the password is told")
	}
}

func TestAnAbsentBusIsAnError(t *testing.T) {
	t.Parallel()
	execute(t, t.TempDir(), exec.Command("owned-authd", "serve", "--edge", "--log-format=json", "--port=0", "--nats-url=nats://127.0.0.1:1")).
		refused(t, exitFailed, "NATS_URL", "no servers available")
}

func TestHealthcheckTellsReadiness(t *testing.T) {
	t.Parallel()
	a := start(t)
	healthy := func() int {
		return execute(t, t.TempDir(), exec.Command("owned-authd", "healthcheck", a.http+"/readyz")).wait(t, patience)
	}
	if code := healthy(); code != exitStopped {
		t.Errorf("exit code %d while it is ready", code)
	}
	a.stop(t)
	if code := healthy(); code != exitFailed {
		t.Errorf("exit code %d once it has stopped", code)
	}
}
