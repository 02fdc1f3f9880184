package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/uptrace/bun"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/persistence"
)

// diagnosis is what the doctor said.
type diagnosis []finding

// doctor runs "authd doctor" and wants it to exit with a code.
func doctor(t *testing.T, code int, args ...string) (d diagnosis) {
	t.Helper()
	var out, said bytes.Buffer
	if usesOpenNATS(args) {
		args = append([]string{"--nats-open=on"}, args...)
	}
	got := run(t.Context(), append([]string{"doctor", "--json"}, args...), &out, &said)
	decoder := json.NewDecoder(&out)
	for decoder.More() {
		var f finding
		check(t, decoder.Decode(&f))
		d = append(d, f)
	}
	if got != code {
		t.Errorf("exit code %d, want %d: %s\n%s", got, code, said.String(), d)
	}
	return d
}

func (d diagnosis) String() string {
	var out bytes.Buffer
	show, end := lines(&out)
	for _, f := range d {
		show(f)
	}
	end()
	return out.String()
}

// has wants a check to have come to something that holds a text.
func (d diagnosis) has(t *testing.T, name string, l level, text string) {
	t.Helper()
	for _, f := range d {
		if f.Check == name && f.Level == l && strings.Contains(f.Found, text) {
			if (l == broken || l == unwise) && f.Advice == "" {
				t.Errorf("%s: %s, and no advice", name, f.Found)
			}
			return
		}
	}
	t.Errorf("%s is not %s %q:\n%s", name, l, text, d)
}

// only wants no check but these to have come to more than ok.
func (d diagnosis) only(t *testing.T, names ...string) {
	t.Helper()
	for _, f := range d {
		expected := strings.Contains(" "+strings.Join(names, ",")+",", f.Check+",")
		if (f.Level == broken || f.Level == unwise) && !expected {
			t.Errorf("%s: %s %s", f.Level, f.Check, f.Found)
		}
	}
}

// beside are the flags of a doctor beside an instance.
func (a *instance) beside() []string {
	flags := a.reach()
	if u, err := url.Parse(a.http); err == nil && u.Port() != "" {
		flags = append(flags, "--port="+u.Port())
	}
	if u, err := url.Parse(a.metrics); err == nil && u.Host != "" {
		flags = append(flags, "--metrics-addr="+u.Host)
	}
	return flags
}

// alone are the flags of a doctor with nothing beside it.
func alone(t *testing.T) []string {
	return []string{"--data-dir=" + filepath.Join(t.TempDir(), "data"), "--port=1", "--metrics-addr=off", "--nats-listen=off"}
}

// measured is what differs from run to run in what the doctor says.
var measured = []struct{ pattern, name string }{
	{`/\S+/data`, "DATA"},
	{`127\.0\.0\.1:\d+`, "ADDRESS"},
	{`process \d+`, "process PID"},
	{`may open \d+`, "may open N"},
	{`[\d.]+ [TGMK]iB free`, "SPACE free"},
	{`[\d.]+ (KiB|B) of`, "SIZE of"},
	{`have [\d.]+ (KiB|B),`, "have SIZE,"},
	{`(answers|read over the bus|read) in [\d.]+(µs|ms|s)`, "$1 in TIME"},
	{`consumers: [01],`, "consumers: N,"}, // the mailer comes when it comes
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "DATE"},
	{`ok       signing keys      \S+`, "ok       signing keys      KID"},
	{`version \d+\.\d+\.\d+`, "version X.Y.Z"},
	{`SQLite \d+\.\d+\.\d+`, "SQLite X.Y.Z"},
}

func TestDoctorFindsNothingBesideARunningInstance(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.told(t)
	d := doctor(t, exitStopped, a.beside()...)
	d.only(t)
	text := d.String()
	for _, m := range measured {
		text = regexp.MustCompile(m.pattern).ReplaceAllString(text, m.name)
	}
	goldenText(t, "doctor", encode(t, strings.Split(strings.TrimSuffix(text, "\n"), "\n")))

	var out, said bytes.Buffer
	if code := run(t.Context(), append([]string{"doctor"}, a.beside()...), &out, &said); code != exitStopped || said.Len() > 0 {
		t.Errorf("exit code %d, %s", code, said.String())
	}
	if got, want := strings.Count(out.String(), "\n"), strings.Count(d.String(), "\n"); got != want || !strings.HasPrefix(out.String(), "ok       .env") {
		t.Errorf("%d lines, want %d:\n%s", got, want, out.String())
	}
}

func TestDoctorLeavesWhatIsNotThereAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	d := doctor(t, exitStopped, "--data-dir="+dir, "--port=1", "--metrics-addr=off", "--nats-listen=127.0.0.1:1")
	d.only(t, "mail server") // the mailbox needs METRICS_ADDR
	d.has(t, "database", fine, "not there yet")
	d.has(t, "JetStream", skipped, "")
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
}

// files are those of a directory, with what is in them.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[path] = string(content)
		return err
	}))
	return all
}

func TestDoctorChangesNothingAfterAStop(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.told(t)
	a.stop(t)
	before := files(t, a.dir)
	d := doctor(t, exitStopped, "--data-dir="+a.dir+"/data", "--port=1", "--metrics-addr=127.0.0.1:1", "--nats-listen=127.0.0.1:1")
	d.only(t)
	d.has(t, "integrity", fine, "")
	d.has(t, "secret key", fine, "")
	after := files(t, a.dir)
	for path := range after {
		if after[path] != before[path] {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, %d before", len(after), len(before))
	}
}

func TestDoctorFindsNothingOnPostgresAndANATSCluster(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{Durable: true})
	check(t, err)
	t.Cleanup(pg.Close)
	bus := externalNATS(t, withJetStream(t))
	inbox, mails := startSMTP(t)
	flags := append([]string{"--database-url=" + pg.URL, "--secret-key=" + masterSecret, "--nats-url=" + bus}, mails...)
	a := start(t, append(flags, "--migrate")...)
	until(t, "all streams are there", func() bool {
		list, err := events.Inspect(t.Context(), asRelay(t, bus), 1)
		return err == nil && list[2].Exists
	})
	beside := append(a.beside(), flags...)
	d := doctor(t, exitStopped, beside...)
	d.only(t, "strangers")
	d.has(t, "database", fine, "Postgres")
	d.has(t, "mail server", fine, "no mail was sent")
	d.has(t, "instances", fine, "1")
	d.has(t, "this instance", fine, "ready")
	d = doctor(t, exitStopped, append(beside, "--handlers")...)
	d.only(t, "strangers")

	edge := start(t, "serve", "--edge", "--nats-url="+bus)
	d = doctor(t, exitStopped, append(edge.beside(), "--edge", "--nats-url="+bus)...)
	d.only(t, "strangers")
	d.has(t, "verifier", fine, "")
	d.has(t, "this instance", fine, "ready")

	inbox.Down()
	check(t, pg.Stop())
	d = doctor(t, exitFailed, beside...)
	d.only(t, "database", "mail server", "this instance", "verifier", "strangers")
	d.has(t, "database", broken, "does not answer")
	d.has(t, "schema", skipped, "no database")
	d.has(t, "mail server", broken, "refused")
	d.has(t, "this instance", broken, "away: database")
	d.has(t, "JetStream", fine, "") // it goes on
}

func asRelay(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, url))
	check(t, err)
	return js
}

func TestDoctorFindsAllWrongSettingsAtOnce(t *testing.T) {
	t.Parallel()
	seed := filepath.Join(t.TempDir(), "edge.nk")
	check(t, os.WriteFile(seed, []byte("no seed"), 0o644))
	d := doctor(t, exitFailed, append(alone(t), "--port=x", "--bcrypt-cost=3", "--nats-url=nats://h", "--nats-nkey-seed-file="+seed,
		"--database-url=mysql://authd:hunter22@h", "--smtp-url=ftp://authd:hunter22@h", "--secret-key=hunter22", "--log-level=loud",
		"--limit-login=often", "--rate-limits=off", "--public-url=http://auth.example", "--host=0.0.0.0", "--cors-origins=http://app.example")...)
	for _, name := range []string{"PORT", "BCRYPT_COST", "NATS_NKEY_SEED_FILE", "DATABASE_URL", "SMTP_URL", "SECRET_KEY", "LOG_LEVEL"} {
		d.has(t, "settings", broken, name+" ")
	}
	for _, text := range []string{"RATE_LIMITS=off", "PUBLIC_URL is http", "TRUSTED_PROXIES is empty", "CORS_ORIGINS has http://app.example"} {
		d.has(t, "settings", unwise, text)
	}
	d.has(t, "database", skipped, "DATABASE_URL is wrong")
	d.has(t, "NATS", skipped, "is wrong")
	if strings.Contains(d.String(), "hunter22") {
		t.Errorf("a secret is told:\n%s", d)
	}
	doctor(t, exitStopped, append(alone(t), "--bcrypt-cost=14")...).has(t, "settings", unwise, "BCRYPT_COST=14")
	if code := run(t.Context(), []string{"doctor", "--edge", "--handlers"}, new(bytes.Buffer), new(bytes.Buffer)); code != exitUsage {
		t.Errorf("exit code %d of wrong usage", code)
	}
}

// What listens and never says a word keeps nobody waiting.
func TestDoctorIsNotHeldUpByServersThatHang(t *testing.T) {
	t.Parallel()
	_, port := taken(t)
	begun := time.Now()
	d := doctor(t, exitFailed, append(alone(t), "--secret-key="+masterSecret, "--port="+port,
		"--database-url=postgres://authd:hunter22@127.0.0.1:"+port+"/auth", "--nats-url=nats://authd:hunter22@127.0.0.1:"+port,
		"--smtp-url=smtp://authd:hunter22@127.0.0.1:"+port, "--mail-from=a@example.com")...)
	for _, name := range []string{"database", "NATS", "mail server", "this instance"} {
		d.has(t, name, broken, "")
	}
	if took := time.Since(begun); took > patience {
		t.Errorf("it took %s", took)
	}
	if strings.Contains(d.String(), "hunter22") {
		t.Errorf("a secret is told:\n%s", d)
	}
}

func TestDoctorKnowsSchemasAndSettingsOfPostgres(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	flags := append(alone(t), "--database-url="+url, "--secret-key="+masterSecret)
	d := doctor(t, exitFailed, flags...)
	d.has(t, "schema", broken, "lacks migrations: 0001_accounts")
	d.has(t, "outbox", skipped, "another one")
	d.has(t, "durability", broken, "fsync is off") // as the server of the tests has it

	poor := append(alone(t), "--database-url="+poorRole(t, url), "--secret-key="+masterSecret)
	doctor(t, exitFailed, poor...).has(t, "schema", broken, "may not change the schema: GRANT CREATE ON SCHEMA public TO ")

	command(t, t.TempDir(), "migrate", "up", "--database-url="+url)
	doctor(t, exitFailed, flags...).has(t, "signing keys", fine, "none yet")
	store := storeAt(t, url)
	newer(t, store.DB())
	doctor(t, exitFailed, flags...).has(t, "schema", broken, "newer version: it has 9999")
}

// poorRole returns the URL of a database for a new role that may not make tables in it.
func poorRole(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	check(t, err)
	role := "poor_" + strings.TrimPrefix(u.Path, "/")
	owner := storeAt(t, address).DB()
	_, err = owner.ExecContext(t.Context(), "CREATE ROLE "+role+" LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	check(t, err)
	t.Cleanup(func() {
		_, err := owner.ExecContext(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		check(t, err)
	})
	u.User = url.User(role)
	return u.String()
}

func TestDoctorFindsTheFaultsOfSQLite(t *testing.T) {
	t.Parallel()
	a := start(t)
	signUp(t, a)
	a.told(t)
	a.stop(t)
	data, file := "--data-dir="+a.dir+"/data", a.dir+"/data/authd.db"
	flags := append(alone(t), data)
	former := strings.TrimSpace(files(t, a.dir)[a.dir+"/data/secret.key"])

	doctor(t, exitFailed, append(flags, "--secret-key="+secret.Generate())...).has(t, "secret key", broken, "is not the one")
	both := doctor(t, exitStopped, append(flags, "--secret-key="+secret.Generate()+","+former)...)
	both.has(t, "secret key", unwise, "two values; sealed with the first: 0, with the second: 2")
	doctor(t, exitStopped, append(flags, "--secret-key="+former+","+secret.Generate())...).has(t, "secret key", unwise, "two values")

	store := storeAt(t, "sqlite://"+file)
	check(t, store.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
		return tx.Emit(ctx, time.Now().Add(-5*time.Minute).UTC(), events.UserEnabled{UserID: 1})
	}))
	doctor(t, exitStopped, flags...).has(t, "outbox", unwise, "events that wait to be published: 1, the oldest for 5m")
	check(t, store.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
		_, err := tx.Republish(ctx, time.Now().Add(-time.Hour), false)
		return err
	}))
	_, err := store.DB().ExecContext(t.Context(), "UPDATE outbox SET time = ?", time.Now().Add(-time.Hour).UTC())
	check(t, err)
	doctor(t, exitFailed, flags...).has(t, "outbox", broken, "the oldest for 1h")
	_, err = store.DB().ExecContext(t.Context(), "DELETE FROM schema_migrations WHERE name = (SELECT max(name) FROM schema_migrations)")
	check(t, err)
	doctor(t, exitFailed, flags...).has(t, "schema", unwise, "lacks migrations") // and the outbox is as it was
	check(t, store.Close())

	content, err := os.ReadFile(file)
	check(t, err)
	for i := len(content) / 3; i < len(content)/2; i++ {
		content[i] ^= 0x5a
	}
	check(t, os.WriteFile(file, content, 0o600))
	doctor(t, exitFailed, flags...).has(t, "integrity", broken, "")
	check(t, os.WriteFile(file, []byte("a holiday photograph, not a database"), 0o600))
	doctor(t, exitFailed, flags...).has(t, "database", broken, "not a database")
	check(t, os.Chmod(a.dir+"/data", 0o755))
	doctor(t, exitFailed, flags...).has(t, "data directory", broken, "open to other users (mode 0755)")
	doctor(t, exitFailed, append(flags, "--data-dir="+file)...).has(t, "data directory", broken, "no directory")
}

func TestDoctorFindsTheFaultsOfTheBus(t *testing.T) {
	t.Parallel()
	t.Run("no JetStream, and a server that is away", func(t *testing.T) {
		t.Parallel()
		url := externalNATS(t, server.Options{})
		d := doctor(t, exitFailed, append(alone(t), "--nats-url="+url)...)
		d.has(t, "JetStream", broken, "not enabled")
		d.has(t, "instances", unwise, "no instance answers")
		d = doctor(t, exitFailed, append(alone(t), "--nats-url="+url+",nats://127.0.0.1:1")...)
		d.has(t, "NATS", unwise, "nats://127.0.0.1:1: ")
	})
	t.Run("a stream of somebody else", func(t *testing.T) {
		t.Parallel()
		url := externalNATS(t, withJetStream(t))
		_, err := asRelay(t, url).CreateStream(t.Context(), jetstream.StreamConfig{Name: events.Stream, Subjects: []string{"user.>"}, Storage: jetstream.MemoryStorage})
		check(t, err)
		d := doctor(t, exitStopped, append(alone(t), "--nats-url="+url)...)
		d.has(t, events.Stream, unwise, "storage differs, subjects differs")
		d.has(t, events.MailStream, unwise, "no such stream yet")
	})
	t.Run("a server of a cluster that is away", func(t *testing.T) {
		t.Parallel()
		urls, stop := clusterOfThree(t)
		all := strings.Join(urls, ",")
		a := start(t, "--nats-url="+all)
		js := asRelay(t, all)
		// settled waits until all streams and the consumer of the mails have a leader, and until the
		// streams are complete or not.
		settled := func(what string, complete bool) {
			until(t, what, func() bool {
				list, err := events.Inspect(t.Context(), js, clusterSize)
				_, failed := mail.Look(t.Context(), js)
				return err == nil && failed == nil && !slices.ContainsFunc(list, func(s events.StreamState) bool {
					return !s.Exists || s.Leader == "" || (len(s.Behind) == 0) != complete
				})
			})
		}
		settled("there are three copies of all", true)
		flags := append(a.beside(), "--nats-url="+all)
		d := doctor(t, exitStopped, flags...)
		d.only(t, "strangers")
		d.has(t, events.Stream, fine, "copies: 3")
		stop("n0")
		settled("the others have noticed", false)
		d = doctor(t, exitStopped, flags...)
		d.has(t, "NATS", unwise, urls[0])
		d.has(t, events.Stream, unwise, "n0 is ")
	})
	t.Run("too few rights", func(t *testing.T) {
		t.Parallel()
		o := withJetStream(t)
		o.Users = []*server.User{{Username: "authd", Password: "hunter22", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"auth.>", "$JS.API.>", "_INBOX.>", embedded.RightsSubject}},
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_service.>"}},
		}}, {Username: "mute", Password: "hunter22", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"auth.>"}},
		}}}
		address := strings.TrimPrefix(externalNATS(t, o), "nats://")
		d := doctor(t, exitFailed, append(alone(t), "--nats-url=nats://authd:hunter22@"+address)...)
		d.has(t, "rights", broken, "relay: the user may not publish ")
		d.has(t, "rights", broken, "publish mail.>")
		d.has(t, "rights", broken, "subscribe auth.>")
		d.has(t, "instances", skipped, "role admin")
		mute := doctor(t, exitFailed, append(alone(t), "--nats-url=nats://mute:hunter22@"+address)...)
		mute.has(t, "rights", unwise, "does not say")
		mute.has(t, "JetStream", broken, "may not ask")
		out := doctor(t, exitFailed, append(alone(t), "--nats-url=nats://authd:wrong@"+address)...)
		out.has(t, "NATS", broken, "does not let us in")
		if strings.Contains(d.String()+mute.String()+out.String(), "hunter22") {
			t.Error("a secret is told")
		}
	})
	t.Run("a clock that is wrong", func(t *testing.T) {
		t.Parallel()
		url := externalNATS(t, withJetStream(t))
		_, err := asRelay(t, url).CreateStream(t.Context(), jetstream.StreamConfig{Name: events.MailStream, Subjects: []string{"mail.requested"}})
		check(t, err)
		year := time.Now().UTC().Year()
		proxy := rewrite(t, strings.TrimPrefix(url, "nats://"), fmt.Sprintf(`"ts":"%d`, year), fmt.Sprintf(`"ts":"%d`, year+1))
		doctor(t, exitFailed, append(alone(t), "--nats-url=nats://"+proxy)...).has(t, "NATS clock", broken, "ahead of ours")
	})
	t.Run("something else on the port of the embedded server", func(t *testing.T) {
		t.Parallel()
		host, port := taken(t)
		doctor(t, exitFailed, append(alone(t), "--nats-listen="+host+":"+port)...).has(t, "NATS", broken, "none can start")
	})
	t.Run("instances of different versions", func(t *testing.T) {
		t.Parallel()
		a := start(t)
		serveAs(t, a, "0.0.1")
		doctor(t, exitStopped, a.beside()...).has(t, "instances", unwise, "2, of different versions: 0.0.1, "+version)
	})
}

func TestDoctorFindsAMailServerThatDoesNotLetUsIn(t *testing.T) {
	t.Parallel()
	_, mails := startSMTP(t)
	for i, flag := range mails {
		mails[i] = strings.Replace(flag, "correct%2Fhorse", "hunter22", 1)
	}
	d := doctor(t, exitFailed, append(alone(t), mails...)...)
	d.has(t, "mail server", broken, "AUTH failed")
	if strings.Contains(d.String(), "hunter22") {
		t.Errorf("a secret is told:\n%s", d)
	}
}

func TestDoctorFindsFilesThatOthersCanRead(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(key, []byte(masterSecret), 0o644))
	doctor(t, exitStopped, append(alone(t), "--secret-key-file="+key)...).has(t, "secret files", unwise, "mode 0644")

	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, ".env"), []byte("PORT=1\nMETRICS_ADDR=off\nNATS_LISTEN=off\nSECRET_KEY="+masterSecret+"\n"), 0o644))
	if said := command(t, dir, "doctor"); !strings.Contains(said, "warning  .env") || strings.Contains(said, masterSecret) {
		t.Error(said)
	}
}

// serveAs announces another instance on the bus of one.
func serveAs(t *testing.T, a *instance, version string) {
	t.Helper()
	conn := connect(t, a.nats, embedded.Credentials(a.dir+"/data/nats", embedded.Service))
	_, err := conn.Subscribe("$SRV.INFO.auth", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"type":"io.nats.micro.v1.info_response","name":"auth","id":"other","version":"` + version + `"}`))
	})
	check(t, err)
	check(t, conn.Flush())
}

// rewrite is a TCP proxy that puts one text in place of another, of the same length, in what the
// target says. The texts must not be cut in two on their way.
func rewrite(t *testing.T, target, from, to string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	var group sync.WaitGroup
	pass := func(in, out net.Conn, from, to string) {
		defer out.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := in.Read(buffer)
			if _, failed := out.Write(bytes.ReplaceAll(buffer[:n], []byte(from), []byte(to))); err != nil || failed != nil {
				return
			}
		}
	}
	group.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			group.Go(func() { pass(near, far, "", "") })
			group.Go(func() { pass(far, near, from, to) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return l.Addr().String()
}

// collide gives account 2 the address of account 1 in another letter case, under the key of a former version.
func collide(t *testing.T, db *bun.DB) {
	t.Helper()
	for _, row := range [][2]string{{"ΟΔΟΣ@example.com", "οδοσ@example.com"}, {"οδος@example.com", "οδος@example.com"}} {
		_, err := db.ExecContext(t.Context(), "INSERT INTO users (email, email_key, password, name, created_at, updated_at) VALUES (?, ?, '', '', ?, ?)",
			row[0], row[1], time.Now().UTC(), time.Now().UTC())
		check(t, err)
	}
}

func TestAccountsWithOneAddressAreFound(t *testing.T) {
	t.Parallel()
	const pair = "2 (address of 1)"
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		url := testpg.URL(t)
		command(t, t.TempDir(), "migrate", "up", "--database-url="+url)
		collide(t, storeAt(t, url).DB())
		flags := append(alone(t), "--database-url="+url, "--secret-key="+masterSecret)
		d := doctor(t, exitFailed, flags...) // the server of the tests has fsync off
		d.has(t, "addresses", unwise, "1; "+pair)
		if strings.Contains(d.String(), "example.com") {
			t.Errorf("an address is shown:\n%s", d)
		}
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		a := start(t)
		a.stop(t)
		store := a.stored(t)
		collide(t, store.DB())
		doctor(t, exitStopped, append(alone(t), "--data-dir="+a.dir+"/data")...).has(t, "addresses", unwise, "1; "+pair)

		b := launch(t, a.dir).ready(t)
		line := b.line(t, "no login finds these accounts")
		if !strings.Contains(line, `"level":"WARN"`) || !strings.Contains(line, pair) || strings.Contains(b.stderr.String(), "example.com") {
			t.Errorf("the log has %s", line)
		}
		b.stop(t)
		_, err := store.DB().ExecContext(t.Context(), "DELETE FROM users WHERE id = 1")
		check(t, err)
		c := launch(t, a.dir).ready(t)
		if strings.Contains(c.stderr.String(), "no login finds") {
			t.Errorf("the account has no collision any more, but the log says:\n%s", c.stderr)
		}
		c.stop(t)
		var key string
		check(t, store.DB().QueryRowContext(t.Context(), "SELECT email_key FROM users WHERE id = 2").Scan(&key))
		if key != "οδοσ@example.com" {
			t.Errorf("the account has the key %q", key)
		}
	})
}

func newer(t *testing.T, db *bun.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), "INSERT INTO schema_migrations (name, group_id) VALUES ('9999', 9)")
	check(t, err)
}
