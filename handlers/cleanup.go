package handlers

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/persistence"
)

const (
	// keepEnded is how long a session stays in the database after its end and the end of
	// its last access token: for whoever looks into what happened yesterday.
	keepEnded = 24 * time.Hour
	// cleanEvery is how often an instance looks for what is over.
	cleanEvery = 10 * time.Minute
	// keepEvents is how long a published event can be published again. Revocations are read from
	// events, so it is longer than access tokens may live, which is a day.
	keepEvents = 7 * 24 * time.Hour
	// keepMails is how long a mail that left the outbox can be sent again. Sealed or not, what lets
	// somebody in is not kept for longer than it is of use.
	keepMails = 24 * time.Hour
	// sweepBatch is how many rows one statement deletes at most, so that none takes long.
	sweepBatch = 500
)

// Cleanup deletes what is over: sessions that ended or expired, events and mails that were published
// long ago, links and codes that have expired, and counters of limits that say nothing any more.
// Every instance does it, at times of its own, and whichever comes first finds something. All
// fields but Clock are required.
type Cleanup struct {
	Store *persistence.Store
	Log   *slog.Logger
	Clock clock.Func
}

// Run cleans up now and again until ctx ends. What fails is logged and tried again later.
func (c *Cleanup) Run(ctx context.Context) error {
	for {
		sessions, events, err := c.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.Log.Warn("clean-up failed", "err", err)
		case sessions+events > 0:
			c.Log.Info("cleaned up", "sessions", sessions, "events", events)
		}
		select {
		case <-time.After(cleanEvery/2 + rand.N(cleanEvery)): // instances that started together part
		case <-ctx.Done():
			return nil
		}
	}
}

// Once deletes all that is over by now, in small batches, and tells how much that was, but for
// links, codes and counters, which nobody misses. If it returns an error, some may be gone.
func (c *Cleanup) Once(ctx context.Context) (sessions, events int, err error) {
	now := c.Clock.Now()
	longest, err := c.Store.LongestLifetime(ctx)
	if err != nil {
		return 0, 0, err
	}
	err = inBatches(ctx, func() (int, error) {
		looked, n, err := c.Store.SweepSessions(ctx, now.Add(-longest-keepEnded), sweepBatch)
		sessions += n
		return looked, err
	})
	if err != nil {
		return sessions, events, err
	}
	for _, sweep := range []struct {
		rows   func(context.Context, time.Time, int64) (int, error)
		before time.Time
		count  *int // nil if nobody misses them
	}{
		{c.Store.SweepOutbox, now.Add(-keepEvents), &events},
		{c.Store.SweepMails, now.Add(-keepMails), &events},
		{c.sweepCounters, now, nil},
		{c.Store.SweepOneTimes, now, nil},
	} {
		err := inBatches(ctx, func() (int, error) {
			n, err := sweep.rows(ctx, sweep.before, sweepBatch)
			if sweep.count != nil {
				*sweep.count += n
			}
			return n, err
		})
		if err != nil {
			return sessions, events, err
		}
	}
	return sessions, events, nil
}

// sweepCounters tells how many it looked at, as those that it puts off are part of the batch.
func (c *Cleanup) sweepCounters(ctx context.Context, now time.Time, batch int64) (int, error) {
	looked, _, err := c.Store.SweepCounters(ctx, now, batch)
	return looked, err
}

// inBatches sweeps until a batch is not full. After each it rests for as long as that took, so
// that what has piled up takes at most half of the database from those who wait for it.
func inBatches(ctx context.Context, sweep func() (int, error)) error {
	for {
		began := time.Now()
		n, err := sweep()
		if err != nil || n < sweepBatch {
			return err
		}
		select {
		case <-time.After(time.Since(began)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
