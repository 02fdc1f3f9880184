// Package testauthd starts authd for end-to-end tests: the real program in a process of its
// own, which the test asks over HTTP and NATS and can kill.
//
//	testauthd.go  a process: start it, wait for its log, stop it
//	program.go    the program that such a process runs
//	exchange.go   requests and answers, and expectations of them
//	described.go  compares them with openapi.json and asyncapi.json
//	fixtures.go   flags, accounts and servers that tests share
//
// The program is the test binary of cmd/authd, because it ends with the test process and can
// run with another clock. A process ends with its test, and with the test process however that
// one ends.
//
// It must not be used outside of tests.
package testauthd

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// Patience bounds every wait for a condition. Only a failing test waits that long, so it is far
	// more than a busy machine needs, with the race detector too.
	Patience = 2 * time.Minute

	// HashQueueWait lets logins wait for long, because all tests hash concurrently and few test that.
	HashQueueWait = "8s"

	// LeastCost is the lowest cost of bcrypt, one millisecond a hash. The test binary of cmd/authd
	// accepts it. With the default cost, hashing would take two thirds of the time of the tests.
	LeastCost = 4
)

// ListenAnywhere returns the flags of every instance: free ports and a log in JSON.
func ListenAnywhere() []string {
	return []string{"--port=0", "--nats-listen=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--log-format=json"}
}

// Instance is an authd that was started. A test that runs authd in its own process fills in
// Dir, Stderr, Signal and Exited itself.
type Instance struct {
	HTTP, NATS string // URLs it listens on, once it is ready
	Mailbox    string // URL of the mailbox, "" if there is none
	Metrics    string // URL of the metrics, "" if they are not served
	Dir        string // its working directory; its files are in data
	Stderr     *Transcript
	Signal     func(os.Signal) error
	Exited     chan struct{} // closed when it has ended
	Code       int           // exit code, -1 if a signal ended it; valid after Exited
	Foreign    bool          // another program answers as well, which openapi.json does not describe
}

// Start runs authd in a process and a directory of its own and waits until it is ready.
func Start(t testing.TB, args ...string) *Instance {
	t.Helper()
	return Launch(t, t.TempDir(), args...).Ready(t)
}

// Launch runs authd in a process of its own, in a directory, and does not wait.
func Launch(t testing.TB, dir string, args ...string) *Instance {
	t.Helper()
	return Execute(t, dir, Command(t, Owned, append(WithLeastCost(args), ListenAnywhere()...)...))
}

// WithLeastCost adds --bcrypt-cost=LeastCost to flags that have no cost.
func WithLeastCost(args []string) []string {
	return WithDefault(args, "--bcrypt-cost", strconv.Itoa(LeastCost))
}

// WithDefault prepends a flag to arguments that do not have it.
func WithDefault(args []string, flag, value string) []string {
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, flag) }) {
		return args
	}
	return slices.Concat([]string{flag + "=" + value}, args)
}

// Execute runs a command of authd in a directory. Its environment holds the settings of cmd.Env
// and no other.
func Execute(t testing.TB, dir string, cmd *exec.Cmd) *Instance {
	t.Helper()
	if UsesOpenNATS(cmd.Args) {
		cmd.Env = append(cmd.Env, "NATS_OPEN=on")
	}
	a := &Instance{Dir: dir, Stderr: NewTranscript(), Exited: make(chan struct{})}
	cmd.Dir, cmd.Stderr, cmd.Stdout = dir, a.Stderr, io.Discard
	cmd.Env = append(append(cmd.Env, environment()...), "HASH_QUEUE_WAIT="+HashQueueWait)
	hold, err := cmd.StdinPipe()
	Check(t, err)
	Check(t, cmd.Start())
	a.Signal = cmd.Process.Signal
	go func() {
		_ = cmd.Wait() // the exit code holds the same
		a.Code = cmd.ProcessState.ExitCode()
		close(a.Exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-a.Exited
		_ = hold.Close()
		if t.Failed() {
			t.Logf("authd %v:\n%s", cmd.Args[1:], a.Stderr)
		}
	})
	return a
}

// environment is the part of the test's environment that every process needs.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
}

// Run runs a command of authd that ends by itself, in a directory, and returns its standard output.
func Run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := Command(t, "authd", args...)
	cmd.Dir, cmd.Env = dir, environment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("authd %v: %v\n%s", args, err, &stderr)
	}
	return string(out)
}

// UsesOpenNATS reports whether the flags name an external server without credentials for it: a
// server of the tests, which restricts no client.
func UsesOpenNATS(args []string) bool {
	has := func(prefix string) bool {
		return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, prefix) })
	}
	return has("--nats-url=") && !has("--nats-nkey-seed-file=") && !has("--nats-creds=")
}

// Ready waits until authd serves and reads its addresses from the log.
func (a *Instance) Ready(t testing.TB) *Instance {
	t.Helper()
	var line struct{ HTTP, NATS, Mailbox, Metrics string }
	Check(t, json.Unmarshal([]byte(a.Line(t, `"msg":"ready"`)), &line))
	a.HTTP, a.NATS, a.Mailbox, a.Metrics = line.HTTP, line.NATS, line.Mailbox, line.Metrics
	return a
}

// Reach returns the flags of a command that asks the embedded server of the instance.
func (a *Instance) Reach() []string {
	return []string{"--nats-listen=" + strings.TrimPrefix(a.NATS, "nats://"), "--data-dir=" + filepath.Join(a.Dir, "data")}
}

// Line waits for a line on standard error that holds the text.
func (a *Instance) Line(t testing.TB, text string) string {
	t.Helper()
	late := time.After(Patience)
	for {
		more := a.Stderr.grown()
		for line := range strings.Lines(a.Stderr.String()) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-more:
		case <-a.Exited:
			t.Fatalf("authd ended with %d before it said %s:\n%s", a.Code, text, a.Stderr)
		case <-late:
			t.Fatalf("authd did not say %s:\n%s", text, a.Stderr)
		}
	}
}

// Wait returns the exit code of an authd that ends by itself.
func (a *Instance) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-a.Exited:
	case <-time.After(within):
		t.Fatalf("authd still runs after %s:\n%s", within, a.Stderr)
	}
	return a.Code
}

// Stop ends authd as an operator would and expects it to exit with 0.
func (a *Instance) Stop(t testing.TB) {
	t.Helper()
	Check(t, a.Signal(syscall.SIGTERM))
	if code := a.Wait(t, Patience); code != 0 {
		t.Fatalf("exit code %d after SIGTERM\n%s", code, a.Stderr)
	}
}

// Kill ends authd with SIGKILL.
func (a *Instance) Kill(t testing.TB) {
	t.Helper()
	Check(t, a.Signal(syscall.SIGKILL))
	<-a.Exited
}

// Refused expects an authd that was launched to end by itself with the code and one line
// on standard error that holds all the texts.
func (a *Instance) Refused(t testing.TB, code int, texts ...string) {
	t.Helper()
	if got := a.Wait(t, Patience); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	var said []string // the lines that are no record of the log
	for line := range strings.Lines(a.Stderr.String()) {
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

// Transcript keeps the output of a process and announces when there is more.
type Transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

// NewTranscript returns an empty transcript.
func NewTranscript() *Transcript { return &Transcript{more: make(chan struct{})} }

func (tr *Transcript) Write(p []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	close(tr.more)
	tr.more = make(chan struct{})
	return tr.text.Write(p)
}

// grown returns a channel that is closed by the next Write.
func (tr *Transcript) grown() <-chan struct{} {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.more
}

func (tr *Transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.String()
}
