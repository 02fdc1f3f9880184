package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// What the ancestor stored: bcrypt of "even ancestor" and "odd ancestor", at the lowest cost.
const (
	oldEven = "$2b$04$HdbQddZ31kqoK/Aap5xsW.ZbICog.gFopWE5Vzjtm1N4nl3Yb8fJa"
	oldOdd  = "$2b$04$RV5v2OtP8FMId08kUNj4OO4MeA21Uk3KU78NKCdYWeyPQEqirQtPa"
)

// oldUsers is a table as the ancestor left it: 1,200 users and some that cannot be taken.
func oldUsers(t *testing.T) (url string) {
	t.Helper()
	url = testpg.URL(t)
	execSQL(t, url, `CREATE TABLE users (id serial PRIMARY KEY, email varchar(255) NOT NULL UNIQUE, name varchar(255), password text NOT NULL,
		created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now())`)
	execSQL(t, url, `INSERT INTO users (email, name, password, created_at, updated_at)
		SELECT 'User' || n || '@Example.com', 'User ' || n, CASE WHEN n % 2 = 0 THEN '`+oldEven+`' ELSE '`+oldOdd+`' END,
			'2024-01-02 03:04:05.123456', '2024-02-03 04:05:06' FROM generate_series(1, 1200) n`)
	execSQL(t, url, `INSERT INTO users (id, email, password) VALUES (1301, 'no address', '`+oldEven+`'), (1302, 'USER7@example.com', '`+oldEven+`'),
		(1303, 'plain@example.com', 'hunter2hunter2'), (1304, 'cost@example.com', '`+strings.Replace(oldEven, "$04$", "$16$", 1)+`')`)
	return url
}

func execSQL(t *testing.T, url, statement string) {
	t.Helper()
	s, err := persistence.Open(t.Context(), url)
	check(t, err)
	defer s.Close()
	_, err = s.DB().ExecContext(t.Context(), statement)
	check(t, err)
}

// imports runs "authd import" to its end.
func imports(t *testing.T, wantCode int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, log bytes.Buffer
	if code := run(context.Background(), append([]string{"import"}, args...), &out, &log); code != wantCode {
		t.Fatalf("authd import: exit code %d, want %d\n%s%s", code, wantCode, &out, &log)
	}
	return out.String(), log.String()
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// keptQuiet wants nothing personal in a text.
func keptQuiet(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{"@", "$2", "hunter2", "no address"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is told in:\n%s", secret, text)
		}
	}
}

func oldLogin(n int) string {
	return fmt.Sprintf(`{"email":"user%d@example.com","password":"%s"}`, n, []string{"even ancestor", "odd ancestor"}[n%2])
}

const skippedAll = "skipped id 1301: invalid_email\nskipped id 1302: duplicate_email\nskipped id 1303: unusable_password\nskipped id 1304: unusable_password\n" +
	"duplicate_email: 1\ninvalid_email: 1\nunusable_password: 2\n"

// The whole way: import beside the running service, again, log in with the old password, and
// register a new account.
func TestImportFromTheAncestor(t *testing.T) {
	onEachDatabase(t, func(t *testing.T, serve, target []string) {
		a := startInside(t, serve...)
		file := filepath.Join(t.TempDir(), "report.jsonl")
		args := append(target, "--from="+oldUsers(t), "--report="+file)

		out, log := imports(t, exitFailed, append(args, "--dry-run")...)
		says(t, out, "nothing was stored", skippedAll+"read 1204, imported 1200, already there 0, skipped 4 ")
		a.post(t, "/login", oldLogin(7)).refused(t, 401, "invalid_credentials", "")

		out, log2 := imports(t, exitFailed, args...)
		says(t, out, skippedAll+"read 1204, imported 1200, already there 0, skipped 4 ")
		says(t, log2, "accounts were skipped: 4; --allow-skipped")
		keptQuiet(t, out+log+log2)
		t.Log(out)

		out, _ = imports(t, exitStopped, append(args, "--allow-skipped")...)
		says(t, out, skippedAll+"read 1204, imported 0, already there 1200, skipped 4 ")
		content, err := os.ReadFile(file)
		check(t, err)
		if got, want := string(content), `{"id":1301,"reason":"invalid_email"}
{"id":1302,"reason":"duplicate_email"}
{"id":1303,"reason":"unusable_password"}
{"id":1304,"reason":"unusable_password"}
`; got != want {
			t.Errorf("report:\n%s", got)
		}
		for _, n := range []int{1, 7, 600, 1200, 7} {
			login := a.post(t, "/login", oldLogin(n))
			login.answered(t, 200, fmt.Sprintf(`{"message":"Login successful","userId":%d,%s}`, n, tokens))
			me := a.get(t, "/me", login.member(t, "accessToken"))
			if want := fmt.Sprintf(`{"userId":%d,"email":"User%d@example.com","emailVerified":false,"name":"User %d","createdAt":"2024-01-02T03:04:05.123456Z","updatedAt":"2024-02-03T04:05:06Z"}`, n, n, n); me.Answer.Body != want {
				t.Errorf("%s\nwant %s", me.Answer.Body, want)
			}
		}
		a.post(t, "/login", oldLogin(8)[:1]+`"email":"user8@example.com","password":"odd ancestor"}`).refused(t, 401, "invalid_credentials", "")
		a.post(t, "/register", `{"email":"new@example.com","password":"correct horse battery"}`).
			answered(t, 201, `{"message":"User registered successfully","userId":1305}`)
		rewritten(t, a, target)
	})
}

// rewritten wants the strings of those who logged in, and of nobody else, to be ours by now.
func rewritten(t *testing.T, a *instance, target []string) {
	t.Helper()
	s := openBeside(t, target)
	defer s.Close()
	var ours []int64
	check(t, s.DB().NewRaw("SELECT id FROM users WHERE password LIKE '$bcrypt-hmac-sha256$%' ORDER BY id").Scan(t.Context(), &ours))
	if fmt.Sprint(ours) != "[1 7 600 1200 1305]" {
		t.Errorf("rewritten: %v", ours)
	}
}

// Whoever registers while accounts come in gets none of their ids, and is not turned away.
func TestImportWhilePeopleRegister(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	from := oldUsers(t)
	errs := make(chan error, 1)
	go func() {
		errs <- all(4, func(i int) error {
			for n := range 5 {
				e, err := a.try("POST /register", map[string][]string{"Content-Type": {"application/json"}},
					fmt.Sprintf(`{"email":"new%d.%d@example.com","password":"correct horse battery"}`, i, n))
				if err == nil && e.Answer.Status != 201 {
					err = fmt.Errorf("%d %s", e.Answer.Status, e.Answer.Body)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}()
	// Those who were faster than the import have low ids, which it does not take from them.
	out, _ := imports(t, exitStopped, "--data-dir="+filepath.Join(a.dir, "data"), "--from="+from, "--allow-skipped")
	says(t, out, "read 1204, ")
	check(t, <-errs)
	a.post(t, "/login", oldLogin(1199)).answered(t, 200, `{"message":"Login successful","userId":1199,`+tokens+`}`)
}

func TestImportFromLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, data := filepath.Join(dir, "users.jsonl"), "--data-dir="+filepath.Join(dir, "data")
	lines := `{"id":7,"email":"user7@example.com","name":"Ada","password":"` + oldOdd + `","createdAt":"2024-01-02T03:04:05Z"}
{"email":"user8@example.com","password":"` + oldEven + `"}
{"email":"role@example.com","password":"` + oldEven + `","role":"admin"}

{"id":9,"email":"USER7@example.com","password":"` + oldEven + `"}
not JSON
{"email":"user8@example.com","password":"` + oldOdd + `"}
`
	check(t, os.WriteFile(file, []byte(lines), 0o600))
	const skipped = "skipped line 3: malformed\nskipped line 5, id 9: duplicate_email\nskipped line 6: malformed\nskipped line 7: duplicate_email\n"

	out, _ := imports(t, exitFailed, data, "--from="+file, "--dry-run")
	says(t, out, skipped, "read 6, imported 2, already there 0, skipped 4")
	if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
		t.Errorf("a dry run made the directory: %v", err)
	}
	out, log := imports(t, exitFailed, data, "--from="+file)
	says(t, out, skipped, "read 6, imported 2, already there 0, skipped 4")
	keptQuiet(t, out+log)
	out, _ = imports(t, exitStopped, data, "--from="+file, "--allow-skipped")
	says(t, out, skipped, "read 6, imported 0, already there 2, skipped 4")
	info, err := os.Stat(filepath.Join(dir, "data"))
	check(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is made with mode %o", info.Mode().Perm())
	}

	a := startInside(t, data)
	a.post(t, "/login", oldLogin(7)).answered(t, 200, `{"message":"Login successful","userId":7,`+tokens+`}`)
	a.post(t, "/login", oldLogin(8)).answered(t, 200, `{"message":"Login successful","userId":10,`+tokens+`}`)
}

func TestImportPrintsNoMoreThanPeopleRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, report := filepath.Join(dir, "users.jsonl"), filepath.Join(dir, "report.jsonl")
	check(t, os.WriteFile(file, bytes.Repeat([]byte("x\n"), 143), 0o600))
	out, _ := imports(t, exitFailed, "--data-dir="+filepath.Join(dir, "data"), "--from="+file, "--report="+report)
	says(t, out, "skipped line 20: malformed\n… and 123 more\nmalformed: 143\n")
	content, err := os.ReadFile(report)
	check(t, err)
	all := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	if len(all) != 143 || string(all[142]) != `{"line":143,"reason":"malformed"}` || !json.Valid(all[0]) {
		t.Errorf("%d lines, the last %s", len(all), all[len(all)-1])
	}
}

func TestImportRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	empty, ours := testpg.URL(t), testpg.URL(t)
	run(t.Context(), []string{"migrate", "up", "--database-url=" + ours}, &bytes.Buffer{}, &bytes.Buffer{})
	data := "--data-dir=" + filepath.Join(t.TempDir(), "data")
	for name, tt := range map[string]struct {
		code int
		args []string
		says string
	}{
		"no table":           {exitFailed, []string{data, "--from=" + empty}, "no such table"},
		"our own":            {exitFailed, []string{data, "--from=" + ours}, "this service's own table"},
		"nobody there":       {exitFailed, []string{data, "--from=postgres://ada:hunter2@127.0.0.1:1/x"}, "IMPORT_FROM"},
		"no URL":             {exitUsage, []string{data, "--from=postgres://ada:hunter2@%zz"}, "IMPORT_FROM"},
		"another database":   {exitUsage, []string{data, "--from=mysql://ada:hunter2@localhost/x"}, "IMPORT_FROM"},
		"no file":            {exitUsage, []string{data, "--from=/missing"}, "no such file"},
		"nothing said":       {exitUsage, []string{data}, "--from"},
		"a table's bad name": {exitFailed, []string{data, "--from=" + ours, "--table=users; DROP TABLE users"}, "not the name of a table"},
		"an older schema":    {exitFailed, []string{"--database-url=" + empty, "--from=-"}, `run "authd migrate up"`},
	} {
		out, log := imports(t, tt.code, tt.args...)
		says(t, log, tt.says)
		if strings.Count(log, "\n") != 1 || out != "" {
			t.Errorf("%s: said %q and %q", name, out, log)
		}
		if strings.Contains(log, "hunter2") {
			t.Errorf("%s: the password is told: %s", name, log)
		}
	}
}
