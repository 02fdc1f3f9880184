package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testtool"
)

// As docs/operations/backup.md says: what was dumped while the service ran goes on elsewhere,
// with SECRET_KEY and without anything of the bus.
func TestABackupGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	former, database := testpg.URL(t), testpg.URL(t)
	a := start(t, withPostgres(former)...)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	kept, ended := a.post(t, "/login", credentials), a.post(t, "/login", credentials)
	a.do(t, "POST /logout", bearer(ended.member(t, "accessToken")), "").answered(t, 204, "")

	dump := filepath.Join(t.TempDir(), "auth.dump")
	postgresTool(t, "pg_dump", "--format=custom", "--file="+dump, former)
	a.post(t, "/register", strings.Replace(credentials, "ada", "late", 1))
	a.stop(t)
	postgresTool(t, "pg_restore", "--no-owner", "--exit-on-error", "--dbname="+database, dump)
	settings := []string{"--database-url=" + database, "--secret-key=" + masterSecret}
	for _, args := range [][]string{{"migrate", "status"}, {"migrate", "up"}, {"keys", "list"}} {
		flags := settings
		if args[0] == "migrate" {
			flags = settings[:1]
		}
		command(t, t.TempDir(), append(args, flags...)...)
	}

	b := start(t, settings...)
	b.get(t, "/verify", kept.member(t, "accessToken")).answered(t, 200, verified)
	b.get(t, "/verify", ended.member(t, "accessToken")).refused(t, 401, "token_revoked", "")
	b.post(t, "/refresh", `{"refreshToken":"`+kept.member(t, "refreshToken")+`"}`).answered(t, 200, `{`+tokens+`}`)
	b.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
	b.post(t, "/login", strings.Replace(credentials, "ada", "late", 1)).refused(t, 401, "invalid_credentials", "")

	// The streams are new: what they lack the database still has.
	if said := command(t, t.TempDir(), "outbox", "republish", "--since=1h", settings[0]); !strings.HasPrefix(said, "events that will be published once more: ") {
		t.Error(said)
	}
	until(t, "the events are published again", func() bool {
		return strings.Contains(command(t, t.TempDir(), append([]string{"events", "tail", "--no-follow", "--json"}, b.reach()...)...), `"user.registered"`)
	})
}

// postgresTool runs a program of Postgres, which stands beside the server where that is not in
// the path.
func postgresTool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(testtool.Find(t, name, "postgresql-client"), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
