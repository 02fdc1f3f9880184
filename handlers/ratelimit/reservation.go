package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

// Reservation is an attempt that was counted. A nil Reservation was not counted.
type Reservation struct {
	limits *Limiter
	kind   string // of Limiter.Refused
	from   auth.ClientInfo
	email  string // the address in the form that is compared; "" if the attempt has no valid address

	own, account, source counter // of the account from this source, of the account from all sources, of the source
	owes                 due     // debt of the source for attempts that the hashing pool refused
	waived               bool    // the account's limit for all sources is used up, but this source is known to the account
	silent               bool    // a refusal emits no event
}

// reserve counts the attempt at all counters, or returns auth.ErrRateLimited. Cancelling the
// request does not cancel the count.
func (r *Reservation) reserve(ctx context.Context) (*Reservation, error) {
	now := r.limits.Clock.Now()
	if wait := r.remembered(now); wait > 0 {
		r.limits.Refuse(r.kind)
		return nil, auth.ErrRateLimited.After(wait)
	}
	ctx, cancel := outlive(ctx)
	defer cancel()
	r.takeDebt()
	var refused error
	err := r.limits.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		held, err := r.hold(ctx, tx, now)
		if err != nil {
			return err
		}
		// Store capped times although the attempt has to wait. Otherwise it would wait until the clock
		// reaches the time that it showed before it was set back.
		if refused = r.count(ctx, tx, held, now); refused != nil && held.isCapped && errors.Is(refused, auth.ErrRateLimited) {
			r.owes = due{} // set stores it
			return held.set(ctx, tx)
		}
		return refused
	})
	if err = cmp.Or(err, refused); err == nil {
		return r, nil
	}
	if errors.Is(err, auth.ErrRateLimited) {
		r.limits.Refuse(r.kind)
	}
	r.returnDebt()
	return nil, err
}

// count is the transaction of reserve, which changes nothing for an attempt that has to wait.
func (r *Reservation) count(ctx context.Context, tx *persistence.Store, held *counters, now time.Time) (err error) {
	held.add(r.source, r.owes, now)
	own, source := held.wait(r.own, now), held.wait(r.source, now)
	if own == 0 && source == 0 && held.wait(r.account, now) > 0 {
		if r.waived, err = r.isKnownSource(ctx, tx, now); err != nil {
			return err
		}
		if r.waived {
			r.limits.familiar.Set(r.own.key, struct{}{})
		}
	}
	account := held.wait(r.everywhere(), now)
	if wait := max(own, account, source); wait > 0 {
		r.remember(now, max(own, account), source)
		return auth.ErrRateLimited.After(wait)
	}
	held.pass(r.own, now)
	held.pass(r.everywhere(), now)
	held.pass(r.source, now)
	if err := r.emitLocked(ctx, tx, now, max(held.wait(r.own, now), held.wait(r.everywhere(), now))); err != nil {
		return err
	}
	return held.set(ctx, tx)
}

// everywhere is the counter of the account for all sources, unless it is waived.
func (r *Reservation) everywhere() counter {
	if r.waived {
		return counter{}
	}
	return r.account
}

// isKnownSource reports whether the account has a live session from the source of this attempt. The
// attempt is then probably the owner's, and strangers from other sources must not lock the owner out.
func (r *Reservation) isKnownSource(ctx context.Context, tx *persistence.Store, now time.Time) (bool, error) {
	source := sourceOf(r.from)
	user, err := r.user(ctx, tx)
	if err != nil || source == "" {
		return false, err
	}
	addresses, err := tx.SessionAddresses(ctx, user, knownSources, now)
	return slices.ContainsFunc(addresses, func(ip string) bool { return sourceOf(auth.ClientInfo{IP: ip}) == source }), err
}

// user returns the user whose password is attempted, 0 if the address has no account.
func (r *Reservation) user(ctx context.Context, tx *persistence.Store) (auth.UserID, error) {
	found, err := tx.Credentials(ctx, r.email)
	if errors.Is(err, auth.ErrNotFound) {
		err = nil
	}
	return found.UserID, err
}

// emitLocked emits user.locked if this attempt was the last before a wait. Otherwise the count need not
// survive a crash of the database's machine. For an address without an account a round trip takes the
// place of the event, so that the reply takes as long.
func (r *Reservation) emitLocked(ctx context.Context, tx *persistence.Store, now time.Time, wait time.Duration) error {
	if wait == 0 || r.silent {
		return tx.Relax(ctx)
	}
	user, err := r.user(ctx, tx)
	switch {
	case err != nil:
		return err
	case user == 0:
		return tx.Ping(ctx)
	}
	return tx.Emit(ctx, now, events.UserLocked{UserID: user, Until: now.Add(wait), Client: r.from})
}

// Succeed resets the account's counters and takes back the count of the source. It belongs in the
// transaction of what succeeded.
func (r *Reservation) Succeed(ctx context.Context, tx *persistence.Store) error {
	r.befriend()
	return r.amend(ctx, tx, func(held *counters) {
		held.reset(r.own)
		held.reset(r.account)
		held.giveBack(r.source)
	})
}

// amend changes counters of an attempt that was counted.
func (r *Reservation) amend(ctx context.Context, tx *persistence.Store, change func(*counters)) error {
	if r == nil {
		return nil
	}
	held, err := r.hold(ctx, tx, r.limits.Clock.Now())
	if err != nil {
		return err
	}
	change(held)
	r.forget()
	return held.set(ctx, tx)
}

// remember records how long the keys have to wait. A wait for the account's limit for all sources is
// recorded for this source only: the account may have a session from another source.
func (r *Reservation) remember(now time.Time, account, source time.Duration) {
	for key, wait := range map[string]time.Duration{r.own.key: account, r.source.key: source} {
		if wait > 0 {
			r.limits.blocked.Set(key, block{known: now, until: now.Add(wait)})
		}
	}
}

// remembered returns how long the attempt has to wait, as far as this instance remembers. It ignores a block
// from a later time, which a clock that was ahead recorded.
func (r *Reservation) remembered(now time.Time) (wait time.Duration) {
	for _, key := range []string{r.own.key, r.source.key} {
		b, ok := r.limits.blocked.GetIfPresent(key)
		if age := now.Sub(b.known); ok && age >= 0 && age < rememberFor {
			wait = max(wait, b.until.Sub(now))
		}
	}
	return wait
}

func (r *Reservation) forget() {
	r.limits.blocked.Invalidate(r.own.key)
	r.limits.blocked.Invalidate(r.source.key)
}

// hold locks and reads the counters of a reservation, and caps their times to the latest that is possible
// at now.
func (r *Reservation) hold(ctx context.Context, tx *persistence.Store, now time.Time) (*counters, error) {
	list := []counter{r.own, r.account, r.source}
	var keys []string
	for _, one := range list {
		if one.key != "" {
			keys = append(keys, one.key)
		}
	}
	byKey, err := tx.HoldCounters(ctx, keys...)
	if err != nil {
		return nil, err
	}
	held := &counters{byKey: byKey}
	for _, one := range list {
		held.each(one, func(l gcra.Limit, due time.Time) time.Time {
			capped := l.Cap(due, now)
			held.isCapped = held.isCapped || !capped.Equal(due)
			return capped
		})
	}
	return held, nil
}

// outlive returns a context that the caller cannot cancel. It ends with the caller's deadline,
// but not within reserveTimeout; a caller without a deadline waits as long as it takes.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(reserveTimeout, time.Until(deadline)))
}

// knownSources is how many live sessions of an account are looked at for its owner's sources, the
// newest first.
const knownSources = 100
