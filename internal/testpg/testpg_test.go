package testpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ownerEnv makes this test binary a process that has a server until it is killed.
const ownerEnv = "TESTPG_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Config{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.dir)
	fmt.Println(s.URL)
	select {}
}

func TestURLGivesDistinctEmptyDatabases(t *testing.T) {
	t.Parallel()
	a, b := connect(t, URL(t)), connect(t, URL(t))
	query(t, a, "CREATE TABLE a (id int)")
	if name, other := query(t, a, "SELECT current_database()"), query(t, b, "SELECT current_database()"); name == other {
		t.Fatalf("both databases are %v", name)
	}
	if n := query(t, b, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != int64(0) {
		t.Fatalf("a new database has %v tables", n)
	}
}

func TestURLDropsItsDatabase(t *testing.T) {
	t.Parallel()
	var name any
	t.Run("user", func(t *testing.T) {
		name = query(t, connect(t, URL(t)), "SELECT current_database()") // the connection stays open
	})
	if n := query(t, connect(t, URL(t)), "SELECT count(*) FROM pg_database WHERE datname = $1", name); n != int64(0) {
		t.Fatalf("%v still exists", name)
	}
}

func TestDataOutliveStopAndKill(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Durable: true, Settings: []string{"max_connections=20"}})
	db := connect(t, s.URL)
	if n := query(t, db, "SHOW max_connections"); n != "20" {
		t.Errorf("max_connections = %v", n)
	}
	if on := query(t, db, "SHOW fsync"); on != "on" {
		t.Errorf("a durable server has fsync %v", on)
	}
	query(t, db, "CREATE TABLE t (id int)")
	for i, end := range []func() error{s.Stop, s.Kill} {
		query(t, connect(t, s.URL), "INSERT INTO t VALUES (1)")
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if _, err := pgx.Connect(t.Context(), s.URL); err == nil {
			t.Fatal("the server still answers")
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := query(t, connect(t, s.URL), "SELECT count(*) FROM t"); n != int64(i+1) {
			t.Fatalf("%v rows after %d restarts", n, i+1)
		}
	}
	dir := s.dir
	s.Close()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("after Close the directory: %v", err)
	}
}

func TestServerEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	dir := lines.Text()
	lines.Scan()
	url := lines.Text()
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait() // fails by being killed
	if !filepath.IsAbs(dir) {
		t.Fatalf("the owner said %q", dir)
	}
	// The janitor is nobody's child any more, so there is nothing to wait on.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", dir)
		}
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Fatal("the server still answers")
	}
}

func TestFindPrefersTheEnvironment(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // nothing could be started
	t.Setenv(Env, "postgres://elsewhere/db")
	s, err := Find(t.Context())
	if err != nil || s.URL != "postgres://elsewhere/db" {
		t.Fatalf("Find = %+v, %v", s, err)
	}
	if err := s.Stop(); err == nil {
		t.Error("Stop of a server that is not ours succeeds")
	}
	s.Close()
}

func TestFindOrder(t *testing.T) {
	path, lib := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path)
	h := host{lib: lib, etc: t.TempDir(), root: true}

	_, _, err := h.find(t.Context())
	if err == nil {
		t.Fatal("found a server on an empty machine")
	}
	for _, reason := range []string{Env, lib, "Debian", "docker"} {
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%q does not mention %s", err, reason)
		}
	}

	docker := program(t, path, "docker", "")
	check := func(wantBin, wantDocker string) {
		t.Helper()
		bin, docker, err := h.find(t.Context())
		if bin != wantBin || docker != wantDocker || err != nil {
			t.Fatalf("find = %q, %q, %v, want %q, %q", bin, docker, err, wantBin, wantDocker)
		}
	}
	check("", docker)

	// A machine's apt-get that brings version 15, and fails if asked again.
	program(t, path, "sh", "shift\neval \"$1\"")
	v15 := filepath.Join(lib, "15", "bin")
	program(t, path, "apt-get", fmt.Sprintf(`case "$1 $DEBIAN_FRONTEND" in
"update noninteractive") ;;
"install noninteractive") /bin/mkdir -p %[1]s
for p in initdb postgres; do echo '#!/bin/sh' >%[1]s/$p; /bin/chmod +x %[1]s/$p; done
echo 'echo again; exit 1' >"$0" ;;
*) exit 1 ;;
esac`, v15))
	h.root = false
	check("", docker)
	h.root = true
	check(v15, "")
	check(v15, "")

	v9 := filepath.Join(lib, "9.6", "bin")
	servers(t, v9)
	v17 := filepath.Join(lib, "17", "bin")
	check(v15, "")
	servers(t, v17)
	check(v17, "")

	program(t, path, "initdb", "") // without postgres beside it
	check(v17, "")
	program(t, path, "postgres", "")
	check(path, "")
}

func TestFindAsksPgConfig(t *testing.T) {
	path, bin := t.TempDir(), t.TempDir()
	t.Setenv("PATH", path)
	servers(t, bin)
	program(t, path, "pg_config", "echo "+bin)
	if got := (host{lib: t.TempDir()}).installed(); got != bin {
		t.Fatalf("installed() = %q, want %q", got, bin)
	}
}

func servers(t *testing.T, dir string) {
	t.Helper()
	program(t, dir, "initdb", "")
	program(t, dir, "postgres", "")
}

// program writes a shell script and returns its path.
func program(t *testing.T, dir, name, script string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	return db
}

// query returns the first value of the first row, or nil.
func query(t *testing.T, db *pgx.Conn, sql string, args ...any) any {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return nil
	}
	values, err := rows.Values()
	if err != nil {
		t.Fatal(err)
	}
	return values[0]
}
