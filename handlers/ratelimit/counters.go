package ratelimit

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

// counter is one that a reservation is about; without a key there is none.
type counter struct {
	key   string
	tiers []gcra.Limit
}

// counters are what the database keeps of a reservation's counters.
type counters struct {
	byKey    map[string]persistence.Counter
	isCapped bool // a time was later than it can be: see gcra.Limit.Cap
}

func (held *counters) set(ctx context.Context, tx *persistence.Store) error {
	return tx.SetCounters(ctx, slices.Collect(maps.Values(held.byKey))...)
}

// wait is how long a counter holds up the next try.
func (held *counters) wait(c counter, now time.Time) time.Duration {
	return c.wait(held.byKey[c.key].Due, now)
}

func (held *counters) pass(c counter, now time.Time) {
	held.each(c, func(l gcra.Limit, due time.Time) time.Time { return l.Pass(due, now) })
}

func (held *counters) giveBack(c counter) {
	held.each(c, func(l gcra.Limit, due time.Time) time.Time { return l.Return(due) })
}

func (held *counters) reset(c counter) {
	held.each(c, func(gcra.Limit, time.Time) time.Time { return time.Time{} })
}

// each moves the time of each limit of a counter.
func (held *counters) each(c counter, move func(gcra.Limit, time.Time) time.Time) {
	if c.key == "" {
		return
	}
	moved := held.byKey[c.key]
	for i, limit := range c.tiers {
		moved.Due[i] = move(limit, moved.Due[i])
	}
	held.byKey[c.key] = moved
}

// block is how long a key has to wait, as the database knew it at some time.
type block struct{ known, until time.Time }

// add adds a debt to a counter until its limits are used up: the wait is then that of any
// refused attempt.
func (held *counters) add(c counter, owed due, now time.Time) {
	if owed == (due{}) {
		return
	}
	sum := held.byKey[c.key]
	for i, limit := range c.tiers {
		if debt := owed[i].Sub(now); debt > 0 {
			most := now.Add(limit.Slack() + limit.Interval)
			sum.Due[i] = clock.Later(sum.Due[i], clock.Earlier(clock.Later(sum.Due[i], now).Add(debt), most))
		}
	}
	held.byKey[c.key] = sum
}

// wait is how long limits hold up the next attempt.
func (c counter) wait(d due, now time.Time) (wait time.Duration) {
	for i, limit := range c.tiers {
		wait = max(wait, limit.Wait(d[i], now))
	}
	return wait
}

// pass counts an attempt.
func (c counter) pass(d due, now time.Time) due {
	for i, limit := range c.tiers {
		d[i] = limit.Pass(d[i], now)
	}
	return d
}

// due are the theoretical arrival times of a counter's limits.
type due [persistence.Tiers]time.Time
