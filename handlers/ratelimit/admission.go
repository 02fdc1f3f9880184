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

// A request that hashes waits for a place in the pool before it uses the database, also before its
// attempt is counted, so that a flood costs the database nothing. The pool shares its places by
// network, with a separate lane for known clients.

// ClassOf returns the class in which a client's request waits in the pool. known puts it in the lane of known
// clients.
func ClassOf(from auth.ClientInfo, known bool) password.Class {
	return password.Class{Network: network.Of(from.IP), Known: known}
}

// AdmitLogin waits until the pool has a place for a request that compares the password of an address: see admit.
// known means that the request proves by other means than its source that it comes from the account's owner.
func (l *Limiter) AdmitLogin(ctx context.Context, pool *password.Pool, address string, from auth.ClientInfo, known bool) (context.Context, func(), error) {
	return l.login(address, from).admit(ctx, pool, from, known)
}

// AdmitRegistration waits until the pool has a place for a registration: see admit.
func (l *Limiter) AdmitRegistration(ctx context.Context, pool *password.Pool, from auth.ClientInfo) (context.Context, func(), error) {
	return l.registration(from).admit(ctx, pool, from, false)
}

// admit waits until the pool has a place for the request of a reservation that is not counted yet, and
// returns a context that carries the place and a function that releases it.
//
// It returns auth.ErrRateLimited if this instance remembers that the attempt has to wait, and
// auth.ErrOverloaded if the pool refuses the request. The attempt counts against the source if the refusal
// is due to its network, or if the caller hangs up while it waits. A nil reservation has no limits.
func (r *Reservation) admit(ctx context.Context, pool *password.Pool, from auth.ClientInfo, known bool) (context.Context, func(), error) {
	if r != nil {
		if wait := r.remembered(r.limits.Clock.Now()); wait > 0 {
			r.limits.Refuse(r.kind)
			return ctx, func() {}, auth.ErrRateLimited.After(wait)
		}
		known = known || r.isFamiliar()
	}
	inside, leave, err := pool.Enter(ctx, ClassOf(from, known))
	if errors.Is(err, password.ErrExcess) || err != nil && ctx.Err() != nil { // a caller must not avoid the count by hanging up
		r.shed()
	}
	return inside, leave, err
}

// befriend records that the source has logged in to the account.
func (r *Reservation) befriend() {
	if r != nil && r.own.key != "" && sourceOf(r.from) != "" {
		r.limits.familiar.Set(r.own.key, struct{}{})
	}
}

// isFamiliar reports whether this instance remembers a login of the source to the account. It does not
// read the database, because a flood must not cause that work.
func (r *Reservation) isFamiliar() bool {
	_, ok := r.limits.familiar.GetIfPresent(r.own.key)
	return ok && r.own.key != ""
}

// shed counts an attempt that the pool refused against its source, and never against the account, which
// a stranger could then block. The count stays in memory, because a flood must not cause writes; the next
// admitted attempt of the source stores it in the database. If the count uses up the source's limit, this
// instance blocks the source without a write.
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

// returnDebt undoes takeDebt after an attempt that was not counted.
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
