package operations_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testtool"
)

// As docs/operations/backup.md says: what was dumped while the service ran goes on elsewhere,
// with SECRET_KEY and without anything of the bus.
func TestABackupGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	former, database := testpg.URL(t), testpg.URL(t)
	a := testauthd.Start(t, testauthd.WithPostgres(former)...)
	a.Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	kept, ended := a.Post(t, "/login", testauthd.Credentials), a.Post(t, "/login", testauthd.Credentials)
	a.Do(t, "POST /logout", testauthd.Bearer(ended.Member(t, "accessToken")), "").Answered(t, 204, "")

	dump := filepath.Join(t.TempDir(), "auth.dump")
	postgresTool(t, "pg_dump", "--format=custom", "--file="+dump, former)
	a.Post(t, "/register", strings.Replace(testauthd.Credentials, "ada", "late", 1))
	a.Stop(t)
	postgresTool(t, "pg_restore", "--no-owner", "--exit-on-error", "--dbname="+database, dump)
	settings := []string{"--database-url=" + database, "--secret-key=" + testauthd.MasterSecret}
	for _, args := range [][]string{{"migrate", "status"}, {"migrate", "up"}, {"keys", "list"}} {
		flags := settings
		if args[0] == "migrate" {
			flags = settings[:1]
		}
		testauthd.Run(t, t.TempDir(), append(args, flags...)...)
	}

	b := testauthd.Start(t, settings...)
	b.Get(t, "/verify", kept.Member(t, "accessToken")).Answered(t, 200, testauthd.Verified)
	b.Get(t, "/verify", ended.Member(t, "accessToken")).Refused(t, 401, "token_revoked", "")
	b.Post(t, "/refresh", `{"refreshToken":"`+kept.Member(t, "refreshToken")+`"}`).Answered(t, 200, `{`+testauthd.Tokens+`}`)
	b.Post(t, "/login", testauthd.Credentials).Answered(t, 200, `{"message":"Login successful","userId":1,`+testauthd.Tokens+`}`)
	b.Post(t, "/login", strings.Replace(testauthd.Credentials, "ada", "late", 1)).Refused(t, 401, "invalid_credentials", "")

	// The streams are new: what they lack the database still has.
	if said := testauthd.Run(t, t.TempDir(), "outbox", "republish", "--since=1h", settings[0]); !strings.HasPrefix(said, "events that will be published once more: ") {
		t.Error(said)
	}
	testauthd.Until(t, "the events are published again", func() bool {
		return strings.Contains(testauthd.Run(t, t.TempDir(), append([]string{"events", "tail", "--no-follow", "--json"}, b.Reach()...)...), `"user.registered"`)
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
