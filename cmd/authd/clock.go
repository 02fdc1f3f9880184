package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/zyotra/auth/internal/clock"
)

const (
	// clockEvery is the interval at which the clock is compared with the database's.
	clockEvery = 5 * time.Second
	// clockWatch is the longest delay of a comparison after the machine's clock has jumped.
	clockWatch = time.Second
	// clockTimeout bounds one comparison.
	clockTimeout = 2 * time.Second
)

// databaseClock keeps the clock of this process in step with the database's, which all instances
// share: an instance reads the times that another has written, and decides by seconds whether a spent
// refresh token is a retry or theft. Between two comparisons time advances by the monotonic clock,
// so setting this machine's clock does not change it.
type databaseClock struct {
	clock   *clock.Clock
	ask     func(context.Context) (time.Time, error) // returns the database's time
	log     *slog.Logger
	jumps   uint64        // jumps of the clock up to the last comparison
	tried   time.Duration // elapsed time of the last attempt to compare
	wasSaid time.Duration // by how much the machine's clock is ahead, as last logged
}

// set compares the clocks within clockTimeout. If the database does not answer, it returns the error, and
// the last comparison remains in effect.
func (c *databaseClock) set(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	asked := c.clock.Read()
	c.tried = asked.Elapsed
	there, err := c.ask(ctx)
	if err != nil {
		return err
	}
	c.clock.Check(there, asked, c.clock.Read())
	c.jumps = c.clock.Read().Jumps
	c.say(c.clock.Ahead())
	return nil
}

// say logs that the machine's clock has become wrong, or right again.
func (c *databaseClock) say(ahead time.Duration) {
	switch {
	case (ahead - c.wasSaid).Abs() < clock.Tolerance:
		return
	case ahead.Abs() < clock.Tolerance:
		c.log.Info("the clock of this machine is right again")
	default:
		c.log.Warn("the clock of this machine is wrong, and the database's counts", "ahead", ahead.Round(time.Millisecond).String())
	}
	c.wasSaid = ahead
}

// run calls set every clockEvery, and after each jump of the clock, until ctx ends.
func (c *databaseClock) run(ctx context.Context) error {
	tick := time.NewTicker(clockWatch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if now := c.clock.Read(); now.Jumps != c.jumps || now.Elapsed-c.tried >= clockEvery {
				_ = c.set(ctx) // an error means that the database is unreachable, which the log and /readyz report
			}
		}
	}
}
