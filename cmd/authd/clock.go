package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// clockEvery is how often a clock is compared with the database's.
	clockEvery = 5 * time.Second
	// clockTimeout bounds one comparison.
	clockTimeout = 2 * time.Second
	// clockTolerance is how far a clock may be off and still counts. Less than that is lost in the
	// time that the question takes.
	clockTolerance = time.Second
)

// clock is this machine's clock, put right by the database's, which all instances share: what one
// instance writes as now another reads, and decides by seconds whether a spent refresh token is
// a retry or theft.
type clock struct {
	system func() time.Time
	ask    func(context.Context) (time.Time, error) // the database
	log    *slog.Logger
	ahead  atomic.Int64 // by which the machine's is, in nanoseconds
}

func (c *clock) now() time.Time { return c.system().Add(-time.Duration(c.ahead.Load())) }

// set compares the clocks. Where the database does not answer, what was found last goes on to count.
func (c *clock) set(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	began := c.system()
	there, err := c.ask(ctx)
	if err != nil {
		return err
	}
	took := c.system().Sub(began)
	ahead, before := began.Add(took/2).Sub(there), time.Duration(c.ahead.Load())
	switch {
	case (ahead - before).Abs() < clockTolerance+took/2: // it may be as far off as before
		return nil
	case ahead.Abs() < clockTolerance+took/2:
		c.ahead.Store(0)
		c.log.Info("the clock of this machine is right again")
		return nil
	}
	c.ahead.Store(int64(ahead))
	c.log.Warn("the clock of this machine is wrong, and the database's counts", "ahead", ahead.Round(time.Millisecond).String())
	return nil
}

// run sets the clock again and again until ctx ends.
func (c *clock) run(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = c.set(ctx) // the database is away: others say so
		}
	}
}
