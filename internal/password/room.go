package password

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// calm is how long nobody has hashed when the room is given back. Each change stops the world
// for some microseconds, so there must not be many.
const calm = time.Second

// room lets Go run twice as many goroutines at once as there are cores while passwords are
// hashed, so that those that hash keep none out which others need. At all other times it would
// be a loss: threads that look for work which others have, a tenth of all verifications.
type room struct {
	cores int

	mu   sync.Mutex
	made bool
	used bool // since it was last looked at
}

// take makes the room for somebody who is about to hash.
func (r *room) take() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = true
	if !r.made {
		runtime.GOMAXPROCS(2 * r.cores)
		r.made = true
	}
}

// giveBack undoes it if there was nobody since the last time, and isIdle says that nobody is.
func (r *room) giveBack(isIdle func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made && !r.used && isIdle() { // whoever comes now takes it again
		runtime.GOMAXPROCS(r.cores)
		r.made = false
	}
	r.used = false
}

// run gives the room back when all is calm, until ctx ends.
func (r *room) run(ctx context.Context, isIdle func() bool) {
	tick := time.NewTicker(calm)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.giveBack(isIdle)
		}
	}
}
