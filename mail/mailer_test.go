package mail_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	netmail "net/mail"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testsmtp"
	"github.com/zyotra/auth/mail"
)

// patience bounds every wait for a condition. Only a failing test waits that long.
const patience = 2 * time.Minute

// quick are waits for tests.
var quick = []time.Duration{time.Millisecond, 20 * time.Millisecond}

// post is a bus with the streams of mails, and a mail server.
type post struct {
	bus  *embedded.Server
	js   jetstream.JetStream // of the relay
	smtp *testsmtp.Server
	log  *logged
}

func start(t *testing.T) *post {
	t.Helper()
	bus, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: embedded.Off})
	check(t, err)
	t.Cleanup(bus.Shutdown)
	p := &post{bus: bus, smtp: testsmtp.Start(t), log: &logged{}}
	p.js = p.dial(t, embedded.Relay)
	relay := &events.Relay{Outbox: &noOutbox{}, JS: p.js, Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	running(t, relay.Run)
	p.until(t, "the streams are there", func() bool {
		_, err := p.js.Stream(t.Context(), events.MailFailedStream)
		return err == nil
	})
	return p
}

// noOutbox holds nothing: the relay is here for the streams alone.
type noOutbox struct{}

func (noOutbox) Woken() <-chan struct{} { return nil }
func (noOutbox) Take(context.Context, int, func(context.Context, []events.Event) (int, error)) (int, error) {
	return 0, nil
}
func (noOutbox) Backlog(context.Context) (events.Backlog, error) { return events.Backlog{}, nil }

// logged is what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (p *post) dial(t *testing.T, role string) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect("", p.bus.InProcess(), p.bus.As(role))
	check(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	check(t, err)
	return js
}

// running runs something until it is told to stop, or the test ends.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// sender sends to the test's server.
func (p *post) sender(t *testing.T) *mail.SMTP {
	t.Helper()
	s, err := mail.NewSMTP(p.smtp.URL, &netmail.Address{Name: "Acme, Inc.", Address: "no-reply@acme.example"})
	check(t, err)
	pem, err := os.ReadFile(p.smtp.CAFile)
	check(t, err)
	s.Roots = x509.NewCertPool()
	s.Roots.AppendCertsFromPEM(pem)
	return s
}

// mailer is one that does not wait for long.
func (p *post) mailer(t *testing.T) *mail.Mailer {
	t.Helper()
	return &mail.Mailer{
		JS: p.dial(t, embedded.Mailer), Templates: load(t, nil), Sender: p.sender(t), Backoff: quick,
		Seal: func(plain []byte) ([]byte, error) { return append([]byte("sealed:"), plain...), nil },
		Log:  slog.New(slog.NewTextHandler(p.log, nil)),
	}
}

// ask asks for a mail with a code and returns its id.
func (p *post) ask(t *testing.T, m events.Mail) (id string) {
	t.Helper()
	if m.Kind == "" {
		m.Kind = "login_code"
	}
	m.UserID, m.Code, m.At = 7, "12345678", time.Now().UTC()
	data, err := json.Marshal(m)
	check(t, err)
	return p.publish(t, data)
}

func (p *post) publish(t *testing.T, data []byte) (id string) {
	t.Helper()
	e := events.Event{ID: uuid.NewString(), Type: events.MailType, Subject: "7", Time: time.Now().UTC(), Data: data}
	_, err := p.js.PublishMsg(t.Context(), e.Message())
	check(t, err)
	return e.ID
}

func (p *post) until(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !so(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still not: %s\n%s", what, p.log)
		}
	}
}

// settled waits until nothing is in the queue.
func (p *post) settled(t *testing.T) {
	t.Helper()
	p.until(t, "the queue is empty", func() bool {
		q, err := mail.Look(t.Context(), p.js)
		return err == nil && q.Waiting == 0
	})
}

func (p *post) failed(t *testing.T) (list []mail.Failed) {
	t.Helper()
	check(t, mail.FailedMails(t.Context(), p.js, func(_ uint64, f mail.Failed) error {
		list = append(list, f)
		return nil
	}))
	return list
}

func TestAMailIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	p := start(t)
	id := p.ask(t, events.Mail{To: "ada@example.com", Name: "Ada\r\nBcc: eve@example.com"})
	running(t, p.mailer(t).Run)
	l := p.smtp.Wait(t, "ada@example.com")
	p.settled(t)
	for name, want := range map[string]string{
		"From": `"Acme, Inc." <no-reply@acme.example>`, "To": "<ada@example.com>", "Subject": "12345678 is your code",
		"Message-Id": "<" + id + "@acme.example>", "Auto-Submitted": "auto-generated", "Bcc": "", "User-Agent": "", "X-Mailer": "", "Mime-Version": "1.0",
	} {
		if got := l.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if date, err := l.Header.Date(); err != nil || time.Since(date) > time.Minute {
		t.Errorf("Date: %v, %v", date, err)
	}
	if l.From != "no-reply@acme.example" || l.Code != "12345678" || !strings.Contains(l.HTML, "12345678") || strings.Contains(l.Text, "eve@") {
		t.Errorf("%+v", l)
	}
	if n := len(p.smtp.Letters("ada@example.com")); n != 1 || len(p.failed(t)) != 0 {
		t.Errorf("%d letters, failed %+v", n, p.failed(t))
	}
}

// Whatever the server does but losing its own answer, a mail comes, and once.
func TestWhatFailsForNowIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := start(t)
	m := p.mailer(t)
	running(t, m.Run)
	for to, faults := range map[string][]testsmtp.Fault{
		"later@example.com": {testsmtp.Later, testsmtp.Later, testsmtp.Later}, "data@example.com": {testsmtp.LaterData},
		"cut@example.com": {testsmtp.CutInData, testsmtp.CutInData}, "all@example.com": {testsmtp.Later, testsmtp.CutInData, testsmtp.LaterData},
	} {
		p.smtp.Meet(to, faults...)
		p.ask(t, events.Mail{To: to})
		p.smtp.Wait(t, to)
	}
	p.settled(t)
	for _, to := range []string{"later@example.com", "data@example.com", "cut@example.com", "all@example.com"} {
		if n := len(p.smtp.Letters(to)); n != 1 {
			t.Errorf("%s: %d letters", to, n)
		}
	}
	if len(p.failed(t)) != 0 {
		t.Errorf("%+v", p.failed(t))
	}
	if got := m.Stats(); got != (mail.Stats{Sent: 4, Retried: 9}) {
		t.Errorf("%+v", got)
	}
}

// A confirmation that is lost makes the one case in which a mail comes twice: with one Message-ID.
func TestALostConfirmationIsRecognisable(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.smtp.Meet("ada@example.com", testsmtp.CutAfterData)
	p.ask(t, events.Mail{To: "ada@example.com"})
	running(t, p.mailer(t).Run)
	first, second := p.smtp.Wait(t, "ada@example.com"), p.smtp.Wait(t, "ada@example.com")
	p.settled(t)
	if first.Header.Get("Message-Id") != second.Header.Get("Message-Id") || len(p.smtp.Letters("ada@example.com")) != 2 {
		t.Errorf("%v\n%v", first.Header, second.Header)
	}
}

func TestWhatIsRefusedForGoodIsKeptForTheOperator(t *testing.T) {
	t.Parallel()
	p := start(t)
	m := p.mailer(t)
	running(t, m.Run)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for to, fault := range map[string]testsmtp.Fault{
		"never@example.com": testsmtp.Never, "data@example.com": testsmtp.NeverData, "spoken@example.com": testsmtp.NeverSoSpoken,
	} {
		p.smtp.Meet(to, fault)
		id := p.ask(t, events.Mail{To: to, ExpiresAt: expires})
		p.settled(t)
		list := p.failed(t)
		f := list[len(list)-1]
		if f.ID != id || f.Kind != "login_code" || f.UserID != 7 || f.To != mail.Masked(to) || f.Tries != 1 || time.Since(f.At) > time.Minute || !f.ExpiresAt.Equal(expires) {
			t.Errorf("%+v", f)
		}
		if !strings.Contains(f.Reason, "5.") || strings.Contains(f.Reason, to) {
			t.Errorf("%s", f.Reason)
		}
		if !bytes.HasPrefix(f.Sealed, []byte("sealed:{")) || !bytes.Contains(f.Sealed, []byte("12345678")) {
			t.Errorf("%s", f.Sealed)
		}
		if strings.Contains(p.log.String(), to) || strings.Contains(p.log.String(), "12345678") {
			t.Errorf("the log tells too much:\n%s", p.log)
		}
	}
	for _, to := range []string{"", "nobody", "ada@example.com\r\nRCPT TO:<eve@example.com>", "a@x.example, b@x.example"} {
		p.ask(t, events.Mail{To: to})
	}
	p.publish(t, []byte(`{"kind":1}`))
	p.publish(t, []byte(`"`))
	p.settled(t)
	if got := m.Stats(); got != (mail.Stats{GivenUp: 9}) {
		t.Errorf("%+v", got)
	}
	if n := len(p.failed(t)); n != 9 {
		t.Errorf("%d failed: %+v", n, p.failed(t))
	}
	for _, to := range []string{"eve@example.com", "a@x.example"} {
		if len(p.smtp.Letters(to)) != 0 {
			t.Errorf("%s has mail", to)
		}
	}
}

func TestAMailIsGivenUpWhenItHasBeenTriedForLongEnough(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.smtp.Down()
	m := p.mailer(t)
	m.Patience = 5 * time.Second // for a second try, on a busy machine too
	p.ask(t, events.Mail{To: "ada@example.com"})
	running(t, m.Run)
	p.settled(t)
	if list := p.failed(t); len(list) != 1 || list[0].Tries < 2 || !strings.Contains(list[0].Reason, "refused") {
		t.Errorf("%+v", list)
	}
}

func TestAnExpiredMailIsNotSent(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.ask(t, events.Mail{To: "late@example.com", ExpiresAt: time.Now().Add(-time.Second)})
	p.ask(t, events.Mail{To: "ada@example.com", ExpiresAt: time.Now().Add(time.Hour)})
	m := p.mailer(t)
	running(t, m.Run)
	p.smtp.Wait(t, "ada@example.com")
	p.settled(t)
	if len(p.smtp.Letters("late@example.com")) != 0 || len(p.failed(t)) != 0 || !strings.Contains(p.log.String(), "mail has expired") {
		t.Errorf("%+v\n%s", p.failed(t), p.log)
	}
	if got := m.Stats(); got != (mail.Stats{Sent: 1, Expired: 1}) {
		t.Errorf("%+v", got)
	}
}

func TestMailsWaitWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.smtp.Down()
	running(t, p.mailer(t).Run)
	for i := range 10 {
		p.ask(t, events.Mail{To: fmt.Sprintf("u%d@example.com", i)})
	}
	p.until(t, "it was tried", func() bool { return strings.Count(p.log.String(), "tried again") > 20 })
	p.smtp.Up(t)
	for i := range 10 {
		p.smtp.Wait(t, fmt.Sprintf("u%d@example.com", i))
	}
	p.settled(t)
	for i := range 10 {
		if n := len(p.smtp.Letters(fmt.Sprintf("u%d@example.com", i))); n != 1 {
			t.Errorf("u%d: %d letters", i, n)
		}
	}
}

// A server that hangs with one mail has the others meanwhile.
func TestAHangingServerHoldsUpOneMail(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.smtp.Meet("hang@example.com", testsmtp.Hang)
	p.ask(t, events.Mail{To: "hang@example.com"})
	running(t, p.mailer(t).Run)
	p.smtp.Tried(t, "hang@example.com", 1)
	p.ask(t, events.Mail{To: "ada@example.com"})
	p.smtp.Wait(t, "ada@example.com")
	p.smtp.Down()
	p.smtp.Up(t)
	p.smtp.Wait(t, "hang@example.com")
	p.settled(t)
}

// Instances share the mails, and no more than four of each are under way.
func TestInstancesShareTheMails(t *testing.T) {
	t.Parallel()
	p := start(t)
	sender := &counting{Sender: p.sender(t)}
	for range 3 {
		m := p.mailer(t)
		m.Sender = sender
		running(t, m.Run)
	}
	const n = 60
	for i := range n {
		p.ask(t, events.Mail{To: fmt.Sprintf("u%d@example.com", i)})
	}
	p.settled(t)
	for i := range n {
		if got := len(p.smtp.Letters(fmt.Sprintf("u%d@example.com", i))); got != 1 {
			t.Errorf("u%d: %d letters", i, got)
		}
	}
	if sender.most > 12 {
		t.Errorf("%d at once", sender.most)
	}
}

// counting counts how many letters are under way.
type counting struct {
	mail.Sender
	mu        sync.Mutex
	now, most int
}

func (c *counting) Send(ctx context.Context, l mail.Letter) error {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	return c.Sender.Send(ctx, l)
}

// blocking lets the test decide how a letter ends.
type blocking struct {
	begun  chan string
	finish chan error
}

func (b blocking) Send(_ context.Context, l mail.Letter) error {
	b.begun <- l.Mail.To
	return <-b.finish
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	p := start(t)
	m, sender := p.mailer(t), blocking{make(chan string, 2), make(chan error)}
	m.Sender = sender
	stop := running(t, m.Run)
	p.ask(t, events.Mail{To: "ada@example.com"})
	<-sender.begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Fatal("stopped in the middle")
	case <-time.After(50 * time.Millisecond):
	}
	p.ask(t, events.Mail{To: "bob@example.com"}) // for the next one
	close(sender.finish)
	<-stopped
	if q, err := mail.Look(t.Context(), p.js); err != nil || q.Waiting != 1 || q.Retried != 0 {
		t.Errorf("%+v, %v", q, err)
	}
}

type panicking struct{}

func (panicking) Send(context.Context, mail.Letter) error { panic("oops") }

func TestAPanicIsTheMailsOwn(t *testing.T) {
	t.Parallel()
	p := start(t)
	m := p.mailer(t)
	m.Sender, m.Patience = panicking{}, 100*time.Millisecond
	p.ask(t, events.Mail{To: "ada@example.com"})
	running(t, m.Run)
	p.settled(t)
	if list := p.failed(t); len(list) != 1 || !strings.Contains(list[0].Reason, "oops") {
		t.Errorf("%+v", list)
	}
}

// The consumer and the streams may go; mails that come after they are back are sent.
func TestTheQueueMayGoAndComeBack(t *testing.T) {
	t.Parallel()
	p := start(t)
	running(t, p.mailer(t).Run)
	p.ask(t, events.Mail{To: "ada@example.com"})
	p.smtp.Wait(t, "ada@example.com")
	check(t, p.js.DeleteConsumer(t.Context(), events.MailStream, mail.Consumer))
	p.ask(t, events.Mail{To: "bob@example.com"})
	p.smtp.Wait(t, "bob@example.com")
	p.settled(t)
}

func TestNothingUnencryptedUnlessThatIsSaid(t *testing.T) {
	t.Parallel()
	p := start(t)
	strict := p.sender(t)
	strict.Roots = nil // the system does not know the test's authority
	err := strict.Send(t.Context(), letter("ada@example.com"))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	wrong, err := mail.NewSMTP(strings.Replace(p.smtp.URL, "correct", "wrong", 1), &netmail.Address{Address: "no-reply@acme.example"})
	check(t, err)
	wrong.Roots = p.sender(t).Roots
	if err := wrong.Send(t.Context(), letter("ada@example.com")); err == nil || strings.Contains(err.Error(), "wrong%2F") || strings.Contains(err.Error(), "wrong/") {
		t.Errorf("a wrong password: %v", err)
	}
	if len(p.smtp.Letters("ada@example.com")) != 0 {
		t.Error("it was sent")
	}
}

func letter(to string) mail.Letter {
	return mail.Letter{ID: "1", Time: time.Now(), Mail: events.Mail{To: to}, Subject: "x", Text: "x", HTML: "<p>x"}
}

func TestSMTPURLs(t *testing.T) {
	t.Parallel()
	from := &netmail.Address{Address: "no-reply@acme.example"}
	for url, want := range map[string]string{
		"smtp://mail.example":                                "smtp://mail.example:587",
		"smtp://u:hunter22@mail.example:2525":                "smtp://mail.example:2525",
		"smtps://u:hunter22@mail.example":                    "smtps://mail.example:465",
		"smtp://mail.example:25?tls=none":                    "smtp://mail.example:25",
		"smtp://mail.example:25?tls=opportunistic":           "smtp://mail.example:25",
		"smtp://u:hunter22@127.0.0.1?tls=none":               "smtp://127.0.0.1:587",
		"smtp://[::1]:25/?tls=none":                          "smtp://[::1]:25",
		"":                                                   "",
		"mail.example:587":                                   "",
		"http://mail.example":                                "",
		"smtp://":                                            "",
		"smtp://u:hunter22@mail.example:0":                   "",
		"smtp://u:hunter22@mail.example/path":                "",
		"smtp://u:hunter22@mail.example?tls=maybe":           "",
		"smtp://u:hunter22@mail.example?tls=none&x=hunter22": "",
		"smtp://u:hunter22@mail.example?starttls=hunter22":   "",
		"smtps://mail.example?tls=none":                      "",
		"smtp://u:hunter22@mail.example?tls=none":            "",
		"smtp://u:hunter22@mail.example?tls=opportunistic":   "",
		"smtp://u:hunter22@mail.example:%zz":                 "",
	} {
		s, err := mail.NewSMTP(url, from)
		switch {
		case want == "" && (err == nil || strings.Contains(err.Error(), "hunter22")):
			t.Errorf("%s: %v, %v", url, s, err)
		case want != "" && (err != nil || s.String() != want):
			t.Errorf("%s: %v, %v, want %s", url, s, err, want)
		}
	}
}

// Who is not the mailer reads no mail.
func TestOnlyTheMailerConsumes(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.ask(t, events.Mail{To: "ada@example.com"})
	running(t, p.mailer(t).Run)
	p.smtp.Wait(t, "ada@example.com")
	for _, role := range []string{embedded.App, embedded.Edge, embedded.Service, embedded.Subscriber} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		js := p.dial(t, role)
		js.Conn().SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // which says that it may not
		if _, err := js.Consumer(ctx, events.MailStream, mail.Consumer); err == nil {
			t.Errorf("%s sees the consumer", role)
		}
		if _, err := js.CreateConsumer(ctx, events.MailStream, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy}); err == nil {
			t.Errorf("%s makes a consumer", role)
		}
		cancel()
	}
}

// Not parallel: others' goroutines would be taken for its own.
func TestNoGoroutineStays(t *testing.T) {
	p := start(t)
	m := p.mailer(t)
	once := func() {
		stop := running(t, m.Run)
		p.ask(t, events.Mail{To: "ada@example.com"})
		p.smtp.Wait(t, "ada@example.com")
		p.settled(t)
		stop()
	}
	once() // the server has goroutines for the consumer from now on
	before := goleak.IgnoreCurrent()
	once()
	goleak.VerifyNone(t, before)
}

func TestOneLetterStandsOnceInTheMailbox(t *testing.T) {
	t.Parallel()
	p := start(t)
	var box mail.Mailbox
	m := p.mailer(t)
	m.Sender = &box
	running(t, m.Run)
	var ids []string
	for i := range 3 {
		ids = append(ids, p.ask(t, events.Mail{To: fmt.Sprintf("u%d@example.com", i)}))
		p.settled(t)
	}
	slices.Reverse(ids)
	if got := shown(t, &box); !slices.Equal(got, ids) {
		t.Errorf("%q, want %q", got, ids)
	}
}
