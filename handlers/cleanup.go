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
	// its last access token, for operators who investigate an incident of the day before.
	keepEnded = 24 * time.Hour
	// cleanEvery is the mean interval between two clean-ups of an instance.
	cleanEvery = 10 * time.Minute
	// keepEvents is how long a published event can be published again. Store.Revocations reads events,
	// so it is longer than the maximum lifetime of access tokens, one day.
	keepEvents = 7 * 24 * time.Hour
	// keepMails is how long a published mail can be sent again. It is short because a mail can contain
	// a credential, which the database does not keep longer than it is useful, even sealed.
	keepMails = 24 * time.Hour
	// sweepBatch is the maximum number of rows that one statement deletes, so that each is short.
	sweepBatch = 500
)

// Cleanup deletes obsolete rows: sessions that ended or expired, events and mails that were published
// long ago, expired links and codes, and rate limit counters that no longer delay an attempt. Every
// instance runs it, at separate random times. All fields but Clock are required.
type Cleanup struct {
	Store *persistence.Store
	Log   *slog.Logger
	Clock clock.Func
}

// Run cleans up repeatedly until ctx ends. It logs an error and retries at the next interval.
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
		case <-time.After(cleanEvery/2 + rand.N(cleanEvery)): // spreads instances that started together
		case <-ctx.Done():
			return nil
		}
	}
}

// Once deletes all rows that are obsolete now, in small batches. It returns the numbers of deleted
// sessions and of deleted events and mails; it does not count links, codes and counters. If it returns
// an error, it may have deleted some rows.
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
		count  *int // nil if not counted
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

// sweepCounters returns the number of counters it examined, because a batch includes the postponed ones.
func (c *Cleanup) sweepCounters(ctx context.Context, now time.Time, batch int64) (int, error) {
	looked, _, err := c.Store.SweepCounters(ctx, now, batch)
	return looked, err
}

// inBatches sweeps until a batch is not full. After each batch it pauses for as long as the batch
// took, so that a backlog takes at most half of the database's time from other requests.
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
