// Package accept keeps listeners open. A server that takes an error of accept(2) for the end of its
// listener stops because of one connection or one moment without file descriptors.
package accept

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of the back-off after a failed accept, and of the log lines about it.
const (
	minBackoff  = 5 * time.Millisecond
	maxBackoff  = time.Second
	logInterval = time.Minute
)

// Listener retries failed accepts with back-off until it is closed. Accept then returns an error that
// is net.ErrClosed. Make it with New.
type Listener struct {
	net.Listener

	// Exhausted, if it is set, is called after each failed accept, to free file descriptors.
	Exhausted func()

	log    *slog.Logger
	once   sync.Once
	closed chan struct{}
	logged time.Time // of the latest log line
}

// New returns a listener that accepts from l and logs failures to log, at most one line a minute.
func New(l net.Listener, log *slog.Logger) *Listener {
	return &Listener{Listener: l, log: log, closed: make(chan struct{})}
}

// Accept returns the next connection. One goroutine at a time may call it.
func (l *Listener) Accept() (net.Conn, error) {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err := l.Listener.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		if time.Since(l.logged) >= logInterval {
			l.logged = time.Now()
			l.log.Warn("accept failed, trying again", "address", l.Addr().String(), "err", err)
		}
		if l.Exhausted != nil {
			l.Exhausted()
		}
		select {
		case <-time.After(backoff):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

// Close closes the listener and ends an Accept that waits.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Closed is closed with the listener.
func (l *Listener) Closed() <-chan struct{} { return l.closed }
