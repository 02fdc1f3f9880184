package accept_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/zyotra/auth/internal/accept"
)

// failing fails as often as there are errors, and then accepts.
type failing struct {
	net.Listener
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) == 0 {
		return f.Listener.Accept()
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestFailedAcceptIsRetried(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	exhausted := 0
	inner := listen(t)
	errs := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, io.EOF}
	l := accept.New(&failing{inner, errs}, slog.New(slog.NewTextHandler(&log, nil)))
	l.Exhausted = func() { exhausted++ }
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if exhausted != len(errs) {
		t.Errorf("Exhausted was called %d times, want %d", exhausted, len(errs))
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "too many open files") {
		t.Errorf("want one log line, got %q", log.String())
	}
}

func TestCloseEndsAnAcceptThatBacksOff(t *testing.T) {
	t.Parallel()
	errs := make([]error, 1000)
	for i := range errs {
		errs[i] = syscall.EMFILE
	}
	failed := make(chan struct{}, len(errs))
	l := accept.New(&failing{listen(t), errs}, slog.New(slog.DiscardHandler))
	l.Exhausted = func() { failed <- struct{}{} }
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	<-failed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returned %v", err)
	}
}
