package handlers

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

// Rules say how often something may be tried. All limits of a list have to let a try pass: the
// first for haste, a second one, with more of a burst and a longer interval, for patience.
type Rules struct {
	Login          []gcra.Limit // tries at the password of an account from one source
	LoginAccount   []gcra.Limit // from everywhere together
	LoginSource    []gcra.Limit // at any accounts from one source
	RegisterSource []gcra.Limit // registrations from one source
	Code           []gcra.Limit // tries at a code of an account from one source
	CodeAccount    []gcra.Limit // from everywhere together
	Mail           []gcra.Limit // requests for mails to an address from one source
	MailAccount    []gcra.Limit // from everywhere together; and, apart from them, notices of each kind
	MailSource     []gcra.Limit // requests for mails to any addresses from one source
	Update         []gcra.Limit // changes of an account's name or locale by its user
	RefreshSession gcra.Limit   // refreshes of a session
}

const (
	// rememberedBlocks is how many keys an instance knows to be blocked, at about 200 bytes.
	rememberedBlocks = 100_000
	// rememberedSources is how many pairs of account and source an instance knows to have logged in, at
	// about 150 bytes.
	rememberedSources = 100_000
	// rememberFor is how long it takes that for granted, since another instance may have let the
	// account begin anew meanwhile.
	rememberFor = 5 * time.Second
	// chargeTimeout is how long the transaction that counts an attempt has at least.
	chargeTimeout = 5 * time.Second
)

// Limits bounds guessing, and what mail is sent, by counters that all instances share. A nil one bounds nothing. Make
// it with NewLimits.
//
// An attempt is counted before its password or code is compared, in a separate transaction. The
// count stands if the caller hangs up afterwards, the deadline passes, the hashing pool refuses the
// request, or a transaction is rolled back. Only a success takes counts back: all of the account's,
// and one of the source's. If one counter refuses an attempt, no counter counts it, so waiting for
// RetryAfter is enough.
//
// Counters go by what is tried: an address counts the same whether it has an account or not,
// however it is spelled, and whichever request brings it. The database is asked for the account
// only when a counter of it is used up, and then for any address, so that the answer takes no
// longer for those that have one. The keys of an account's counters begin with that of the one for
// everywhere, so that all of them are found.
type Limits struct {
	Rules
	Store *persistence.Store
	Clock clock.Func

	// Refused, if it is set, hears of each try that has to wait, by what was tried: login, code,
	// mail, register, refresh or update; and of each notice that is not sent.
	Refused func(kind string)

	key []byte
	// blocked are keys that have to wait. Whoever is pushed out of it, or was looked for a while
	// ago, is looked for in the database again.
	blocked *otter.Cache[string, block]
	// owed are the attempts of sources that were refused as overloaded, until they are charged: see shed.
	owed *otter.Cache[string, due]
	// familiar are sources that logged in to an account, by the key of their own counter of it.
	familiar *otter.Cache[string, struct{}]
}

// block is how long a key has to wait, as the database knew it at some time.
type block struct{ known, until time.Time }

// NewLimits makes limits whose counters are kept under digests made with a secret, so that the
// database tells neither addresses nor sources.
func NewLimits(store *persistence.Store, secret []byte, rules Rules) (*Limits, error) {
	blocked, err := otter.New(&otter.Options[string, block]{MaximumSize: rememberedBlocks})
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	owed, err := otter.New(&otter.Options[string, due]{MaximumSize: rememberedBlocks})
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	familiar, err := otter.New(&otter.Options[string, struct{}]{MaximumSize: rememberedSources})
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return &Limits{Rules: rules, Store: store, key: secret, blocked: blocked, owed: owed, familiar: familiar}, nil
}

// charge is a try that was counted. A nil one was not.
type charge struct {
	limits *Limits
	kind   string // of Limits.Refused
	from   auth.ClientInfo
	email  string // the address in the form that is compared; "" if it is none, or not about one

	own, account, source counter // of the account from this source, from everywhere, of the source
	owes                 due     // debt of the source for attempts that were refused as overloaded
	waived               bool    // the account's from everywhere is used up, and this source passed all the same
	silent               bool    // being held up is no event
}

// counter is one that a charge is about; without a key there is none.
type counter struct {
	key   string
	tiers []gcra.Limit
}

// guess counts a try at the password of an address. It returns auth.ErrRateLimited if that has
// to wait.
func (l *Limits) guess(ctx context.Context, address string, from auth.ClientInfo) (*charge, error) {
	if l == nil {
		return nil, nil
	}
	return l.guessing(address, from).pay(ctx)
}

// guessing is the charge of guess before it is paid; nil without limits.
func (l *Limits) guessing(address string, from auth.ClientInfo) *charge {
	if l == nil {
		return nil
	}
	return l.about("login", address, from, l.Login, l.LoginAccount, l.LoginSource)
}

// code counts a try at a code that was sent to an address, whatever it is for. It has counters of
// its own for the account, which no right password begins anew, and shares the source's.
func (l *Limits) code(ctx context.Context, address string, from auth.ClientInfo) (*charge, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("code", address, from, l.Code, l.CodeAccount, nil)
	if source := sourceOf(from); source != "" {
		c.source = counter{l.digest("login source", source, ""), l.LoginSource}
	}
	return c.pay(ctx)
}

// link counts an attempt at the password that belongs to a link, by the digest of the link.
func (l *Limits) link(ctx context.Context, digest string, from auth.ClientInfo) (*charge, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("link", digest, from, l.Code, l.CodeAccount, nil)
	c.silent = true
	return c.pay(ctx)
}

// mail counts a request for a mail to an address. It returns auth.ErrRateLimited if that has to
// wait.
func (l *Limits) mail(ctx context.Context, address string, from auth.ClientInfo) (*charge, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("mail", address, from, l.Mail, l.MailAccount, l.MailSource)
	c.silent = true
	return c.pay(ctx)
}

// notice reports whether a mail about an event of an account may be sent to an address, and counts
// it. Each kind has a counter of its own. It is part of the event's transaction, which it never
// refuses.
func (l *Limits) notice(ctx context.Context, tx *persistence.Store, kind, address string) (bool, error) {
	if l == nil {
		return true, nil
	}
	c := &charge{limits: l, account: counter{l.digest(kind, "", email.ParseOrZero(address).Key), l.MailAccount}}
	now := l.Clock.Now()
	held, err := c.hold(ctx, tx, now)
	if err != nil {
		return false, err
	}
	if held.wait(c.account, now) > 0 {
		l.refused("notice")
		if held.isCapped {
			err = held.set(ctx, tx)
		}
		return false, err
	}
	held.pass(c.account, now)
	return true, held.set(ctx, tx)
}

// update counts a change of an account by its user, in the transaction of the change: a change that
// fails is not counted. It returns how long the account has to wait; if that is not 0, the
// transaction has to be committed without the change.
func (l *Limits) update(ctx context.Context, tx *persistence.Store, user auth.UserID) (wait time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	c := &charge{limits: l, account: counter{l.digest("update", "", strconv.FormatInt(int64(user), 10)), l.Update}}
	now := l.Clock.Now()
	held, err := c.hold(ctx, tx, now)
	if err != nil {
		return 0, err
	}
	if wait = held.wait(c.account, now); wait > 0 {
		l.refused("update")
		if held.isCapped {
			err = held.set(ctx, tx)
		}
		return wait, err
	}
	held.pass(c.account, now)
	return 0, held.set(ctx, tx)
}

// about is a charge about an address, by counters of a kind: of the address from a source, from
// everywhere, and of the source.
func (l *Limits) about(kind, address string, from auth.ClientInfo, own, account, source []gcra.Limit) *charge {
	parsed, err := email.Parse(address)
	key, at := parsed.Key, sourceOf(from)
	if err != nil { // counted by what it is; what is cut off leaves more than any address has
		key = address[:min(len(address), email.MaxBytes+1)]
	}
	everywhere := l.digest(kind+" account", "", key)
	c := &charge{
		limits: l, kind: kind, from: from, email: parsed.Key,
		own:     counter{everywhere + "." + l.digest(kind, at, key)[:ownDigits], own},
		account: counter{everywhere, account},
	}
	if at != "" && source != nil { // who asks on the bus for many people is not one source
		c.source = counter{l.digest(kind+" source", at, ""), source}
	}
	return c
}

// ownDigits are enough of a digest to tell the sources of one account apart: 128 bits.
const ownDigits = 22

// lift lets the password of an address be tried anew, from everywhere, as after a success. It is
// for the transaction of whoever gives the account another password. Once that is committed,
// forget lets it take effect here; other instances see it within rememberFor.
func (l *Limits) lift(ctx context.Context, tx *persistence.Store, address string) error {
	if l == nil {
		return nil
	}
	return tx.DropCounters(ctx, l.accountKey(address))
}

func (l *Limits) forget(address string) {
	if l == nil {
		return
	}
	account := l.accountKey(address)
	for key := range l.blocked.Keys() {
		if strings.HasPrefix(key, account) {
			l.blocked.Invalidate(key)
		}
	}
}

// accountKey is what the keys of all counters of an address's password begin with.
func (l *Limits) accountKey(address string) string {
	return l.about("login", address, auth.ClientInfo{}, nil, nil, nil).account.key
}

// registration counts a registration. It returns auth.ErrRateLimited if the source has to wait.
func (l *Limits) registration(ctx context.Context, from auth.ClientInfo) error {
	c := l.registering(from)
	if c == nil {
		return nil
	}
	_, err := c.pay(ctx)
	return err
}

// registering is the charge of registration before it is paid; nil if the source is not limited.
func (l *Limits) registering(from auth.ClientInfo) *charge {
	source := sourceOf(from)
	if l == nil || source == "" {
		return nil
	}
	return &charge{limits: l, kind: "register", from: from, source: counter{l.digest("register source", source, ""), l.RegisterSource}}
}

// refreshes is the limit of a session's refreshes.
func (l *Limits) refreshes() gcra.Limit {
	if l == nil {
		return gcra.Limit{}
	}
	return l.RefreshSession
}

// digest is the key of a counter. Only an account may hold a NUL, so no two counters share one.
func (l *Limits) digest(kind, source, account string) string {
	mac := hmac.New(sha256.New, l.key)
	mac.Write([]byte(kind + "\x00" + source + "\x00" + account))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sourceOf is what a client's tries are counted by: its address, or the /64 of an IPv6 address,
// within which everybody has as many as they like; "" if it is not known.
func sourceOf(from auth.ClientInfo) string {
	ip, err := netip.ParseAddr(from.IP)
	if err != nil {
		return ""
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}

// pay counts the attempt at all counters, or returns auth.ErrRateLimited. Cancelling the
// request does not cancel the count.
func (c *charge) pay(ctx context.Context) (*charge, error) {
	now := c.limits.Clock.Now()
	if wait := c.remembered(now); wait > 0 {
		c.limits.refused(c.kind)
		return nil, auth.ErrRateLimited.After(wait)
	}
	ctx, cancel := outlive(ctx)
	defer cancel()
	c.takeDebt()
	var refused error
	err := c.limits.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		held, err := c.hold(ctx, tx, now)
		if err != nil {
			return err
		}
		// Capped times are kept although the try has to wait. Otherwise it would have to wait until
		// the clock has come to where it had been.
		if refused = c.count(ctx, tx, held, now); refused != nil && held.isCapped && errors.Is(refused, auth.ErrRateLimited) {
			c.owes = due{} // set stores it
			return held.set(ctx, tx)
		}
		return refused
	})
	if err = cmp.Or(err, refused); err == nil {
		return c, nil
	}
	if errors.Is(err, auth.ErrRateLimited) {
		c.limits.refused(c.kind)
	}
	c.returnDebt()
	return nil, err
}

// outlive returns a context that the caller cannot cancel. It ends with the caller's deadline,
// but not within chargeTimeout; a caller without a deadline waits as long as it takes.
func outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(chargeTimeout, time.Until(deadline)))
}

// refused tells that something has to wait.
func (l *Limits) refused(kind string) {
	if l != nil && l.Refused != nil {
		l.Refused(kind)
	}
}

// count is pay in its transaction, which keeps nothing of a try that has to wait.
func (c *charge) count(ctx context.Context, tx *persistence.Store, held *counters, now time.Time) (err error) {
	held.add(c.source, c.owes, now)
	own, source := held.wait(c.own, now), held.wait(c.source, now)
	if own == 0 && source == 0 && held.wait(c.account, now) > 0 {
		if c.waived, err = c.isKnownSource(ctx, tx, now); err != nil {
			return err
		}
		if c.waived {
			c.limits.familiar.Set(c.own.key, struct{}{})
		}
	}
	account := held.wait(c.everywhere(), now)
	if wait := max(own, account, source); wait > 0 {
		c.remember(now, max(own, account), source)
		return auth.ErrRateLimited.After(wait)
	}
	held.pass(c.own, now)
	held.pass(c.everywhere(), now)
	held.pass(c.source, now)
	if err := c.tell(ctx, tx, now, max(held.wait(c.own, now), held.wait(c.everywhere(), now))); err != nil {
		return err
	}
	return held.set(ctx, tx)
}

// everywhere is the account's counter, unless it is waived.
func (c *charge) everywhere() counter {
	if c.waived {
		return counter{}
	}
	return c.account
}

// knownSources is how many live sessions of an account are looked at for its owner's sources, the
// newest first.
const knownSources = 100

// isKnownSource reports whether the account has a live session from the source of this try: its
// owner, then, whom strangers elsewhere are not to keep out.
func (c *charge) isKnownSource(ctx context.Context, tx *persistence.Store, now time.Time) (bool, error) {
	source := sourceOf(c.from)
	user, err := c.user(ctx, tx)
	if err != nil || source == "" {
		return false, err
	}
	addresses, err := tx.SessionAddresses(ctx, user, knownSources, now)
	return slices.ContainsFunc(addresses, func(ip string) bool { return sourceOf(auth.ClientInfo{IP: ip}) == source }), err
}

// user is whose password is tried; 0, which is nobody, if the address has no account.
func (c *charge) user(ctx context.Context, tx *persistence.Store) (auth.UserID, error) {
	found, err := tx.Credentials(ctx, c.email)
	if errors.Is(err, auth.ErrNotFound) {
		err = nil
	}
	return found.UserID, err
}

// tell emits user.locked if this try was the last before a wait. If it is not, nothing depends
// on the count outliving a crash of the database's machine. An address without an account costs
// a round trip in place of the event, so that no time tells it from others.
func (c *charge) tell(ctx context.Context, tx *persistence.Store, now time.Time, wait time.Duration) error {
	if wait == 0 || c.silent {
		return tx.Relax(ctx)
	}
	user, err := c.user(ctx, tx)
	switch {
	case err != nil:
		return err
	case user == 0:
		return tx.Ping(ctx)
	}
	return tx.Emit(ctx, now, events.UserLocked{UserID: user, Until: now.Add(wait), Client: c.from})
}

// settle is for the transaction of a success: the account's counters begin anew, and the source
// gets back what it was charged.
func (c *charge) settle(ctx context.Context, tx *persistence.Store) error {
	c.befriend()
	return c.amend(ctx, tx, func(held *counters) {
		held.reset(c.own)
		held.reset(c.account)
		held.giveBack(c.source)
	})
}

// amend changes the counters after the fact.
func (c *charge) amend(ctx context.Context, tx *persistence.Store, change func(*counters)) error {
	if c == nil {
		return nil
	}
	held, err := c.hold(ctx, tx, c.limits.Clock.Now())
	if err != nil {
		return err
	}
	change(held)
	c.forget()
	return held.set(ctx, tx)
}

// remember notes how long the keys have to wait. What holds up the account from everywhere is
// noted for this source alone: another may be one it has a session from.
func (c *charge) remember(now time.Time, account, source time.Duration) {
	for key, wait := range map[string]time.Duration{c.own.key: account, c.source.key: source} {
		if wait > 0 {
			c.limits.blocked.Set(key, block{known: now, until: now.Add(wait)})
		}
	}
}

// remembered is how long the try has to wait, as far as this instance knows. A block that is known
// since a later time is by a clock that was ahead, and says nothing.
func (c *charge) remembered(now time.Time) (wait time.Duration) {
	for _, key := range []string{c.own.key, c.source.key} {
		b, ok := c.limits.blocked.GetIfPresent(key)
		if age := now.Sub(b.known); ok && age >= 0 && age < rememberFor {
			wait = max(wait, b.until.Sub(now))
		}
	}
	return wait
}

func (c *charge) forget() {
	c.limits.blocked.Invalidate(c.own.key)
	c.limits.blocked.Invalidate(c.source.key)
}

// counters are what the database keeps of a charge's counters.
type counters struct {
	byKey    map[string]persistence.Counter
	isCapped bool // a time was later than it can be: see gcra.Limit.Cap
}

// hold reads the counters of a charge, which nobody else changes until the transaction ends, as
// they can be at now.
func (c *charge) hold(ctx context.Context, tx *persistence.Store, now time.Time) (*counters, error) {
	list := []counter{c.own, c.account, c.source}
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
