// Package testclock is a pair of clocks, wall and monotonic, that stand still until a test moves
// them.
package testclock

import (
	"sync"
	"time"

	"github.com/zyotra/auth/internal/clock"
)

// Clock is the machine of a test. Its Read is a clock.Source.
type Clock struct {
	mu      sync.Mutex
	reading clock.Reading
}

// New makes a clock that shows a wall time.
func New(wall time.Time) *Clock { return &Clock{reading: clock.Reading{Wall: wall.Round(0)}} }

// Read returns what both clocks show.
func (c *Clock) Read() clock.Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reading
}

// Advance lets time pass.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading.Wall, c.reading.Elapsed = c.reading.Wall.Add(d), c.reading.Elapsed+d
}

// Jump sets the wall clock ahead, or back, while no time passes.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading.Wall = c.reading.Wall.Add(d)
}
