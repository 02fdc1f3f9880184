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

// counter is a counter of a reservation: its key in the database and its limits. An empty key means none.
type counter struct {
	key   string
	tiers []gcra.Limit
}

// counters are the rows of a reservation's counters in the database.
type counters struct {
	byKey    map[string]persistence.Counter
	isCapped bool // a time was later than the limit allows: see gcra.Limit.Cap
}

func (held *counters) set(ctx context.Context, tx *persistence.Store) error {
	return tx.SetCounters(ctx, slices.Collect(maps.Values(held.byKey))...)
}

// wait returns how long a counter delays the next attempt.
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

// each replaces the time of each limit of a counter by the result of move.
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

// block is the time until which a key has to wait, and the time at which the database had this value.
type block struct{ known, until time.Time }

// add adds a debt to a counter, but not more than uses up its limits: the wait is then not longer than
// that of any refused attempt.
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

// wait returns how long the counter's limits delay the next attempt.
func (c counter) wait(d due, now time.Time) (wait time.Duration) {
	for i, limit := range c.tiers {
		wait = max(wait, limit.Wait(d[i], now))
	}
	return wait
}

// pass returns the times after one more attempt.
func (c counter) pass(d due, now time.Time) due {
	for i, limit := range c.tiers {
		d[i] = limit.Pass(d[i], now)
	}
	return d
}

// due has the theoretical arrival time of each limit of a counter.
type due [persistence.Tiers]time.Time
