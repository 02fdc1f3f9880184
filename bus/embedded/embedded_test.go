package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/zyotra/auth/bus/embedded"
)

// crashDir makes this test binary a process that keeps a message in a server in that
// directory and waits to be killed.
const crashDir = "EMBEDDED_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		keepAndWait(dir)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// refuse starts a server that must not start, and returns why it did not.
func refuse(t *testing.T, c embedded.Config) error {
	t.Helper()
	s, err := embedded.Start(t.Context(), c)
	if err == nil {
		s.Shutdown()
		t.Fatal("the server started")
	}
	return err
}

// client is a connection and what its error handler hears.
type client struct {
	*nats.Conn
	errs chan error
}

// dial connects over the socket in a role.
func dial(t *testing.T, s *embedded.Server, role string) client {
	t.Helper()
	return dialURL(t, s.URL(), s.As(role))
}

func dialURL(t *testing.T, url string, options ...nats.Option) client {
	t.Helper()
	c := client{errs: make(chan error, 16)}
	var err error
	c.Conn, err = nats.Connect(url, append(options, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		c.errs <- err
	}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func jetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// keep stores one event in a stream.
func keep(ctx context.Context, js jetstream.JetStream, data string) error {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "AUTH_EVENTS", Subjects: []string{"user.>"}})
	if err != nil {
		return err
	}
	_, err = js.Publish(ctx, "user.registered", []byte(data))
	return err
}

func kept(t *testing.T, s *embedded.Server, seq uint64) string {
	t.Helper()
	js := jetStream(t, dial(t, s, embedded.Relay).Conn)
	stream, err := js.Stream(t.Context(), "AUTH_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	return string(msg.Data)
}

func TestStreamsOutliveRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir)
	if err := keep(t.Context(), jetStream(t, dial(t, first, embedded.Relay).Conn), "ada"); err != nil {
		t.Fatal(err)
	}
	first.Shutdown()

	if got := kept(t, start(t, dir), 1); got != "ada" {
		t.Errorf("kept %q", got)
	}
}

func TestStreamsOutliveKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "kept\n" {
		t.Errorf("process said %q, %v", line, err)
	}
	if err := refuse(t, embedded.Config{Dir: dir, Listen: embedded.Off}); !strings.Contains(err.Error(), "in use by another authd") {
		t.Errorf("second process in the directory: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed, so this is an error

	if got := kept(t, start(t, dir), 1); got != "before the crash" {
		t.Errorf("kept %q", got)
	}
}

func keepAndWait(dir string) {
	ctx := context.Background()
	s, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: embedded.Off})
	if err != nil {
		panic(err)
	}
	nc, err := nats.Connect("", s.InProcess(), s.As(embedded.Relay))
	if err != nil {
		panic(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	if err := keep(ctx, js, "before the crash"); err != nil {
		panic(err)
	}
	fmt.Println("kept")
	defer runtime.KeepAlive(s) // a server that is collected unlocks its directory
	select {}
}

func TestTakenPort(t *testing.T) {
	// Not parallel: it counts goroutines.
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir, addr := t.TempDir(), taken.Addr().String()

	err = refuse(t, embedded.Config{Dir: dir, Listen: addr})
	want := "NATS_LISTEN " + addr + ": address already in use (another authd or nats-server is running there?)"
	if err.Error() != want || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got  %v\nwant %s", err, want)
	}

	s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: embedded.Off})
	if err != nil {
		t.Fatalf("the failed start left something in the directory: %v", err)
	}
	s.Shutdown()
}

func TestShutdownLeavesNothing(t *testing.T) {
	// Not parallel: it counts goroutines.
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(s.URL(), s.As(embedded.Relay), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	if err := keep(t.Context(), jetStream(t, nc), "ada"); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(); err != nil {
		t.Errorf("running: %v", err)
	}
	addr := strings.TrimPrefix(s.URL(), "nats://")

	s.Shutdown()
	l, err := net.Listen("tcp", addr) // at once: Shutdown has waited
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	<-closed
	s.Shutdown()
	if err := s.Health(); err == nil {
		t.Error("healthy after shutdown")
	}
	select {
	case err := <-s.Failed():
		t.Errorf("a shutdown is no failure: %v", err)
	default:
	}
}

func TestOffDoesNotListen(t *testing.T) {
	// Not parallel: it counts listening sockets.
	before := listening(t)
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: embedded.Off})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	if s.URL() != "" {
		t.Errorf("URL %q", s.URL())
	}
	if after := listening(t); after != before {
		t.Errorf("%d listening sockets, %d before", after, before)
	}
	nc, err := nats.Connect("", s.InProcess(), s.As(embedded.Relay))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := keep(t.Context(), jetStream(t, nc), "ada"); err != nil {
		t.Error(err)
	}
}

// listening counts the listening TCP sockets of this process.
func listening(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(fds) == 0 {
		t.Skip("no /proc here")
	}
	for _, fd := range fds {
		var num int
		if _, err := fmt.Sscanf(filepath.Base(fd), "%d", &num); err != nil {
			t.Fatal(err)
		}
		if on, err := syscall.GetsockoptInt(num, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); err == nil && on == 1 {
			n++
		}
	}
	return n
}

func TestListen(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:-1": "nats://127.0.0.1:",
		"127.0.0.1:0":  "nats://127.0.0.1:",
		":0":           "nats://127.0.0.1:", // where the others on this machine find it
		"0.0.0.0:0":    "nats://127.0.0.1:",
		"localhost:0":  "nats://",
	} {
		s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: listen})
		if err != nil {
			t.Fatalf("%s: %v", listen, err)
		}
		if !strings.HasPrefix(s.URL(), want) {
			t.Errorf("%s: URL %s, want %s", listen, s.URL(), want)
		}
		nc, err := nats.Connect(s.URL(), s.As(embedded.App))
		if err != nil {
			t.Errorf("%s: connect to %q: %v", listen, s.URL(), err)
		} else {
			nc.Close()
		}
		s.Shutdown()
	}
	for _, listen := range []string{"", "4222", "127.0.0.1", "127.0.0.1:nats", "127.0.0.1:70000", "127.0.0.1:-2", "1:2:3", "nats://127.0.0.1:4222", "no.such.host.invalid:0"} {
		if err := refuse(t, embedded.Config{Dir: t.TempDir(), Listen: listen}); !strings.Contains(err.Error(), "NATS_LISTEN "+listen) &&
			!strings.Contains(err.Error(), fmt.Sprintf("NATS_LISTEN %q", listen)) {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// A directory's name is written into the configuration; no name may end the string there.
func TestDirNamesAreQuoted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`a "quoted" name`, `back\slash`, "$HOME", "new\nline", `x" } max_payload: 1 #`, "ünï", "bad\xff"} {
		dir := filepath.Join(t.TempDir(), name)
		start(t, dir)
		if _, err := os.Stat(filepath.Join(dir, "jetstream")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "data")
	s := start(t, dir)
	if err := keep(t.Context(), jetStream(t, dial(t, s, embedded.Relay).Conn), "ada"); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil // the store replaces files as it runs
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		files++
		return err
	})
	if err != nil || files < 10 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestStoreProblemFailsStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := refuse(t, embedded.Config{Dir: dir, Listen: embedded.Off})
	if !strings.Contains(err.Error(), "Can't start JetStream: storage directory is not a directory") {
		t.Error(err)
	}
}

func TestStartWithEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.Start(ctx, embedded.Config{Dir: t.TempDir(), Listen: embedded.Off}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The operator's log holds no word of a server that starts, serves and stops as it should.
func TestQuietAtInfo(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.Shutdown()
	if log.Len() > 0 {
		t.Error(log.String())
	}
}

// More consumers than the server's own default of 1000 for a stream that sets no limit.
func TestManyConsumers(t *testing.T) {
	t.Parallel()
	js := jetStream(t, dial(t, start(t, t.TempDir()), embedded.Relay).Conn)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"user.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1001 {
		_, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{MemoryStorage: true, InactiveThreshold: time.Hour})
		if err != nil {
			t.Fatalf("consumer %d: %v", i+1, err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := embedded.Start(b.Context(), embedded.Config{Dir: b.TempDir(), Listen: "127.0.0.1:0"})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Shutdown()
		b.StartTimer()
	}
}
