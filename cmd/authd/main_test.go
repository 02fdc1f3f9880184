package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testoutbox"
)

// The tests use authd as other programs do: literal JSON over sockets. The real program runs in the
// test process (startInside) or in a separate one (start), which can be killed. The harness is
// internal/testauthd, which tests of other packages use too. This file gives its parts the names
// that the tests of this package use, and adds startInside.

// TestMain puts the test binary into PATH under the names that internal/testauthd runs.
func TestMain(m *testing.M) {
	leastCost = testauthd.LeastCost
	testscript.Main(m, map[string]func(){
		"authd": released, testauthd.Owned: owned, testauthd.OwnedAhead: ownedAhead, testauthd.OwnedBehind: ownedBehind,
	})
}

// released is authd as it is released.
func released() {
	leastCost = password.MinCost
	main()
}

// owned is authd that ends with the test process, however that one ends: the test process holds
// the other end of its standard input.
func owned() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(99)
	}()
	os.Exit(program()) // not in the background: other tests keep the cores busy
}

// clockSkew is how far the clocks of ownedAhead and ownedBehind are off.
const clockSkew = 30 * time.Second

// ownedAhead and ownedBehind are the same program with another time. No setting does that.
func ownedAhead()  { machineClock = clockOff(clockSkew); owned() }
func ownedBehind() { machineClock = clockOff(-clockSkew); owned() }

func clockOff(by time.Duration) func() *clock.Clock {
	return func() *clock.Clock {
		return clock.New(clock.Wall(func() time.Time { return time.Now().Add(by) }), clock.Tolerance)
	}
}

const (
	patience     = testauthd.Patience
	masterSecret = testauthd.MasterSecret
	credentials  = testauthd.Credentials
)

var (
	listenAnywhere = testauthd.ListenAnywhere()
	usesOpenNATS   = testauthd.UsesOpenNATS
	externalNATS   = testauthd.ExternalNATS
	withJetStream  = testauthd.WithJetStream
	connect        = testauthd.Connect
	newTranscript  = testauthd.NewTranscript
	bearer         = testauthd.Bearer
	mask           = testauthd.Mask
	encode         = testauthd.Encode
	until          = testauthd.Until
	all            = testauthd.All
	check          = testauthd.Check
	chaos          = testauthd.Chaos
	moment         = testauthd.Moment
	taken          = testauthd.Taken

	client = &testauthd.Client
)

// instance is a testauthd.Instance with the names of this package.
type instance struct {
	process *testauthd.Instance // nil for an address alone

	http, nats, mailbox, metrics string
	dir                          string
	stderr                       *testauthd.Transcript
	signal                       func(os.Signal) error
	exited                       <-chan struct{}
	foreign                      bool // another program answers as well, which openapi.json does not describe
}

func named(a *testauthd.Instance) *instance {
	return &instance{
		process: a, http: a.HTTP, nats: a.NATS, mailbox: a.Mailbox, metrics: a.Metrics,
		dir: a.Dir, stderr: a.Stderr, signal: a.Signal, exited: a.Exited,
	}
}

// start runs authd in a process and a directory of its own and waits until it is ready.
func start(t *testing.T, args ...string) *instance {
	t.Helper()
	return named(testauthd.Start(t, args...))
}

// launch runs authd in a process of its own, in a directory, and does not wait.
func launch(t *testing.T, dir string, args ...string) *instance {
	t.Helper()
	return named(testauthd.Launch(t, dir, args...))
}

func execute(t *testing.T, dir string, cmd *exec.Cmd) *instance {
	t.Helper()
	return named(testauthd.Execute(t, dir, cmd))
}

// startInside runs authd in this process and waits until it is ready. Every signal stops it.
func startInside(t *testing.T, args ...string) *instance {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	a := &testauthd.Instance{
		Dir: dir, Stderr: newTranscript(), Exited: make(chan struct{}),
		Signal: func(os.Signal) error { cancel(); return nil },
	}
	args = testauthd.WithDefault(args, "--hash-queue-wait", testauthd.HashQueueWait)
	if usesOpenNATS(args) {
		args = append([]string{"--nats-open=on"}, args...)
	}
	args = slices.Concat([]string{"--data-dir=" + filepath.Join(dir, "data")}, listenAnywhere, testauthd.WithLeastCost(args))
	go func() {
		a.Code = run(ctx, args, io.Discard, a.Stderr)
		close(a.Exited)
	}()
	t.Cleanup(func() {
		cancel()
		if code := a.Wait(t, patience); code != exitStopped {
			t.Errorf("exit code %d\n%s", code, a.Stderr)
		}
	})
	return named(a.Ready(t))
}

// ready waits until authd serves and reads its addresses from the log.
func (a *instance) ready(t *testing.T) *instance {
	t.Helper()
	*a = *named(a.process.Ready(t))
	return a
}

func (a *instance) line(t *testing.T, text string) string {
	t.Helper()
	return a.process.Line(t, text)
}

func (a *instance) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	return a.process.Wait(t, within)
}

func (a *instance) stop(t *testing.T) {
	t.Helper()
	a.process.Stop(t)
}

func (a *instance) refused(t *testing.T, code int, texts ...string) {
	t.Helper()
	a.process.Refused(t, code, texts...)
}

// reach returns the flags of a command that asks the embedded server of the instance.
func (a *instance) reach() []string {
	return (&testauthd.Instance{NATS: a.nats, Dir: a.dir}).Reach()
}

// told waits until the events of an instance on SQLite are published.
func (a *instance) told(t *testing.T) {
	t.Helper()
	testoutbox.PublishedOf(t, a.dir)
}

// command runs a command that ends, in a directory, and returns its standard output.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return testauthd.Run(t, dir, args...)
}

// asApp connects as other services do.
func (a *instance) asApp(t *testing.T) *nats.Conn {
	t.Helper()
	return a.process.AsApp(t)
}

// exchange and message are those of testauthd with the names of this package.
type (
	exchange struct{ Request, Answer message }
	message  testauthd.Message
)

func namedExchange(e testauthd.Exchange) exchange {
	return exchange{message(e.Request), message(e.Answer)}
}

func (e exchange) shared() testauthd.Exchange {
	return testauthd.Exchange{Request: testauthd.Message(e.Request), Answer: testauthd.Message(e.Answer)}
}

// post sends JSON.
func (a *instance) post(t *testing.T, path, body string) exchange {
	t.Helper()
	return a.do(t, "POST "+path, testauthd.JSON(), body)
}

// get sends an access token, unless it is empty.
func (a *instance) get(t *testing.T, path, token string) exchange {
	t.Helper()
	if token == "" {
		return a.do(t, "GET "+path, nil, "")
	}
	return a.do(t, "GET "+path, bearer(token), "")
}

func (a *instance) do(t *testing.T, line string, header map[string][]string, body string) exchange {
	t.Helper()
	e, err := a.try(line, header, body)
	check(t, err)
	return e
}

// at is the address as testauthd asks it.
func (a *instance) at() *testauthd.Instance {
	return &testauthd.Instance{HTTP: a.http, Foreign: a.foreign}
}

// try is do for requests that may fail, and for goroutines.
func (a *instance) try(line string, header map[string][]string, body string) (exchange, error) {
	e, err := a.at().Try(line, header, body)
	return namedExchange(e), err
}

// served is try for a request that may be repeated: it sends the request again while a busy machine
// answers 503.
func (a *instance) served(line string, header map[string][]string, body string) (exchange, error) {
	e, err := a.at().Served(line, header, body)
	return namedExchange(e), err
}

// ask sends a request over NATS and waits for its reply.
func ask(t *testing.T, conn *nats.Conn, subject string, header map[string][]string, body string) exchange {
	t.Helper()
	return namedExchange(testauthd.Ask(t, conn, subject, header, body))
}

func (e exchange) answered(t *testing.T, status int, body string) {
	t.Helper()
	e.shared().Answered(t, status, body)
}

func (e exchange) replied(t *testing.T, body string) {
	t.Helper()
	e.shared().Replied(t, body)
}

func (e exchange) refused(t *testing.T, status int, code, fields string) {
	t.Helper()
	e.shared().Refused(t, status, code, fields)
}

func (e exchange) secured(t *testing.T) {
	t.Helper()
	e.shared().Secured(t)
}

func (e exchange) has(t *testing.T, header map[string]string) {
	t.Helper()
	e.shared().Has(t, header)
}

func (e exchange) member(t *testing.T, name string) string {
	t.Helper()
	return e.shared().Member(t, name)
}

func (e exchange) done(t *testing.T) exchange {
	t.Helper()
	e.shared().Done(t)
	return e
}
