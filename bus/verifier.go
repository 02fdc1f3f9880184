package bus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/token"
)

const (
	defaultStaleness = 30 * time.Second
	minStaleness     = time.Second
	defaultRemember  = 100_000
	// clockTolerance is how far the machine's clock may differ from the service's before the service's
	// counts. Instances of the service differ by up to two seconds among themselves.
	clockTolerance = 5 * time.Second
)

// VerifierConfig configures a Verifier. Issuer and Audience are required.
type VerifierConfig struct {
	Issuer   string // TOKEN_ISSUER of the service
	Audience string // TOKEN_AUDIENCE of the service
	// MaxStaleness is how long the verifier vouches without having read the revocations: at least a
	// second. 0 is 30 s.
	MaxStaleness time.Duration
	Remember     int          // how many verified tokens to remember; 100,000 if it is 0
	Log          *slog.Logger // nil logs nothing
	Clock        *clock.Clock // for this module's own programs and tests; nil is the machine's
}

// Verifier verifies access tokens in this process: no request goes over the bus for a token,
// and yet a session that has ended is refused within a moment.
//
// It keeps the service's keys and the sessions that have ended, and reads both at the start,
// after a reconnect and every few seconds (auth.keys, auth.revocations). The events key.rotated
// and session.revoked make it read at once. They are hints: anybody who may publish on the bus
// can make up a message, so none of them is believed. Before it has caught up once, and when it
// has not for MaxStaleness, it refuses to vouch.
//
// The signature of a token is checked once; afterwards the token is known by its digest until it
// expires or its key is withdrawn.
//
// A verifier goes by the service's clock, which each reply to auth.revocations brings, and between
// those by this process's monotonic clock. When the machine's clock jumps it refuses to vouch
// until it has read all revocations again.
//
// Where access tokens are HS256 there are no public keys, and each token is sent to the service.
type Verifier struct {
	conn    *nats.Conn
	config  VerifierConfig
	issuer  token.Issuer
	clock   *clock.Clock
	known   *otter.Cache[digest, *remembered]
	hits    shardedCounter
	misses  atomic.Uint64
	synced  atomic.Pointer[syncPoint] // nil before it has caught up, and once it is closed
	keys    atomic.Pointer[keySet]
	revoked revocations
	fetches keyFetches

	subs  []*nats.Subscription
	stop  context.CancelFunc
	done  chan struct{}
	ready chan struct{} // closed when it has caught up the first time

	hints      chan struct{}          // an event has come
	hinted     atomic.Pointer[string] // session of the latest event, nil once the verifier has followed it
	keysHinted atomic.Bool            // an event about keys has come
	wanted     chan struct{}          // a caller waits for the keys
	jumped     chan struct{}          // the clock has
}

type digest [sha256.Size]byte

// remembered is a token whose signature was checked.
type remembered struct {
	reply auth.VerifyReply
	key   *verificationKey
}

// syncPoint is up to when a Verifier knows what has ended.
type syncPoint struct {
	elapsed time.Duration
	jumps   uint64 // of the clock
}

// errClosed is why a closed Verifier does not vouch.
var errClosed = fmt.Errorf("%w: the verifier is closed", auth.ErrUnavailable)

// NewVerifier begins to follow the service over conn, which stays the caller's. It works as
// soon as Ready returns. Close must be called in the end. It returns an error for a configuration
// that cannot be honoured.
func NewVerifier(conn *nats.Conn, c VerifierConfig) (*Verifier, error) {
	c, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	known, err := otter.New(&otter.Options[digest, *remembered]{MaximumSize: c.Remember})
	if err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	v := &Verifier{
		conn: conn, config: c, issuer: token.Issuer{Name: c.Issuer, Audience: c.Audience},
		clock: clock.New(c.Clock.Read, clockTolerance), known: known,
		revoked: revocations{sessions: map[string]time.Duration{}, users: map[auth.UserID]time.Duration{}},
		fetches: keyFetches{at: -refetchEvery},
		done:    make(chan struct{}), ready: make(chan struct{}),
		hints: make(chan struct{}, 1), wanted: make(chan struct{}, 1), jumped: make(chan struct{}, 1),
	}
	// Hearing begins before catching up, so that nothing falls between.
	if err := v.subscribe(); err != nil {
		return nil, errors.Join(err, v.unsubscribe())
	}
	var ctx context.Context
	ctx, v.stop = context.WithCancel(context.Background())
	go v.follow(ctx)
	return v, nil
}

// check returns the configuration with its defaults.
func (c VerifierConfig) check() (VerifierConfig, error) {
	switch {
	case c.Issuer == "" || c.Audience == "":
		return c, errors.New("the fields Issuer and Audience are required")
	case c.MaxStaleness != 0 && c.MaxStaleness < minStaleness:
		return c, fmt.Errorf("the field MaxStaleness is %s, but must be at least %s", c.MaxStaleness, minStaleness)
	case c.Remember < 0:
		return c, fmt.Errorf("the field Remember is %d, but must not be negative", c.Remember)
	}
	if c.MaxStaleness == 0 {
		c.MaxStaleness = defaultStaleness
	}
	if c.Remember == 0 {
		c.Remember = defaultRemember
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	return c, nil
}

func (v *Verifier) subscribe() error {
	for subject, heard := range map[string]nats.MsgHandler{
		events.SessionRevoked{}.Type(): v.onRevoked,
		events.KeyRotated{}.Type():     func(*nats.Msg) { v.Refetch() },
	} {
		sub, err := v.conn.Subscribe(subject, heard)
		if err != nil {
			return fmt.Errorf("verifier: %s: %w", subject, err)
		}
		v.subs = append(v.subs, sub)
	}
	return nil
}

func (v *Verifier) unsubscribe() (err error) {
	for _, sub := range v.subs {
		err = errors.Join(err, sub.Unsubscribe())
	}
	return err
}

// Close ends the following. Verify and Ready return auth.ErrUnavailable from then on. Closing again
// does nothing.
func (v *Verifier) Close() error {
	v.stop()
	<-v.done
	v.synced.Store(nil)
	v.known.InvalidateAll()
	err := v.unsubscribe()
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
		return nil
	}
	return err
}

// Ready waits until the verifier has caught up the first time. It returns the context's error if
// that ends before, and auth.ErrUnavailable for a closed verifier.
func (v *Verifier) Ready(ctx context.Context) error {
	select {
	case <-v.done:
		return errClosed
	default:
	}
	select {
	case <-v.ready:
		return nil
	case <-v.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Err returns nil if the verifier vouches for tokens now, and otherwise an
// auth.ErrUnavailable error.
func (v *Verifier) Err() error { return v.vouch(v.clock.Read()) }

func (v *Verifier) vouch(now clock.Reading) error {
	synced := v.synced.Load()
	switch {
	case synced == nil:
		return fmt.Errorf("%w: revocations are not known yet", auth.ErrUnavailable)
	case now.Elapsed-synced.elapsed > v.config.MaxStaleness:
		return fmt.Errorf("%w: no news of revocations for %s", auth.ErrUnavailable, v.config.MaxStaleness)
	case now.Jumps != synced.jumps:
		signal(v.jumped)
		return fmt.Errorf("%w: the clock has jumped, and revocations are read again", auth.ErrUnavailable)
	}
	return nil
}

// Verify returns the content of a token that is valid now and has all the scopes. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired, auth.ErrTokenRevoked or
// auth.ErrInsufficientScope for any other, and auth.ErrUnavailable if it cannot vouch. The
// slices of the reply are shared and not to be changed.
func (v *Verifier) Verify(ctx context.Context, text string, scopes ...string) (auth.VerifyReply, error) {
	now := v.clock.Read()
	if err := v.vouch(now); err != nil {
		return auth.VerifyReply{}, err
	}
	reply, err := v.read(ctx, text, now.Wall)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	if v.revoked.isRevoked(reply.SessionID, reply.UserID) {
		return auth.VerifyReply{}, auth.ErrTokenRevoked
	}
	if err := reply.Require(scopes...); err != nil {
		return auth.VerifyReply{}, err
	}
	return reply, nil
}

// VerifyBearer is Verify of a request's Authorization headers. It returns
// auth.ErrUnauthenticated if there is none, and auth.ErrTwoCredentials for two.
func (v *Verifier) VerifyBearer(ctx context.Context, headers []string, scopes ...string) (auth.VerifyReply, error) {
	text, err := auth.BearerToken(headers)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	if text == "" {
		return auth.VerifyReply{}, auth.ErrUnauthenticated
	}
	return v.Verify(ctx, text, scopes...)
}

// Answer is Verify as the answer to auth.verify.
func (v *Verifier) Answer(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
	return v.Verify(ctx, req.Token, req.Scopes...)
}

// read returns the content of a token, whether or not its session lives.
func (v *Verifier) read(ctx context.Context, text string, now time.Time) (auth.VerifyReply, error) {
	if len(*v.keys.Load()) == 0 {
		return Call(ctx, v.conn, auth.Verify, auth.VerifyRequest{Token: text})
	}
	if len(text) > token.MaxBytes {
		return auth.VerifyReply{}, auth.ErrInvalidToken
	}
	id := digest(sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text)))) // without a copy
	if m, ok := v.known.GetIfPresent(id); ok && !m.key.withdrawn.Load() {
		v.hits.add(id)
		if !now.Before(m.reply.ExpiresAt) {
			return auth.VerifyReply{}, auth.ErrTokenExpired
		}
		return m.reply, nil
	}
	v.misses.Add(1)
	var key *verificationKey
	access, err := v.issuer.Read(text, func(kid string) (_ []token.Key, err error) {
		if key, err = v.lookupKey(ctx, kid); key == nil {
			return nil, err
		}
		return key.keys, nil
	}, now)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	reply := auth.VerifyReply{Principal: access.Principal()}
	v.known.Set(id, &remembered{reply, key})
	return reply, nil
}

// Revoke refuses a session's tokens, of which the last expires at until, without waiting for the
// service: for a caller that has ended the session, or that has its event from the stream.
func (v *Verifier) Revoke(sessionID string, until time.Time) {
	now := v.clock.Read()
	v.revoked.addSession(sessionID, now.Elapsed+remains(until, now.Wall))
}

// RevokeUser is Refuse for all sessions of a user: for a caller that has deleted the account, or
// that has the event user.deleted from the stream.
func (v *Verifier) RevokeUser(id auth.UserID, until time.Time) {
	now := v.clock.Read()
	v.revoked.addUser(id, now.Elapsed+remains(until, now.Wall))
}
