package handlers

import (
	"context"
	"errors"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/network"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/persistence"
)

// A request that hashes waits for a place in the pool before it costs anything, the count of its
// attempt included: a flood then costs the database nothing. The pool shares its places by network,
// with a separate lane for clients that are known here.

// class returns the group that a client waits with in the pool.
func class(from auth.ClientInfo, known bool) password.Class {
	return password.Class{Network: network.Of(from.IP), Known: known}
}

// byOperators is the class of requests that operators make on the bus.
var byOperators = password.Class{Network: byOperator, Known: true}

// admitted waits until the pool has a place for the request of a charge that is not paid yet, and
// returns the context that carries it and a function that gives it up. known says that the
// request proves by other means than its source that it is the account's owner's.
//
// It returns auth.ErrRateLimited if this instance knows that the attempt has to wait, and auth.ErrOverloaded,
// which counts against the source if its network is to blame, as does a caller that hangs up while it waits. A
// nil charge has no limits.
func (c *charge) admitted(ctx context.Context, pool *password.Pool, from auth.ClientInfo, known bool) (context.Context, func(), error) {
	if c != nil {
		if wait := c.remembered(c.limits.Clock.Now()); wait > 0 {
			c.limits.refused(c.kind)
			return ctx, func() {}, auth.ErrRateLimited.After(wait)
		}
		known = known || c.isFamiliar()
	}
	inside, leave, err := pool.Enter(ctx, class(from, known))
	if errors.Is(err, password.ErrExcess) || err != nil && ctx.Err() != nil { // hanging up makes no attempt free
		c.shed()
	}
	return inside, leave, err
}

// befriend notes that the source has logged in to the account.
func (c *charge) befriend() {
	if c != nil && c.own.key != "" && sourceOf(c.from) != "" {
		c.limits.familiar.Set(c.own.key, struct{}{})
	}
}

// isFamiliar reports whether the source has logged in to the account before, as far as this
// instance remembers: a lookup in the database would be work that a flood gets for nothing.
func (c *charge) isFamiliar() bool {
	_, ok := c.limits.familiar.GetIfPresent(c.own.key)
	return ok && c.own.key != ""
}

// due are the theoretical arrival times of a counter's limits.
type due [persistence.Tiers]time.Time

// shed counts an attempt that was refused as overloaded against its source, and never against the
// account, which others could then block. The count stays in memory, since a flood must not cost
// writes: the next attempt of the source that is admitted takes it into the database. A source whose limit
// is used up by it is blocked here without that.
func (c *charge) shed() {
	if c == nil || c.source.key == "" {
		return
	}
	now := c.limits.Clock.Now()
	c.limits.owed.Compute(c.source.key, func(owed due, _ bool) (due, otter.ComputeOp) {
		if wait := c.source.wait(owed, now); wait > 0 {
			c.remember(now, 0, wait)
			return owed, otter.CancelOp
		}
		return c.source.pass(owed, now), otter.WriteOp
	})
}

// takeDebt moves the source's debt into the charge, so that it is counted once.
func (c *charge) takeDebt() {
	if c.source.key != "" {
		c.owes, _ = c.limits.owed.Invalidate(c.source.key)
	}
}

// returnDebt undoes takeDebt: the attempt was not counted, and the source still owes.
func (c *charge) returnDebt() {
	if c.owes == (due{}) {
		return
	}
	c.limits.owed.Compute(c.source.key, func(owed due, _ bool) (due, otter.ComputeOp) {
		for i := range owed {
			owed[i] = later(owed[i], c.owes[i])
		}
		return owed, otter.WriteOp
	})
}

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
			sum.Due[i] = later(sum.Due[i], earlier(later(sum.Due[i], now).Add(debt), most))
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
