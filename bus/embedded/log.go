package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/zyotra/auth/internal/loglimit"
)

// logger writes the server's log to slog. The server calls the logger with locks held, so the
// logger never calls the server.
type logger struct {
	log    *slog.Logger
	limit  loglimit.Limiter
	failed chan<- error
}

func newLogger(log *slog.Logger, failed chan<- error) *logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &logger{log: log.With("part", "nats"), failed: failed}
}

// Noticef receives the server's lines about its start and stop, which operators do not need.
func (l *logger) Noticef(format string, v ...any) { l.print(slog.LevelDebug, format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.print(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.print(slog.LevelError, format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.print(slog.LevelDebug, format, v) }

// Tracef logs nothing: its lines contain whole messages, including passwords.
func (l *logger) Tracef(string, ...any) {}

// Fatalf sends the first fatal error to failed. It does not log the error: the receiver does.
func (l *logger) Fatalf(format string, v ...any) {
	err := fatalError{text: fmt.Sprintf(format, v...)}
	for _, arg := range v {
		if cause, ok := arg.(error); ok {
			err.cause = errors.Join(err.cause, cause)
		}
	}
	select {
	case l.failed <- err:
	default:
	}
}

func (l *logger) print(level slog.Level, format string, v []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	var attrs []any
	if level >= slog.LevelWarn {
		omitted, ok := l.limit.Pass(kindOf(format))
		if !ok {
			return
		}
		if omitted > 0 {
			attrs = append(attrs, "omitted", omitted)
		}
	}
	l.log.Log(context.Background(), level, withoutInput(fmt.Sprintf(format, v...)), attrs...)
}

// kindOf returns the kind under which the limiter counts a line: its format, or "client" for a line about
// a client, because the server writes the client's name into the format.
func kindOf(format string) string {
	if strings.Contains(format, "id:") { // as in "127.0.0.1:4222 - cid:7 - %s"
		return "client"
	}
	return format
}

// withoutInput cuts off the invalid input of a client from a protocol error: the input may be the
// password in a request that declares a wrong length.
func withoutInput(text string) string {
	for _, before := range []string{"Parse Error: ", "proto="} {
		if i := strings.Index(text, before); i >= 0 {
			return text[:i+len(before)] + "(what the client sent)"
		}
	}
	return text
}

// fatalError is the server's message, with the error that caused it.
type fatalError struct {
	text  string
	cause error
}

func (e fatalError) Error() string { return e.text }
func (e fatalError) Unwrap() error { return e.cause }
