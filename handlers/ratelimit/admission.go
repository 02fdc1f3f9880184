package ratelimit

import (
	"context"
	"errors"

	"github.com/maypok86/otter/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/network"
	"github.com/zyotra/auth/internal/password"
)

// A request that hashes waits for a place in the pool before it costs anything, the count of its
// attempt included: a flood then costs the database nothing. The pool shares its places by network,
// with a separate lane for clients that are known here.

// ClassOf returns the group that a client waits with in the pool. known says that it belongs to the lane of
// clients that are known.
func ClassOf(from auth.ClientInfo, known bool) password.Class {
	return password.Class{Network: network.Of(from.IP), Known: known}
}

// AdmitLogin waits until the pool has a place for a request that compares the password of an address: see admit.
// known says that the request proves by other means than its source that it is the account's owner's.
func (l *Limiter) AdmitLogin(ctx context.Context, pool *password.Pool, address string, from auth.ClientInfo, known bool) (context.Context, func(), error) {
	return l.login(address, from).admit(ctx, pool, from, known)
}

// AdmitRegistration waits until the pool has a place for a registration: see admit.
func (l *Limiter) AdmitRegistration(ctx context.Context, pool *password.Pool, from auth.ClientInfo) (context.Context, func(), error) {
	return l.registration(from).admit(ctx, pool, from, false)
}

// admit waits until the pool has a place for the request of a reservation that is not counted yet, and
// returns the context that carries it and a function that gives it up.
//
// It returns auth.ErrRateLimited if this instance knows that the attempt has to wait, and auth.ErrOverloaded,
// which counts against the source if its network is to blame, as does a caller that hangs up while it waits. A
// nil reservation has no limits.
func (r *Reservation) admit(ctx context.Context, pool *password.Pool, from auth.ClientInfo, known bool) (context.Context, func(), error) {
	if r != nil {
		if wait := r.remembered(r.limits.Clock.Now()); wait > 0 {
			r.limits.Refuse(r.kind)
			return ctx, func() {}, auth.ErrRateLimited.After(wait)
		}
		known = known || r.isFamiliar()
	}
	inside, leave, err := pool.Enter(ctx, ClassOf(from, known))
	if errors.Is(err, password.ErrExcess) || err != nil && ctx.Err() != nil { // hanging up makes no attempt free
		r.shed()
	}
	return inside, leave, err
}

// befriend notes that the source has logged in to the account.
func (r *Reservation) befriend() {
	if r != nil && r.own.key != "" && sourceOf(r.from) != "" {
		r.limits.familiar.Set(r.own.key, struct{}{})
	}
}

// isFamiliar reports whether the source has logged in to the account before, as far as this
// instance remembers: a lookup in the database would be work that a flood gets for nothing.
func (r *Reservation) isFamiliar() bool {
	_, ok := r.limits.familiar.GetIfPresent(r.own.key)
	return ok && r.own.key != ""
}

// shed counts an attempt that was refused as overloaded against its source, and never against the
// account, which others could then block. The count stays in memory, since a flood must not cost
// writes: the next attempt of the source that is admitted takes it into the database. A source whose limit
// is used up by it is blocked here without that.
func (r *Reservation) shed() {
	if r == nil || r.source.key == "" {
		return
	}
	now := r.limits.Clock.Now()
	r.limits.owed.Compute(r.source.key, func(owed due, _ bool) (due, otter.ComputeOp) {
		if wait := r.source.wait(owed, now); wait > 0 {
			r.remember(now, 0, wait)
			return owed, otter.CancelOp
		}
		return r.source.pass(owed, now), otter.WriteOp
	})
}

// takeDebt moves the source's debt into the reservation, so that it is counted once.
func (r *Reservation) takeDebt() {
	if r.source.key != "" {
		r.owes, _ = r.limits.owed.Invalidate(r.source.key)
	}
}

// returnDebt undoes takeDebt: the attempt was not counted, and the source still owes.
func (r *Reservation) returnDebt() {
	if r.owes == (due{}) {
		return
	}
	r.limits.owed.Compute(r.source.key, func(owed due, _ bool) (due, otter.ComputeOp) {
		for i := range owed {
			owed[i] = clock.Later(owed[i], r.owes[i])
		}
		return owed, otter.WriteOp
	})
}
