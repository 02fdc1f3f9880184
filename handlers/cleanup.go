package handlers

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/zyotra/auth/persistence"
)

const (
	// keepEnded is how long a session stays in the database after its end and the end of
	// its last access token: for whoever looks into what happened yesterday.
	keepEnded = 24 * time.Hour
	// cleanEvery is how often an instance looks for what is over.
	cleanEvery = 10 * time.Minute
	// sweepBatch is how many rows one statement deletes at most, so that none takes long.
	sweepBatch = 500
)

// Cleanup deletes what is over: sessions that ended or expired. Every instance does it, at
// times of its own, and whichever comes first finds something. All fields but Clock are
// required.
type Cleanup struct {
	Store     *persistence.Store
	AccessTTL time.Duration // of an access token
	Log       *slog.Logger
	Clock     Clock
}

// Run cleans up now and again until ctx ends. What fails is logged and tried again later.
func (c *Cleanup) Run(ctx context.Context) error {
	for {
		deleted, err := c.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.Log.Warn("clean-up failed", "err", err)
		case deleted > 0:
			c.Log.Info("cleaned up", "sessions", deleted)
		}
		select {
		case <-time.After(cleanEvery/2 + rand.N(cleanEvery)): // instances that started together part
		case <-ctx.Done():
			return nil
		}
	}
}

// Once deletes all that is over by now, in small batches, and tells how many sessions that
// were. If it returns an error, some may be gone.
func (c *Cleanup) Once(ctx context.Context) (deleted int, err error) {
	before := c.Clock.now().Add(-c.AccessTTL - keepEnded)
	for {
		looked, n, err := c.Store.SweepSessions(ctx, before, sweepBatch)
		deleted += n
		if err != nil || looked < sweepBatch {
			return deleted, err
		}
	}
}
