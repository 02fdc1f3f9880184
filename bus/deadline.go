package bus

import (
	"context"
	"sync"
	"time"
)

// deadline is a context that ends at a time, as that of context.WithDeadline does. It makes its
// timer when somebody waits for that: what is answered from memory, auth.verify above all, never does.
type deadline struct {
	context.Context // within which it is: one that does not end by itself
	at              time.Time

	mu     sync.Mutex
	ended  bool
	timed  context.Context // nil until somebody waits
	cancel context.CancelFunc
}

func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil {
		d.timed, d.cancel = context.WithDeadline(d.Context, d.at)
		if d.ended {
			d.cancel()
		}
	}
	return d.timed.Done()
}

func (d *deadline) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.timed != nil:
		return d.timed.Err()
	case d.ended:
		return context.Canceled
	case !time.Now().Before(d.at):
		return context.DeadlineExceeded
	}
	return nil
}

// Value passes on where the end is kept, so that contexts within this one need no goroutine to
// wait for it.
func (d *deadline) Value(key any) any {
	d.mu.Lock()
	parent := d.Context
	if d.timed != nil {
		parent = d.timed
	}
	d.mu.Unlock()
	return parent.Value(key)
}

// end ends it now.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.cancel != nil {
		d.cancel()
	}
}
