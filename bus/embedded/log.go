package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/zyotra/auth/internal/loglimit"
)

// logger hands the server's log to slog. The server calls it with its locks held, so it
// never calls back.
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

// Noticef is the server's story of its own start and stop. It is not the operator's.
func (l *logger) Noticef(format string, v ...any) { l.print(slog.LevelDebug, format, v) }
func (l *logger) Warnf(format string, v ...any)   { l.print(slog.LevelWarn, format, v) }
func (l *logger) Errorf(format string, v ...any)  { l.print(slog.LevelError, format, v) }
func (l *logger) Debugf(format string, v ...any)  { l.print(slog.LevelDebug, format, v) }

// Tracef would log whole messages, passwords and all.
func (l *logger) Tracef(string, ...any) {}

// Fatalf passes the first fatal error on. It is not logged here: whoever receives it does.
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

// kindOf returns what a line is counted by: its format, and for a line about a client, whose name the
// server writes into the format, that it is about one.
func kindOf(format string) string {
	if strings.Contains(format, "id:") { // as in "127.0.0.1:4222 - cid:7 - %s"
		return "client"
	}
	return format
}

// withoutInput cuts off what a client has sent in place of a message of the protocol: it may be the
// password in a request that says its own length wrongly.
func withoutInput(text string) string {
	for _, before := range []string{"Parse Error: ", "proto="} {
		if i := strings.Index(text, before); i >= 0 {
			return text[:i+len(before)] + "(what the client sent)"
		}
	}
	return text
}

// fatalError is what the server said, with the error it said it about.
type fatalError struct {
	text  string
	cause error
}

func (e fatalError) Error() string { return e.text }
func (e fatalError) Unwrap() error { return e.cause }
