package embedded_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/zyotra/auth/bus/embedded"
)

// Guests together may hold a quarter of the connections. Clients with keys still come in then.
func TestGuestsLeaveConnectionsToOthers(t *testing.T) {
	s := start(t, t.TempDir())
	const connections, quarter = 4096, 1024
	refused := ""
	for n := range connections {
		answer := greet(t, strings.TrimPrefix(s.URL(), "nats://"))
		if answer == "PONG" {
			continue
		}
		if refused = answer; n != quarter {
			t.Errorf("%d guests came in, not %d", n, quarter)
		}
		break
	}
	if !strings.Contains(refused, "maximum account active connections exceeded") {
		t.Errorf("the next guest: %q", refused)
	}
	for _, role := range []string{embedded.App, embedded.Admin, embedded.Edge} {
		if err := dial(t, s, role).Flush(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// greet connects without credentials and returns what the server answers, PONG if it lets the client
// in. The connection stays open until the test ends.
func greet(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "CONNECT {\"verbose\":false}\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if line := lines.Text(); !strings.HasPrefix(line, "INFO ") && line != "PING" {
			return line
		}
	}
	return "closed: " + lines.Text()
}
