// Package loglimit bounds how many log lines of one kind are written, for lines that strangers can
// cause as often as they like.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// Burst is how many lines of a kind are written in an Interval.
	Burst = 10
	// Interval is how long the lines of a kind are counted together.
	Interval = 10 * time.Second
	// maxKinds is how many kinds are counted apart. All others are one.
	maxKinds = 256
)

// Limiter counts lines by their kind. The zero value is ready to use, by several goroutines.
type Limiter struct {
	mu      sync.Mutex
	windows map[string]*window
	now     func() time.Time // of tests; nil is time.Now
}

type window struct {
	ends             time.Time
	written, omitted int
}

// Pass reports whether one more line of the kind is written now, and how many were omitted since
// the last that was.
func (l *Limiter) Pass(kind string) (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.now != nil {
		now = l.now()
	}
	w := l.window(kind)
	if !now.Before(w.ends) {
		w.ends, w.written = now.Add(Interval), 0
	}
	if w.written >= Burst {
		w.omitted++
		return 0, false
	}
	w.written++
	omitted, w.omitted = w.omitted, 0
	return omitted, true
}

// window returns the count of a kind.
func (l *Limiter) window(kind string) *window {
	if l.windows == nil {
		l.windows = map[string]*window{}
	}
	if l.windows[kind] == nil && len(l.windows) >= maxKinds {
		kind = ""
	}
	if l.windows[kind] == nil {
		l.windows[kind] = new(window)
	}
	return l.windows[kind]
}

// New returns a logger that limits the lines of log by their message. A line that follows omitted
// ones has their number as "omitted".
func New(log *slog.Logger) *slog.Logger {
	return slog.New(&handler{log.Handler(), new(Limiter)})
}

type handler struct {
	slog.Handler
	limiter *Limiter
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	omitted, ok := h.limiter.Pass(r.Message)
	if !ok {
		return nil
	}
	if omitted > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("omitted", omitted))
	}
	return h.Handler.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.limiter}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.limiter}
}
