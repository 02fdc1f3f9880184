package embedded_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zyotra/auth/bus/embedded"
)

// transcript is a log that may be read while it is written.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// What a stranger sends stands nowhere in the log, and however often they send it, the log stays short.
func TestTheLogHoldsNothingThatAClientSent(t *testing.T) {
	t.Parallel()
	var log transcript
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	const secret = "S3cretHorseBattery"
	lines := []string{
		"PUB auth.login _INBOX.z 20\r\n{\"email\":\"ada@example.com\",\"password\":\"" + secret + "\"}\r\n",
		"{\"password\":\"" + secret + "\"}\r\n",
		"PUB auth.login {\"password\":\"" + secret + "\"} x y\r\n",
		"HPUB auth.login " + secret + " a b c d\r\n",
		"SUB " + secret + " a b c d\r\n",
		"UNSUB " + secret + " a b c\r\n",
	}
	for range 20 {
		for _, line := range lines {
			sendRaw(t, strings.TrimPrefix(s.URL(), "nats://"), "CONNECT {\"name\":\"a - b\"}\r\n"+line)
		}
	}
	for begun := time.Now(); strings.Count(log.String(), "(what the client sent)") < 5; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("the faults are not logged:\n%s", &log)
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log holds what was sent:\n%s", &log)
	}
	if n := strings.Count(log.String(), "\n"); n > 40 {
		t.Errorf("%d lines for %d faults", n, 20*len(lines))
	}
}

// sendRaw sends text over a connection of its own and waits until the server closes it.
func sendRaw(t *testing.T, address, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, _ = io.Copy(io.Discard, conn)
}
