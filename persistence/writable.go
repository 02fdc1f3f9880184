package persistence

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/zyotra/auth"
)

const (
	// probeAge is how long the result of a probe is valid: at most two probes a second run, regardless
	// of the number of requests.
	probeAge = 500 * time.Millisecond
	// probeTimeout bounds one probe.
	probeTimeout = 5 * time.Second
	// fullFor is how long the database counts as full after a change found no space. A probe proves
	// less: it may find space where a larger change finds none.
	fullFor = 5 * time.Second
)

// writable stores whether the database accepts writes.
type writable struct {
	mu      sync.Mutex
	running chan struct{} // closed when the probe in flight ends; nil if there is none
	at      time.Time     // end of the last probe
	err     error         // its result
	fullAt  time.Time     // when a change last found no space
}

// Writable returns auth.ErrUnavailable if the database accepts no writes: it is unreachable, a standby,
// read-only, locked by another process, or its disk is full. It updates a dedicated row unless a probe
// ended within probeAge, and waits for an update in flight until ctx ends.
func (s *Store) Writable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return s.fault("probe", err)
	}
	done, err := s.writable.begin(s)
	if done == nil {
		return err
	}
	select {
	case <-done:
		return s.writable.result()
	case <-ctx.Done():
		return s.fault("wait for a probe", ctx.Err())
	}
}

// begin returns a channel that is closed when the probe in flight ends. It starts a probe if the last
// result is older than probeAge. If the last result is still valid, it returns nil and that result.
func (w *writable) begin(s *Store) (done <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case time.Since(w.fullAt) < fullFor:
		return nil, fmt.Errorf("%w: a change found no room", auth.ErrUnavailable)
	case w.running != nil:
		return w.running, nil
	case time.Since(w.at) < probeAge:
		return nil, w.err
	}
	w.running = make(chan struct{})
	go w.probe(s, w.running)
	return w.running, nil
}

// probe outlives the request that started it: SQLite does not give up waiting for a lock when the
// request ends.
func (w *writable) probe(s *Store, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, "UPDATE write_probe SET probed_at = ? WHERE id = 1", time.Now().UTC())
	err = s.fault("probe", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.at, w.err = nil, time.Now(), err
	close(done)
}

func (w *writable) result() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// wait returns when no probe is in flight.
func (w *writable) wait() {
	w.mu.Lock()
	running := w.running
	w.mu.Unlock()
	if running != nil {
		<-running
	}
}

// foundNoRoom records that a change found no space.
func (w *writable) foundNoRoom() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fullAt = time.Now()
}
