package operations_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

func TestATakenPortIsAnError(t *testing.T) {
	t.Parallel()
	host, port := testauthd.Taken(t)
	testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "--log-format=json", "--nats-listen=off", "--port="+port)).
		Refused(t, 1, "HOST, PORT", host+":"+port, "address already in use")
	testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "--log-format=json", "--port=0", "--nats-listen="+host+":"+port)).
		Refused(t, 1, "NATS_LISTEN", host+":"+port, "address already in use")
}

func TestADataDirectoryHasOneProcess(t *testing.T) {
	t.Parallel()
	first := testauthd.Start(t)
	testauthd.Launch(t, first.Dir).Refused(t, 1, "DATA_DIR", "in use by another authd (process ")
	testauthd.Execute(t, first.Dir, testauthd.Command(t, testauthd.Owned, "migrate", "status")).
		Refused(t, 1, "DATA_DIR", "in use by another authd")
	if got := first.Get(t, "/readyz", "").Answer.Status; got != http.StatusOK {
		t.Errorf("the first one answers %d", got)
	}
}

// By whatever name and with whatever directories: the file is the accounts.
func TestASQLiteFileHasOneProcess(t *testing.T) {
	t.Parallel()
	first := testauthd.Start(t)
	file := filepath.Join(first.Dir, "data", "authd.db")
	other := filepath.Join(t.TempDir(), "other.db")
	check(t, os.Symlink(file, other))
	for _, path := range []string{file, other} {
		testauthd.Launch(t, t.TempDir(), "--database-url=sqlite://"+path).
			Refused(t, 1, "DATABASE_URL sqlite://"+file, "in use by another authd (process ", "share a Postgres")
		testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "migrate", "status", "--database-url=sqlite://"+path)).
			Refused(t, 1, "DATABASE_URL", "in use by another authd")
	}
	first.Stop(t)
	testauthd.Launch(t, t.TempDir(), "--database-url=sqlite://"+other, "--secret-key-file="+filepath.Join(first.Dir, "data", "secret.key")).Ready(t)
}

func TestADataDirectoryIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	a.Stop(t)
	check(t, filepath.WalkDir(filepath.Join(a.Dir, "data"), func(path string, entry fs.DirEntry, err error) error {
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
	testauthd.Launch(t, dir).Refused(t, 2, "DATA_DIR", "open to other users (mode 0755)")
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
	a := testauthd.Launch(t, dir).Ready(t)
	a.Line(t, "is open to other users (mode 0775)")
	a.Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	a.Stop(t)
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
	cmd := testauthd.Command(t, testauthd.Owned, append([]string{"--log-level=debug"}, testauthd.ListenAnywhere()...)...)
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
		response, err := http.Post(line.HTTP+"/login", "application/json", strings.NewReader(testauthd.Credentials))
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
	a := testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "--log-format=json", "--port=0", "--nats-listen=off")).Ready(t)
	if a.NATS != "in this process only" {
		t.Errorf("NATS is at %q", a.NATS)
	}
	a.Get(t, "/readyz", "").Answered(t, http.StatusOK, `{"status":"ready"}`)
}

func TestPostgresNeedsItsSchema(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	flags := []string{"--database-url=" + url, "--secret-key=" + testauthd.MasterSecret}
	testauthd.Launch(t, t.TempDir(), flags...).Refused(t, 1, "lacks migrations: 0001_accounts", "authd migrate up", "--migrate")
	testauthd.Start(t, append(flags, "--migrate")...).Stop(t)
	testauthd.Start(t, flags...).Stop(t)

	store, err := persistence.Open(t.Context(), url)
	check(t, err)
	defer store.Close()
	newer(t, store.DB())
	for _, args := range [][]string{flags, append(flags, "--migrate")} {
		testauthd.Launch(t, t.TempDir(), args...).Refused(t, 1, "newer version: it has 9999")
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
	testauthd.Launch(t, t.TempDir(), "--database-url="+url, "--migrate").Refused(t, 2, "SECRET_KEY is required", "openssl rand")
	testauthd.Start(t, testauthd.WithPostgres(url)...).Stop(t)
	other := secret.Generate()
	testauthd.Launch(t, t.TempDir(), "--database-url="+url, "--secret-key="+other).Refused(t, 2, "SECRET_KEY is not the one")
	// While it is replaced, the new one comes first and the former one still opens.
	testauthd.Start(t, "--database-url="+url, "--secret-key="+other+","+testauthd.MasterSecret).Stop(t)
}

func TestADatabaseThatIsAwayIsAnError(t *testing.T) {
	t.Parallel()
	_, port := testauthd.Taken(t)
	url := "postgres://authd:hunter22@127.0.0.1:" + port + "/auth?connect_timeout=1"
	a := testauthd.Launch(t, t.TempDir(), "--database-url="+url, "--secret-key="+testauthd.MasterSecret)
	a.Refused(t, 1, "DATABASE_URL")
	if strings.Contains(a.Stderr.String(), "hunter22") {
		t.Error("the password is told")
	}
}

func TestAnAbsentBusIsAnError(t *testing.T) {
	t.Parallel()
	testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "serve", "--edge", "--log-format=json", "--port=0", "--nats-url=nats://127.0.0.1:1")).
		Refused(t, 1, "NATS_URL", "no servers available")
}

func TestHealthcheckTellsReadiness(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	healthy := func() int {
		return testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "healthcheck", a.HTTP+"/readyz")).Wait(t, testauthd.Patience)
	}
	if code := healthy(); code != 0 {
		t.Errorf("exit code %d while it is ready", code)
	}
	a.Stop(t)
	if code := healthy(); code != 1 {
		t.Errorf("exit code %d once it has stopped", code)
	}
}
