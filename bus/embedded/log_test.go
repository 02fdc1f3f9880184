package embedded

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A running server cannot be made to fail at will, so this speaks in its place.
func TestLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	failed := make(chan error, 1)
	l := newLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), failed)
	l.Noticef("notice %d", 1)
	l.Warnf("warning %d", 2)
	l.Errorf("error %d", 3)
	l.Tracef("trace %d", 4)
	for _, want := range []string{`level=DEBUG msg="notice 1"`, `level=WARN msg="warning 2"`, `level=ERROR msg="error 3"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "trace") {
		t.Error("messages are logged")
	}

	cause := errors.New("disk gone")
	l.Fatalf("Can't go on: %v", cause)
	l.Fatalf("nor can I: %v", cause) // does not block
	err := <-failed
	if err.Error() != "Can't go on: disk gone" || !errors.Is(err, cause) {
		t.Error(err)
	}
}
