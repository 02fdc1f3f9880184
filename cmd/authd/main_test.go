package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zyotra/auth/bus/embedded"
)

// The tests use authd as others do: literal JSON over sockets, with the real program either
// in this process (startInside) or in one of its own (start), which can be killed. For that
// the test binary is put into PATH under the names below.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"authd": main, "owned-authd": owned, "owned-authd-ahead": ownedAhead, "owned-authd-behind": ownedBehind,
		"owned-nats": ownedNATS,
	})
}

// owned is authd that ends with the test process, however that one ends: it holds the
// other end of our standard input.
func owned() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(99)
	}()
	os.Exit(program()) // not in the background: other tests keep the cores busy
}

const (
	// patience bounds every wait for a condition. Only a failing test waits that long, so it is far
	// more than a busy machine needs, with the race detector too.
	patience = 2 * time.Minute

	masterSecret = "q0bTBAFl3iYwZzG7M1nRk5xW9dVhPcJ2sUeXoL8aKtY="
	credentials  = `{"email":"ada@example.com","password":"correct horse battery"}`
)

// listenAnywhere are the flags of every instance.
var listenAnywhere = []string{"--port=0", "--nats-listen=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--log-format=json"}

// instance is an authd that was started.
type instance struct {
	http, nats string // where it listens, once it is ready
	mailbox    string // URL of the mailbox, if there is one
	metrics    string // URL of the metrics, if they are shown
	dir        string // its working directory; its files are in data
	stderr     *transcript
	signal     func(os.Signal) error
	exited     chan struct{} // closed when it has ended
	foreign    bool          // something else answers as well, which openapi.json does not describe
	code       int           // exit code, -1 if a signal ended it; read it after exited
}

// start runs authd in a process and a directory of its own and waits until it is ready.
func start(t *testing.T, args ...string) *instance {
	t.Helper()
	return launch(t, t.TempDir(), args...).ready(t)
}

// hashQueueWait lets logins wait for long: all tests hash at once, and few are about that.
const hashQueueWait = "8s"

// launch runs authd in a process of its own. Its environment holds no other setting.
func launch(t *testing.T, dir string, args ...string) *instance {
	t.Helper()
	return execute(t, dir, exec.Command("owned-authd", append(args, listenAnywhere...)...))
}

func execute(t *testing.T, dir string, cmd *exec.Cmd) *instance {
	t.Helper()
	if usesOpenNATS(cmd.Args) {
		cmd.Env = append(cmd.Env, "NATS_OPEN=on")
	}
	a := &instance{dir: dir, stderr: newTranscript(), exited: make(chan struct{})}
	cmd.Dir, cmd.Stderr, cmd.Stdout = dir, a.stderr, io.Discard
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "TMPDIR="+os.TempDir(), "GOCOVERDIR="+os.Getenv("GOCOVERDIR"), "HASH_QUEUE_WAIT="+hashQueueWait)
	hold, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	a.signal = cmd.Process.Signal
	go func() {
		_ = cmd.Wait() // the code says it all
		a.code = cmd.ProcessState.ExitCode()
		close(a.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-a.exited
		_ = hold.Close()
		if t.Failed() {
			t.Logf("authd %v:\n%s", cmd.Args[1:], a.stderr)
		}
	})
	return a
}

// startInside runs authd in this process and waits until it is ready. Every signal is one to
// stop.
func startInside(t *testing.T, args ...string) *instance {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	a := &instance{
		dir: dir, stderr: newTranscript(), exited: make(chan struct{}),
		signal: func(os.Signal) error { cancel(); return nil },
	}
	if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--hash-queue-wait") }) {
		args = append([]string{"--hash-queue-wait=" + hashQueueWait}, args...)
	}
	if usesOpenNATS(args) {
		args = append([]string{"--nats-open=on"}, args...)
	}
	args = slices.Concat([]string{"--data-dir=" + filepath.Join(dir, "data")}, listenAnywhere, args)
	go func() {
		a.code = run(ctx, args, io.Discard, a.stderr)
		close(a.exited)
	}()
	t.Cleanup(func() {
		cancel()
		if code := a.wait(t, patience); code != exitStopped {
			t.Errorf("exit code %d\n%s", code, a.stderr)
		}
	})
	return a.ready(t)
}

// usesOpenNATS reports whether the flags name an external server without credentials for it: the tests'
// own, which restricts nobody.
func usesOpenNATS(args []string) bool {
	has := func(prefix string) bool {
		return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, prefix) })
	}
	return has("--nats-url=") && !has("--nats-nkey-seed-file=") && !has("--nats-creds=")
}

// ready waits until authd serves and learns where.
func (a *instance) ready(t *testing.T) *instance {
	t.Helper()
	var line struct{ HTTP, NATS, Mailbox, Metrics string }
	check(t, json.Unmarshal([]byte(a.line(t, `"msg":"ready"`)), &line))
	a.http, a.nats, a.mailbox, a.metrics = line.HTTP, line.NATS, line.Mailbox, line.Metrics
	return a
}

// line waits for a line on standard error that holds the text.
func (a *instance) line(t *testing.T, text string) string {
	t.Helper()
	late := time.After(patience)
	for {
		more := a.stderr.grown()
		for line := range strings.Lines(a.stderr.String()) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-more:
		case <-a.exited:
			t.Fatalf("authd ended with %d before it said %s:\n%s", a.code, text, a.stderr)
		case <-late:
			t.Fatalf("authd did not say %s:\n%s", text, a.stderr)
		}
	}
}

// wait returns the exit code of an authd that ends by itself.
func (a *instance) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-a.exited:
	case <-time.After(within):
		t.Fatalf("authd still runs after %s:\n%s", within, a.stderr)
	}
	return a.code
}

// stop ends authd as an operator would and wants it to exit with 0.
func (a *instance) stop(t *testing.T) {
	t.Helper()
	check(t, a.signal(syscall.SIGTERM))
	if code := a.wait(t, patience); code != exitStopped {
		t.Fatalf("exit code %d after SIGTERM\n%s", code, a.stderr)
	}
}

// refused wants an authd that was launched to end by itself with the code and one line
// on standard error that holds all the texts.
func (a *instance) refused(t *testing.T, code int, texts ...string) {
	t.Helper()
	if got := a.wait(t, patience); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	var said []string // what is not a record of the log
	for line := range strings.Lines(a.stderr.String()) {
		if !strings.HasPrefix(line, "{") {
			said = append(said, line)
		}
	}
	if len(said) != 1 {
		t.Fatalf("want one line, got %q", said)
	}
	for _, text := range texts {
		if !strings.Contains(said[0], text) {
			t.Errorf("%q does not say %q", said[0], text)
		}
	}
}

// transcript keeps what is written and tells when there is more.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

func (tr *transcript) Write(p []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	close(tr.more)
	tr.more = make(chan struct{})
	return tr.text.Write(p)
}

func (tr *transcript) grown() <-chan struct{} {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.more
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.String()
}

// exchange is a request and its answer, over HTTP or NATS.
type exchange struct {
	Request, Answer message
}

// message is one side of an exchange.
type message struct {
	To     string              `json:"to,omitempty"`     // "POST /login", or a subject
	Status int                 `json:"status,omitempty"` // HTTP
	Header map[string][]string `json:"header,omitempty"`
	Body   string              `json:"-"`
}

// bearer is the header of a request on behalf of a user.
func bearer(token string) map[string][]string {
	return map[string][]string{"Authorization": {"Bearer " + token}}
}

// post sends JSON.
func (a *instance) post(t *testing.T, path, body string) exchange {
	t.Helper()
	return a.do(t, "POST "+path, map[string][]string{"Content-Type": {"application/json"}}, body)
}

// get sends an access token, unless it is empty.
func (a *instance) get(t *testing.T, path, token string) exchange {
	t.Helper()
	if token == "" {
		return a.do(t, "GET "+path, nil, "")
	}
	return a.do(t, "GET "+path, bearer(token), "")
}

// client never hangs and follows nothing.
var client = http.Client{
	Timeout:       patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (a *instance) do(t *testing.T, line string, header map[string][]string, body string) exchange {
	t.Helper()
	e, err := a.try(line, header, body)
	check(t, err)
	return e
}

// try is do for requests that may fail, and for goroutines. An exchange that openapi.json does
// not describe is an error too.
func (a *instance) try(line string, header map[string][]string, body string) (exchange, error) {
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequest(method, a.http+path, strings.NewReader(body))
	if err != nil {
		return exchange{}, err
	}
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	if err != nil {
		return exchange{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return exchange{}, err
	}
	e := exchange{
		message{To: line, Header: header, Body: body},
		message{Status: resp.StatusCode, Header: resp.Header, Body: string(content)},
	}
	if a.foreign {
		return e, nil
	}
	return e, e.asDescribed()
}

// served is try for a request that may be repeated: it asks again while a busy machine answers 503.
func (a *instance) served(line string, header map[string][]string, body string) (e exchange, err error) {
	for late := time.Now().Add(patience); ; {
		e, err = a.try(line, header, body)
		if err != nil || e.Answer.Status != http.StatusServiceUnavailable || time.Now().After(late) {
			return e, err
		}
	}
}

// ask sends a request over NATS and waits for its reply.
func ask(t *testing.T, conn *nats.Conn, subject string, header map[string][]string, body string) exchange {
	t.Helper()
	reply, err := conn.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: []byte(body)}, patience)
	check(t, err)
	return exchange{
		message{To: subject, Header: header, Body: body},
		message{Header: reply.Header, Body: string(reply.Data)},
	}
}

// connect is a client of the bus, without credentials unless the options bring some.
func connect(t *testing.T, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, options...)
	check(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// asApp connects as other services do: with the key of the role app on the embedded server, and without
// any where the tests' own server restricts nobody.
func (a *instance) asApp(t *testing.T) *nats.Conn {
	t.Helper()
	files := filepath.Join(a.dir, "data", "nats")
	if _, err := os.Stat(embedded.SeedFile(files, embedded.App)); err != nil {
		return connect(t, a.nats)
	}
	return connect(t, a.nats, embedded.Credentials(files, embedded.App))
}

// withJetStream is a server that keeps streams.
func withJetStream(t *testing.T) server.Options {
	t.Helper()
	return server.Options{JetStream: true, StoreDir: t.TempDir()}
}

// externalNATS is a cluster of one that knows nothing of authd.
func externalNATS(t *testing.T, o server.Options) (url string) {
	t.Helper()
	o.Host, o.Port, o.NoLog, o.NoSigs = "127.0.0.1", -1, true, true
	ns, err := server.NewServer(&o)
	check(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not come up")
	}
	return "nats://" + ns.Addr().String()
}

// answered wants an answer over HTTP: its status and its JSON, in which volatile values are
// masked.
func (e exchange) answered(t *testing.T, status int, body string) {
	t.Helper()
	if e.Answer.Status != status || canonical(t, mask(e.Answer.Body)) != canonical(t, body) {
		t.Fatalf("%s: %d %s\nwant %d %s", e.Request.To, e.Answer.Status, e.Answer.Body, status, body)
	}
}

// replied wants a reply over NATS that is no error.
func (e exchange) replied(t *testing.T, body string) {
	t.Helper()
	if len(e.Answer.Header) != 0 || canonical(t, mask(e.Answer.Body)) != canonical(t, body) {
		t.Fatalf("%s: %v %s\nwant %s", e.Request.To, e.Answer.Header, e.Answer.Body, body)
	}
}

// refused wants an error of either door, with these fields or, if they are empty, none.
func (e exchange) refused(t *testing.T, status int, code, fields string) {
	t.Helper()
	var body struct{ Message string }
	if err := json.Unmarshal([]byte(e.Answer.Body), &body); err != nil || body.Message == "" {
		t.Fatalf("%s: %d %v %q has no message: %v", e.Request.To, e.Answer.Status, e.Answer.Header, e.Answer.Body, err)
	}
	want := map[string]any{"code": code, "message": body.Message}
	header := map[string]string{"Nats-Service-Error": body.Message, "Nats-Service-Error-Code": strconv.Itoa(status)}
	if e.Answer.Status != 0 {
		want["type"], want["title"] = "urn:zyotra:auth:problem:"+code, http.StatusText(status)
		want["status"], want["detail"] = status, body.Message
		header = problemHeader(status, code)
		e.secured(t)
	}
	if fields != "" {
		want["fields"] = json.RawMessage(fields)
	}
	if got, want := canonical(t, e.Answer.Body), canonical(t, encode(t, want)); got != want {
		t.Fatalf("%s: got %s\nwant %s", e.Request.To, got, want)
	}
	if e.Answer.Status != 0 && e.Answer.Status != status {
		t.Errorf("%s: status %d, want %d", e.Request.To, e.Answer.Status, status)
	}
	e.has(t, header)
}

// problemHeader is what a problem has beside the headers of every answer.
func problemHeader(status int, code string) map[string]string {
	header := map[string]string{"Content-Type": "application/problem+json"}
	switch status {
	case http.StatusUnauthorized:
		header["Www-Authenticate"] = `Bearer realm="zyotra"`
		if strings.Contains(code, "token") { // RFC 6750 §3: one was presented
			header["Www-Authenticate"] += `, error="invalid_token"`
		}
	case http.StatusServiceUnavailable:
		header["Retry-After"] = "1"
	}
	return header
}

// secured wants the headers of every answer over HTTP.
func (e exchange) secured(t *testing.T) {
	t.Helper()
	e.has(t, map[string]string{
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains",
		"X-Content-Type-Options":    "nosniff",
		"Referrer-Policy":           "no-referrer",
		"Content-Security-Policy":   "default-src 'none'; frame-ancestors 'none'",
		"Cache-Control":             "no-store",
	})
	if server, ok := e.Answer.Header["Server"]; ok {
		t.Errorf("%s: the server names itself %q", e.Request.To, server)
	}
}

// has wants each of the headers once, with the value.
func (e exchange) has(t *testing.T, header map[string]string) {
	t.Helper()
	for name, want := range header {
		if got := e.Answer.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %s is %q, want %q", e.Request.To, name, got, want)
		}
	}
}

// member returns a string that the answer has.
func (e exchange) member(t *testing.T, name string) string {
	t.Helper()
	var members map[string]any
	check(t, json.Unmarshal([]byte(e.Answer.Body), &members))
	value, ok := members[name].(string)
	if !ok {
		t.Fatalf("%s: no %s in %s", e.Request.To, name, e.Answer.Body)
	}
	return value
}

// volatile are values that differ from run to run. A value of another form stays as it is
// and shows.
var volatile = []struct{ pattern, name string }{
	{`eyJ[\w-]+\.[\w-]+\.[\w-]+`, "<token>"},
	{`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z`, "<time>"},
	{`\b[0-9a-v]{36}\b`, "<session>"},
	{`max-age=1(296000|2959\d\d);`, "max-age=<seconds>;"}, // of the refresh cookie
	{`"cursor":"\d+\.\d+"`, `"cursor":"<cursor>"`},
	{`"recent":"\d+\.\d+"`, `"recent":"<cursor>"`},
	{`"(kid|ce-subject)":"[\w-]{16}"`, `"$1":"<kid>"`},
	{`\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b`, "<uuid>"},
	{`"sequence":\d+`, `"sequence":"<sequence>"`},
	{`"x":"[\w-]{43}"`, `"x":"<key>"`},
	{`"token":"[A-Z2-7]{26}"`, `"token":"<link>"`},
	{`"secret":"[A-Z2-7]{26}"`, `"secret":"<secret>"`},
	{`__Host-registration=[A-Z2-7]{26};`, "__Host-registration=<secret>;"},
	{`"code":"\d{8}"`, `"code":"<code>"`},
}

func mask(text string) string {
	for _, v := range volatile {
		text = regexp.MustCompile(v.pattern).ReplaceAllString(text, v.name)
	}
	return text
}

// canonical writes JSON in one way. The empty text stays empty.
func canonical(t *testing.T, text string) string {
	t.Helper()
	if text == "" {
		return ""
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q is not JSON: %v", text, err)
	}
	return encode(t, value)
}

func encode(t *testing.T, value any) string {
	t.Helper()
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	check(t, e.Encode(value))
	return text.String()
}

// until asks again and again whether something has become so. It is for what nobody
// announces.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); !so(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still not: %s", what)
		}
	}
}

// all runs fn n times at once and returns when all have returned.
func all(n int, fn func(i int) error) error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = fn(i) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
