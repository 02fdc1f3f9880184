package bus

import (
	"context"
	"sync"
	"time"
)

// deadline is a context that ends at a time, like a context of context.WithDeadline. It makes its
// timer when Done is first called: a request that is answered from memory, such as auth.verify, makes none.
type deadline struct {
	context.Context // the parent, which must not end on its own
	at              time.Time

	mu     sync.Mutex
	ended  bool
	timed  context.Context // nil until Done is called
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

// Value looks keys up in the context with the timer, once there is one. So package context finds that
// context, and child contexts need no goroutine that waits for this one.
func (d *deadline) Value(key any) any {
	d.mu.Lock()
	parent := d.Context
	if d.timed != nil {
		parent = d.timed
	}
	d.mu.Unlock()
	return parent.Value(key)
}

// end ends the context immediately.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.cancel != nil {
		d.cancel()
	}
}
