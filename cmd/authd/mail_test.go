package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testsmtp"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/persistence"
)

// startSMTP starts a mail server, and returns the flags of instances that send there. Its Wait
// returns what came for somebody.
func startSMTP(t *testing.T) (inbox *testsmtp.Server, flags []string) {
	t.Helper()
	inbox = testsmtp.Start(t)
	return inbox, []string{"--smtp-url=" + inbox.URL, "--smtp-tls-ca=" + inbox.CAFile, "--mail-from=Acme <no-reply@acme.example>"}
}

// shownMail is a mail in the mailbox.
type shownMail struct{ ID, Kind, To, Subject, Link, Code, Text, HTML string }

// inMailbox waits for the latest mail to somebody in the mailbox of an instance.
func (a *instance) inMailbox(t *testing.T, to string) (m shownMail) {
	t.Helper()
	until(t, "there is a mail to "+to, func() bool {
		resp, err := client.Get(a.mailbox + ".json")
		check(t, err)
		defer resp.Body.Close()
		var body struct{ Mails []shownMail }
		check(t, json.NewDecoder(resp.Body).Decode(&body))
		i := slices.IndexFunc(body.Mails, func(m shownMail) bool { return m.To == to })
		if i >= 0 {
			m = body.Mails[i]
		}
		return i >= 0
	})
	return m
}

// requestMails commits requests for mails, sealed with the tests' master secret, as a change would
// that causes them.
func requestMails(t *testing.T, store *persistence.Store, mails ...events.Mail) {
	t.Helper()
	keys, err := secret.Parse(masterSecret)
	check(t, err)
	check(t, requestSealed(t.Context(), store, keys, mails...))
}

func requestSealed(ctx context.Context, store *persistence.Store, keys secret.Keys, mails ...events.Mail) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	var data []events.Data
	for _, m := range mails {
		m.At = now
		plain, err := json.Marshal(m)
		if err != nil {
			return err
		}
		sealed, err := (&handlers.Mails{Keys: keys}).Seal(plain)
		if err != nil {
			return err
		}
		data = append(data, events.MailRequested{UserID: m.UserID, Sealed: sealed})
	}
	return store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error { return tx.Emit(ctx, now, data...) })
}

// stored opens the database of an instance beside it.
func (a *instance) stored(t *testing.T) *persistence.Store {
	t.Helper()
	return storeAt(t, "sqlite://"+a.dir+"/data/authd.db")
}

func storeAt(t *testing.T, url string) *persistence.Store {
	t.Helper()
	store, err := persistence.Open(t.Context(), url)
	check(t, err)
	t.Cleanup(func() { check(t, store.Close()) })
	return store
}

// resetMail is a mail with what nobody else may see.
func resetMail(to string) events.Mail {
	return events.Mail{
		Kind: "password_reset", UserID: 7, To: to, Name: "Ada", ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		Link: "https://auth.example.com/reset#token=hunter22",
	}
}

func TestAMailArrivesOnceAndIsToldToNobodyElse(t *testing.T) {
	t.Parallel()
	for name, deploy := range map[string]func(*testing.T, []string) (*instance, *persistence.Store){
		"SQLite and embedded bus": func(t *testing.T, flags []string) (*instance, *persistence.Store) {
			a := startInside(t, append(flags, "--secret-key="+masterSecret)...)
			return a, a.stored(t)
		},
		"Postgres and external bus": func(t *testing.T, flags []string) (*instance, *persistence.Store) {
			url := testpg.URL(t)
			a := start(t, slices.Concat(flags, withPostgres(url), []string{"--nats-url=" + externalNATS(t, withJetStream(t))})...)
			return a, storeAt(t, url)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inbox, flags := startSMTP(t)
			a, store := deploy(t, flags)
			requestMails(t, store, resetMail("ada@example.com"))
			l := inbox.Wait(t, "ada@example.com")
			if l.Link != "https://auth.example.com/reset#token=hunter22" || l.Subject() != "Choose a new password" || l.Header.Get("From") != `"Acme" <no-reply@acme.example>` {
				t.Errorf("%+v", l)
			}
			a.line(t, "mail sent")
			a.quiet(t, "hunter22")
			a.quiet(t, "ada@example.com")
			var rows []struct{ Data string }
			check(t, store.DB().NewRaw("SELECT data FROM outbox WHERE type = 'mail.requested'").Scan(t.Context(), &rows))
			if len(rows) != 1 || strings.Contains(rows[0].Data, "ada@") || strings.Contains(rows[0].Data, "hunter22") {
				t.Errorf("the database has %v", rows)
			}
			if n := len(inbox.Letters("ada@example.com")); n != 1 {
				t.Errorf("%d letters", n)
			}
		})
	}
}

// The process is killed at any moment after mails were asked for, and started again. Each arrives;
// if one does twice, it is recognised by its Message-ID.
func TestKilledBetweenCommitAndSendMailsArrive(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	flags = append(flags, "--secret-key="+masterSecret)
	dir := t.TempDir()
	a := launch(t, dir, flags...).ready(t)
	var all []string
	for round := range 4 * chaos(t) {
		store, err := persistence.Open(t.Context(), "sqlite://"+dir+"/data/authd.db")
		check(t, err)
		for n := range 3 {
			to := fmt.Sprintf("u%d.%d@example.com", round, n)
			all = append(all, to)
			requestMails(t, store, resetMail(to))
		}
		check(t, store.Close())
		moment(0, 60*time.Millisecond)
		check(t, a.signal(syscall.SIGKILL))
		<-a.exited
		a = launch(t, dir, flags...).ready(t)
	}
	twice := 0
	for _, to := range all {
		first := inbox.Wait(t, to)
		for _, l := range inbox.Letters(to)[1:] {
			twice++
			if l.Header.Get("Message-Id") != first.Header.Get("Message-Id") {
				t.Errorf("%s: two mails", to)
			}
		}
	}
	t.Logf("%d mails, %d of them twice", len(all), twice)
}

// Who has the mail in hand is killed; the next has it once the stream takes the first for dead.
func TestKilledWhileItSendsTheMailArrives(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	flags = append(flags, "--secret-key="+masterSecret)
	dir := t.TempDir()
	a := launch(t, dir, flags...).ready(t)
	inbox.Meet("ada@example.com", testsmtp.Hang)
	requestMails(t, a.stored(t), resetMail("ada@example.com"))
	inbox.Tried(t, "ada@example.com", 1)
	check(t, a.signal(syscall.SIGKILL))
	<-a.exited
	launch(t, dir, flags...).ready(t)
	inbox.Wait(t, "ada@example.com")
	if n := len(inbox.Letters("ada@example.com")); n != 1 {
		t.Errorf("%d letters", n)
	}
}

// While the mail server hangs, nobody who asks the service notices.
func TestAHangingMailServerChangesNoRequest(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	a := start(t, append(flags, "--secret-key="+masterSecret)...)
	store := a.stored(t)
	for n := range 6 { // more than are sent at once
		to := fmt.Sprintf("u%d@example.com", n)
		inbox.Meet(to, testsmtp.Hang)
		requestMails(t, store, resetMail(to))
	}
	for n := range 4 {
		inbox.Tried(t, fmt.Sprintf("u%d@example.com", n), 1)
	}
	story(t, a)
	inbox.Down() // lets go
	a.stop(t)
}

// A mail that was sealed with a key that is not there any more holds up neither events nor mails.
func TestAMailThatDoesNotOpenHoldsUpNobody(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	a := start(t, append(flags, "--secret-key="+masterSecret)...)
	store := a.stored(t)
	other, err := secret.Parse(secret.Generate())
	check(t, err)
	check(t, requestSealed(t.Context(), store, other, resetMail("lost@example.com")))
	requestMails(t, store, resetMail("ada@example.com"))
	inbox.Wait(t, "ada@example.com")
	a.line(t, "cannot be opened and is passed over")
	published(t, store)
}

func TestTheMailboxShowsMailsOnThisMachineAlone(t *testing.T) {
	t.Parallel()
	a := startInside(t, "--secret-key="+masterSecret)
	requestMails(t, a.stored(t), resetMail("ada@example.com"))
	m := a.inMailbox(t, "ada@example.com")
	if m.Kind != "password_reset" || m.Link != "https://auth.example.com/reset#token=hunter22" || !strings.Contains(m.HTML, "<h1>Choose a new password</h1>") {
		t.Errorf("%+v", m)
	}
	get := func(url, host string) (int, string) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		check(t, err)
		req.Host = host
		resp, err := client.Do(req)
		check(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		return resp.StatusCode, string(body)
	}
	for _, page := range []string{"", "/" + m.ID, "/" + m.ID + "/html"} {
		if status, body := get(a.mailbox+page, ""); status != 200 || !strings.Contains(body, "Choose a new password") {
			t.Errorf("%s: %d %s", page, status, body)
		}
		if status, body := get(a.mailbox+page, "evil.example"); status != http.StatusForbidden || strings.Contains(body, "password") {
			t.Errorf("%s under another name: %d %s", page, status, body)
		}
	}
	a.get(t, "/dev/mailbox", "").refused(t, 404, "not_found", "")
	a.get(t, "/dev/mailbox.json", "").refused(t, 404, "not_found", "")
	a.quiet(t, "hunter22")
}

// What an instance with these flags does with mails.
func TestMailsGoWhereTheSettingsSay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags   []string
		mailbox bool
		says    string
	}{
		"default":                 {nil, true, "mails are sent to nobody"},
		"public HTTP":             {[]string{"--host=0.0.0.0"}, false, "mails are not sent"},
		"public pages":            {[]string{"--metrics-addr=0.0.0.0:0"}, false, "mails are not sent"},
		"public pages, and asked": {[]string{"--metrics-addr=0.0.0.0:0", "--mailbox=on"}, true, "mails are sent to nobody"},
		"no pages":                {[]string{"--metrics-addr=off"}, false, "mails are not sent"},
		"no mailbox":              {[]string{"--mailbox=off"}, false, "mails are not sent"},
		"somebody else sends":     {[]string{"--mailer=off"}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startInside(t, c.flags...)
			if (a.mailbox != "") != c.mailbox || c.says != "" && !strings.Contains(a.stderr.String(), c.says) || c.says == "" && strings.Contains(a.stderr.String(), "mails are") {
				t.Errorf("mailbox at %q\n%s", a.mailbox, a.stderr)
			}
		})
	}
}

func TestATakenMetricsAddrIsAnErrorIfItWasChosen(t *testing.T) {
	t.Parallel()
	host, port := taken(t)
	execute(t, t.TempDir(), exec.Command("owned-authd", "--log-format=json", "--port=0", "--nats-listen=off", "--metrics-addr="+host+":"+port)).
		refused(t, exitFailed, "METRICS_ADDR", host+":"+port, "address already in use")
	// Of those who share the usual one, at least one has to do without.
	var instances []*instance
	for range 2 {
		instances = append(instances, execute(t, t.TempDir(), exec.Command("owned-authd", "--log-format=json", "--port=0", "--nats-listen=off")).ready(t))
	}
	if !slices.ContainsFunc(instances, func(a *instance) bool {
		return a.mailbox == "" && strings.Contains(a.stderr.String(), "METRICS_ADDR is taken") && strings.Contains(a.stderr.String(), "mails are not sent")
	}) {
		t.Error("both have a mailbox at one address")
	}
}

// mailKeys are what "authd keys mail-key" prints.
func mailKeys(t *testing.T, dir, master string) (keys [][]byte) {
	t.Helper()
	for line := range strings.Lines(command(t, dir, "keys", "mail-key", "--secret-key="+master)) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		check(t, err)
		keys = append(keys, key)
	}
	return keys
}

// With MAILER=off a service in the role mailer takes the mails, and sees what is documented. Without the
// mail key it reads neither addresses nor links.
func TestMailsAreLeftToAnotherService(t *testing.T) {
	t.Parallel()
	a := start(t, "--mailer=off", "--secret-key="+masterSecret)
	m := resetMail("ada@example.com")
	m.Device, m.Client.IP, m.Code, m.Locale = "Firefox on Linux", "192.0.2.1", "12345678", "en"
	requestMails(t, a.stored(t), m)
	conn := connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Mailer))
	js, err := jetstream.New(conn)
	check(t, err)
	var consumer jetstream.Consumer
	until(t, "there is a queue", func() bool {
		consumer, err = js.CreateOrUpdateConsumer(t.Context(), "AUTH_MAIL", jetstream.ConsumerConfig{Durable: "mailer", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1})
		return err == nil
	})
	msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
	check(t, err)
	check(t, testauthd.EventAsDescribed(msg.Subject(), msg.Headers(), msg.Data()))
	var data struct{ Sealed string }
	check(t, json.Unmarshal(msg.Data(), &data))
	event, err := events.Parse(msg.Headers(), msg.Data())
	check(t, err)
	opened, err := events.OpenMail(event, mailKeys(t, a.dir, secret.Generate()+","+masterSecret)...)
	if err != nil || opened.To != "ada@example.com" || opened.Link != m.Link || event.Subject != "7" {
		t.Errorf("%+v, %v", opened, err)
	}
	for _, hidden := range []string{"ada@", "hunter22", m.Code} {
		if strings.Contains(string(msg.Data()), hidden) {
			t.Errorf("%s is in clear: %s", hidden, msg.Data())
		}
	}
	event.ID = "another"
	if _, err := events.OpenMail(event, mailKeys(t, a.dir, masterSecret)...); !errors.Is(err, events.ErrMailSealed) {
		t.Errorf("in another message: %v", err)
	}
	header := map[string]string{}
	for name, values := range msg.Headers() {
		header[name] = strings.Join(values, ", ")
	}
	text, err := json.Marshal(header)
	check(t, err)
	goldenText(t, "event-mail-requested", encode(t, map[string]any{
		"subject": msg.Subject(), "header": json.RawMessage(mask(string(text))), "data": json.RawMessage(strings.Replace(string(msg.Data()), data.Sealed, "<sealed>", 1)),
	}))
	check(t, msg.DoubleAck(t.Context()))
	if said := command(t, a.dir, "mail", "status", "--nats-listen="+strings.TrimPrefix(a.nats, "nats://")); said != "no mails wait\nmails that were given up: 0\n" {
		t.Error(said)
	}
}

// A mail that is in the queue while SECRET_KEY is replaced is sent by the mailer that has both values, and
// one that a former version left there in clear too.
func TestMailsInTheQueueOutliveTheirKey(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	a := start(t, "--mailer=off", "--secret-key="+masterSecret)
	requestMails(t, a.stored(t), resetMail("ada@example.com"))
	relay, err := jetstream.New(connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Relay)))
	check(t, err)
	until(t, "the mail is in the queue", func() bool {
		q, err := mail.Look(t.Context(), relay)
		return err == nil && q.Waiting == 1
	})
	plain, err := json.Marshal(resetMail("bob@example.com"))
	check(t, err)
	former := events.Event{ID: "clear", Type: events.MailType, Subject: "7", Time: time.Now(), Data: plain}
	_, err = relay.PublishMsg(t.Context(), former.Message())
	check(t, err)
	a.stop(t)
	launch(t, a.dir, append(flags, "--secret-key="+secret.Generate()+","+masterSecret)...).ready(t)
	inbox.Wait(t, "ada@example.com")
	inbox.Wait(t, "bob@example.com")
}

// Operators see what was given up and put it back, beside the running service.
func TestMailsThatWereGivenUpAreShownAndPutBack(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	a := start(t, append(flags, "--secret-key="+masterSecret)...)
	store := a.stored(t)
	nats := "--nats-listen=" + strings.TrimPrefix(a.nats, "nats://")
	late := resetMail("late@example.com")
	late.ExpiresAt = time.Now().Add(15 * time.Second).UTC() // the mailer tries it before, on a busy machine too
	for _, m := range []events.Mail{resetMail("ada@example.com"), resetMail("bob@example.com"), late} {
		inbox.Meet(m.To, testsmtp.Never)
		requestMails(t, store, m)
	}
	list := func() (list []map[string]any) {
		for line := range strings.Lines(command(t, a.dir, "mail", "failed", "--json", nats)) {
			var one map[string]any
			check(t, json.Unmarshal([]byte(line), &one))
			list = append(list, one)
		}
		return list
	}
	until(t, "three are given up", func() bool { return strings.Count(a.stderr.String(), "mail is given up") == 3 })
	var all []map[string]any
	until(t, "three are kept", func() bool { all = list(); return len(all) == 3 })
	slices.SortFunc(all, func(a, b map[string]any) int { return strings.Compare(a["to"].(string), b["to"].(string)) })
	first := all[0]
	if first["kind"] != "password_reset" || first["userId"] != 7.0 || first["to"] != "a***@example.com" || first["tries"] != 1.0 || first["sealed"] != nil || !strings.Contains(first["reason"].(string), "550") {
		t.Errorf("%v", first)
	}
	if said := command(t, a.dir, "mail", "failed", nats); strings.Count(said, "\n") != 4 || !strings.Contains(said, "password_reset") || strings.Contains(said, "ada@") {
		t.Error(said)
	}
	if said := command(t, a.dir, "mail", "status", "--json", nats); said != "{\"waiting\":0,\"retried\":0,\"failed\":3}\n" {
		t.Error(said)
	}
	until(t, "the third has expired", func() bool { return time.Now().After(late.ExpiresAt) })
	if said := command(t, a.dir, "mail", "retry", nats, first["id"].(string)); said != "mails that were put back: 1; expired ones that were left: 0\n" {
		t.Error(said)
	}
	if l := inbox.Wait(t, "ada@example.com"); l.Link != "https://auth.example.com/reset#token=hunter22" {
		t.Errorf("%+v", l)
	}
	if said := command(t, a.dir, "mail", "retry", nats, "--all"); said != "mails that were put back: 1; expired ones that were left: 1\n" {
		t.Error(said)
	}
	inbox.Wait(t, "bob@example.com")
	if left := list(); len(left) != 1 || left[0]["to"] != "l***@example.com" {
		t.Errorf("%v", left)
	}
	for args, want := range map[string]string{
		"mail retry " + nats:                               "say the id of one mail, or --all",
		"mail retry --all x " + nats:                       "say the id of one mail, or --all",
		"mail retry nothing " + nats:                       "no mail nothing was given up",
		"mail retry " + all[2]["id"].(string) + " " + nats: "has expired",
	} {
		cmd := exec.Command("authd", strings.Fields(args)...)
		cmd.Dir, cmd.Env = a.dir, []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}

// A mail is sent again only if that is said.
func TestRepublishingEventsSendsNoMails(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	a := start(t, append(flags, "--secret-key="+masterSecret)...)
	requestMails(t, a.stored(t), resetMail("ada@example.com"))
	inbox.Wait(t, "ada@example.com")
	a.told(t)
	if said := command(t, a.dir, "outbox", "republish", "--since=1h"); !strings.HasPrefix(said, "events that will be published once more: 1;") { // the key
		t.Error(said)
	}
	if said := command(t, a.dir, "outbox", "republish", "--since=1h", "--mails"); !strings.HasPrefix(said, "mails that will be sent once more: 1;") {
		t.Error(said)
	}
	a.told(t)
}

// Two instances on one database and one bus send each mail once.
func TestTwoInstancesSendEachMailOnce(t *testing.T) {
	t.Parallel()
	inbox, flags := startSMTP(t)
	url := testpg.URL(t)
	flags = slices.Concat(flags, withPostgres(url), []string{"--nats-url=" + externalNATS(t, withJetStream(t))})
	both := []*instance{start(t, flags...), start(t, flags...)}
	store := storeAt(t, url)
	const n = 30
	for i := range n {
		requestMails(t, store, resetMail(fmt.Sprintf("u%d@example.com", i)))
	}
	for i := range n {
		inbox.Wait(t, fmt.Sprintf("u%d@example.com", i))
	}
	for _, a := range both {
		a.stop(t)
	}
	for i := range n {
		if got := len(inbox.Letters(fmt.Sprintf("u%d@example.com", i))); got != 1 {
			t.Errorf("u%d: %d letters", i, got)
		}
	}
}
