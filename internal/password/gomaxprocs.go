package password

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// cooldown is how long the pool must be idle before GOMAXPROCS is lowered. Each change stops the
// world for some microseconds, so changes must be rare.
const cooldown = time.Second

// gomaxprocs doubles GOMAXPROCS while passwords are hashed, so that hashing threads do not keep other
// goroutines from running. At all other times a higher value costs a tenth of all verifications,
// since idle threads search for work.
type gomaxprocs struct {
	cores int

	mu       sync.Mutex
	isRaised bool
	isUsed   bool // since the last call of lower
}

// raise doubles GOMAXPROCS before a password is hashed.
func (g *gomaxprocs) raise() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isUsed = true
	if !g.isRaised {
		runtime.GOMAXPROCS(2 * g.cores)
		g.isRaised = true
	}
}

// lower restores GOMAXPROCS if raise was not called since the last call and isIdle reports that nothing
// is hashed.
func (g *gomaxprocs) lower(isIdle func() bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isRaised && !g.isUsed && isIdle() { // the next request raises it again
		runtime.GOMAXPROCS(g.cores)
		g.isRaised = false
	}
	g.isUsed = false
}

// run calls lower after each cooldown, until ctx ends.
func (g *gomaxprocs) run(ctx context.Context, isIdle func() bool) {
	tick := time.NewTicker(cooldown)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.lower(isIdle)
		}
	}
}
