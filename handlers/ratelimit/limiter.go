// Package ratelimit bounds guessing, registrations and mails by counters in the database, which all
// instances share.
//
// Limiter (limiter.go) has one method for each kind of attempt. An attempt is reserved before it is
// carried out (reservation.go), at the counters of its account and source (counters.go). In
// admission.go, a request waits for the hashing pool before its attempt is counted.
package ratelimit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

// Policy is how often something may be attempted. An attempt has to pass all limits of its list: the
// first bounds fast guessing; the second, with a larger burst and a longer interval, slow guessing.
type Policy struct {
	Login          []gcra.Limit // attempts at the password of an account from one source
	LoginAccount   []gcra.Limit // from all sources
	LoginSource    []gcra.Limit // at any account from one source
	RegisterSource []gcra.Limit // registrations from one source
	Code           []gcra.Limit // attempts at a code of an account from one source
	CodeAccount    []gcra.Limit // from all sources
	Mail           []gcra.Limit // requests for mails to an address from one source
	MailAccount    []gcra.Limit // from all sources; notices have a separate counter for each kind
	MailSource     []gcra.Limit // requests for mails to any address from one source
	Update         []gcra.Limit // changes of an account's name or locale by its user
	RefreshSession gcra.Limit   // refreshes of a session
}

const (
	// rememberedBlocks is how many blocked keys an instance remembers, at about 200 bytes each.
	rememberedBlocks = 100_000
	// rememberedSources is how many pairs of an account and a source that logged in to it an instance
	// remembers, at about 150 bytes each.
	rememberedSources = 100_000
	// rememberFor is how long an instance relies on a remembered block. Another instance may reset the
	// account in that time.
	rememberFor = 5 * time.Second
	// reserveTimeout is the minimum timeout of the transaction that counts an attempt.
	reserveTimeout = 5 * time.Second
)

// Limiter bounds guessing and mails by counters that all instances share. A nil Limiter bounds nothing.
// New creates a Limiter.
//
// An attempt is counted before its password or code is compared, in a separate transaction. The
// count stands if the caller hangs up afterwards, the deadline passes, the hashing pool refuses the
// request, or a transaction is rolled back. Only a success takes counts back: all of the account's,
// and one of the source's. If one counter refuses an attempt, no counter counts it, so waiting for
// RetryAfter is enough.
//
// A counter belongs to an address, not to an account: an address counts the same with and without an
// account, in every spelling and in every kind of request. The limiter reads the account only when a
// counter is used up, and does so for every address, so that the reply takes no longer for an address
// with an account. The keys of an account's counters begin with the key of the counter for all sources,
// so one prefix finds them.
type Limiter struct {
	Policy
	Store *persistence.Store
	Clock clock.Func

	// Refused, if it is set, is called for each refused attempt with its kind: login, code, link, mail,
	// register, refresh or update; and with notice for each notice that is not sent.
	Refused func(kind string)

	key []byte
	// blocked are keys that have to wait. The limiter reads a key from the database again after its
	// eviction or after rememberFor.
	blocked *otter.Cache[string, block]
	// owed are attempts that the hashing pool refused and the database does not count yet, by source:
	// see shed.
	owed *otter.Cache[string, due]
	// familiar are sources that logged in to an account, by the key of their counter for it.
	familiar *otter.Cache[string, struct{}]
}

// New returns a limiter. The database keeps its counters under digests keyed with the secret, so it
// reveals neither addresses nor sources.
func New(store *persistence.Store, secret []byte, policy Policy) (*Limiter, error) {
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
	return &Limiter{Policy: policy, Store: store, key: secret, blocked: blocked, owed: owed, familiar: familiar}, nil
}

// ReserveLogin counts an attempt at the password of an address. It returns auth.ErrRateLimited if the
// attempt has to wait.
func (l *Limiter) ReserveLogin(ctx context.Context, address string, from auth.ClientInfo) (*Reservation, error) {
	if l == nil {
		return nil, nil
	}
	return l.login(address, from).reserve(ctx)
}

// login returns the reservation of ReserveLogin before it is counted, nil without limits.
func (l *Limiter) login(address string, from auth.ClientInfo) *Reservation {
	if l == nil {
		return nil
	}
	return l.about("login", address, from, l.Login, l.LoginAccount, l.LoginSource)
}

// ReserveCode counts an attempt at a code that was sent to an address, for any purpose. The account has
// separate counters for codes, which a correct password does not reset; the counter of the source is
// that of logins.
func (l *Limiter) ReserveCode(ctx context.Context, address string, from auth.ClientInfo) (*Reservation, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("code", address, from, l.Code, l.CodeAccount, nil)
	if source := sourceOf(from); source != "" {
		c.source = counter{l.digest("login source", source, ""), l.LoginSource}
	}
	return c.reserve(ctx)
}

// ReserveLink counts an attempt at the password that belongs to a link, by the digest of the link.
func (l *Limiter) ReserveLink(ctx context.Context, digest string, from auth.ClientInfo) (*Reservation, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("link", digest, from, l.Code, l.CodeAccount, nil)
	c.silent = true
	return c.reserve(ctx)
}

// ReserveMail counts a request for a mail to an address. It returns auth.ErrRateLimited if the request
// has to wait.
func (l *Limiter) ReserveMail(ctx context.Context, address string, from auth.ClientInfo) (*Reservation, error) {
	if l == nil {
		return nil, nil
	}
	c := l.about("mail", address, from, l.Mail, l.MailAccount, l.MailSource)
	c.silent = true
	return c.reserve(ctx)
}

// ReserveNotice reports whether a mail about an event of an account may be sent to an address, and counts
// it. Each kind has a separate counter. The count is part of the event's transaction, which it never
// fails for a limit.
func (l *Limiter) ReserveNotice(ctx context.Context, tx *persistence.Store, kind, address string) (bool, error) {
	if l == nil {
		return true, nil
	}
	c := &Reservation{limits: l, account: counter{l.digest(kind, "", email.ParseOrZero(address).Key), l.MailAccount}}
	now := l.Clock.Now()
	held, err := c.hold(ctx, tx, now)
	if err != nil {
		return false, err
	}
	if held.wait(c.account, now) > 0 {
		l.Refuse("notice")
		if held.isCapped {
			err = held.set(ctx, tx)
		}
		return false, err
	}
	held.pass(c.account, now)
	return true, held.set(ctx, tx)
}

// ReserveUpdate counts a change of an account by its user, in the transaction of the change: a change that
// fails is not counted. It returns how long the account has to wait; if that is not 0, the
// transaction has to be committed without the change.
func (l *Limiter) ReserveUpdate(ctx context.Context, tx *persistence.Store, user auth.UserID) (wait time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	c := &Reservation{limits: l, account: counter{l.digest("update", "", strconv.FormatInt(int64(user), 10)), l.Update}}
	now := l.Clock.Now()
	held, err := c.hold(ctx, tx, now)
	if err != nil {
		return 0, err
	}
	if wait = held.wait(c.account, now); wait > 0 {
		l.Refuse("update")
		if held.isCapped {
			err = held.set(ctx, tx)
		}
		return wait, err
	}
	held.pass(c.account, now)
	return 0, held.set(ctx, tx)
}

// about returns a reservation for an address, with three counters of a kind: for the address from this
// source, for the address from all sources, and for the source.
func (l *Limiter) about(kind, address string, from auth.ClientInfo, own, account, source []gcra.Limit) *Reservation {
	parsed, err := email.Parse(address)
	key, at := parsed.Key, sourceOf(from)
	if err != nil { // counted by its text; the kept part is longer than any valid address
		key = address[:min(len(address), email.MaxBytes+1)]
	}
	everywhere := l.digest(kind+" account", "", key)
	c := &Reservation{
		limits: l, kind: kind, from: from, email: parsed.Key,
		own:     counter{everywhere + "." + l.digest(kind, at, key)[:ownDigits], own},
		account: counter{everywhere, account},
	}
	if at != "" && source != nil { // a caller on the bus that acts for many users is not one source
		c.source = counter{l.digest(kind+" source", at, ""), source}
	}
	return c
}

// ownDigits is the length of the part of a digest that distinguishes the sources of one account: 132 bits.
const ownDigits = 22

// Reset deletes the counters of the attempts at the password of an address, as a success does. It
// belongs in the transaction that sets another password. After the commit, call Forget; other instances
// follow within rememberFor.
func (l *Limiter) Reset(ctx context.Context, tx *persistence.Store, address string) error {
	if l == nil {
		return nil
	}
	return tx.DropCounters(ctx, l.accountKey(address))
}

// Forget drops what this instance remembers of blocked attempts at the password of an address.
func (l *Limiter) Forget(address string) {
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

// accountKey returns the prefix of the keys of all counters of an address's password.
func (l *Limiter) accountKey(address string) string {
	return l.about("login", address, auth.ClientInfo{}, nil, nil, nil).account.key
}

// ReserveRegistration counts a registration. It returns auth.ErrRateLimited if the source has to wait.
func (l *Limiter) ReserveRegistration(ctx context.Context, from auth.ClientInfo) error {
	c := l.registration(from)
	if c == nil {
		return nil
	}
	_, err := c.reserve(ctx)
	return err
}

// registration returns the reservation of ReserveRegistration before it is counted; nil if the source is not limited.
func (l *Limiter) registration(from auth.ClientInfo) *Reservation {
	source := sourceOf(from)
	if l == nil || source == "" {
		return nil
	}
	return &Reservation{limits: l, kind: "register", from: from, source: counter{l.digest("register source", source, ""), l.RegisterSource}}
}

// Refreshes returns the limit of a session's refreshes.
func (l *Limiter) Refreshes() gcra.Limit {
	if l == nil {
		return gcra.Limit{}
	}
	return l.RefreshSession
}

// digest returns the key of a counter. Only the account may contain a NUL, so no two counters share a key.
func (l *Limiter) digest(kind, source, account string) string {
	mac := hmac.New(sha256.New, l.key)
	mac.Write([]byte(kind + "\x00" + source + "\x00" + account))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sourceOf returns the source that a client's attempts are counted for: its IPv4 address, or the /64 of
// its IPv6 address, since a client chooses the rest freely; "" if the address is not known.
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

// Refuse reports a refused attempt to Refused.
func (l *Limiter) Refuse(kind string) {
	if l != nil && l.Refused != nil {
		l.Refused(kind)
	}
}
