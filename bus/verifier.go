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
	// clockTolerance is the difference between the machine's clock and the service's above which the
	// verifier uses the service's. Instances of the service differ by up to two seconds from each other.
	clockTolerance = 5 * time.Second
)

// VerifierConfig configures a Verifier. Issuer and Audience are required.
type VerifierConfig struct {
	Issuer   string // TOKEN_ISSUER of the service
	Audience string // TOKEN_AUDIENCE of the service
	// MaxStaleness is how long after its last read of the revocations the verifier vouches for tokens:
	// at least a second. 0 is 30 s.
	MaxStaleness time.Duration
	Remember     int          // the number of verified tokens to remember; 0 is 100,000
	Log          *slog.Logger // nil logs nothing
	Clock        *clock.Clock // for this module's own programs and tests; nil is the machine's clock
}

// Verifier verifies access tokens in this process: it sends no request per token over the bus,
// and still refuses the tokens of a revoked session within a moment.
//
// It holds the service's keys and the revoked sessions. It reads both at the start, after a
// reconnect and every few seconds (auth.keys, auth.revocations). The events key.rotated and
// session.revoked make it read immediately. The verifier treats them as hints and does not trust
// their content: any client that may publish on the bus can forge a message. It refuses to vouch
// for tokens before it has caught up once, and when it has not caught up for MaxStaleness.
//
// The verifier checks the signature of a token once. Afterwards it recognizes the token by its
// digest until the token expires or its key is withdrawn.
//
// A verifier uses the service's clock, which each reply to auth.revocations contains, and between
// replies this process's monotonic clock. When the machine's clock jumps, it refuses to vouch
// until it has read all revocations again.
//
// With HS256 access tokens there are no public keys, so the verifier sends each token to the service.
type Verifier struct {
	conn    *nats.Conn
	config  VerifierConfig
	issuer  token.Issuer
	clock   *clock.Clock
	known   *otter.Cache[digest, *remembered]
	hits    shardedCounter
	misses  atomic.Uint64
	synced  atomic.Pointer[syncPoint] // nil before the first catch-up and after Close
	keys    atomic.Pointer[keySet]
	revoked revocations
	fetches keyFetches

	subs  []*nats.Subscription
	stop  context.CancelFunc
	done  chan struct{}
	ready chan struct{} // closed after the first catch-up

	hints      chan struct{}          // an event has arrived
	hinted     atomic.Pointer[string] // session of the latest event; nil once the follower has taken it
	keysHinted atomic.Bool            // an event about keys has arrived
	wanted     chan struct{}          // a caller waits for the keys
	jumped     chan struct{}          // the clock has jumped
}

type digest [sha256.Size]byte

// remembered is a token whose signature is verified.
type remembered struct {
	reply auth.VerifyReply
	key   *verificationKey
}

// syncPoint is the time up to which a Verifier knows the revocations.
type syncPoint struct {
	elapsed time.Duration
	jumps   uint64 // of the clock
}

// errClosed is the error of a closed Verifier.
var errClosed = fmt.Errorf("%w: the verifier is closed", auth.ErrUnavailable)

// NewVerifier makes a Verifier that follows the service over conn, which the caller keeps. The
// Verifier vouches for tokens once Ready returns nil. The caller must Close it. NewVerifier returns
// an error for an invalid configuration, or if it cannot subscribe.
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
	// The subscriptions begin before the first catch-up, so that no event is missed in between.
	if err := v.subscribe(); err != nil {
		return nil, errors.Join(err, v.unsubscribe())
	}
	var ctx context.Context
	ctx, v.stop = context.WithCancel(context.Background())
	go v.follow(ctx)
	return v, nil
}

// check returns the configuration with its defaults, or an error if a field is invalid.
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

// Close stops the verifier. Verify and Ready return auth.ErrUnavailable from then on. A second Close
// has no effect.
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
// the context ends before, and auth.ErrUnavailable for a closed verifier.
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
// auth.ErrInsufficientScope for any other token, and auth.ErrUnavailable if it cannot vouch. The
// slices of the reply are shared; the caller must not change them.
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

// VerifyBearer is Verify for the Authorization headers of a request. It returns
// auth.ErrUnauthenticated if there is no token, and auth.ErrTwoCredentials for two.
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

// Answer is Verify in the form of a handler of auth.verify.
func (v *Verifier) Answer(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
	return v.Verify(ctx, req.Token, req.Scopes...)
}

// read returns the content of a token. If the verifier has public keys, read does not check whether
// the token's session is revoked.
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

// Revoke makes the verifier refuse a session's tokens, of which the last expires at until, without
// waiting for the service: for a caller that has ended the session, or that has received its event
// from the stream.
func (v *Verifier) Revoke(sessionID string, until time.Time) {
	now := v.clock.Read()
	v.revoked.addSession(sessionID, now.Elapsed+remains(until, now.Wall))
}

// RevokeUser is Revoke for all sessions of a user: for a caller that has deleted the account, or
// that has received the event user.deleted from the stream.
func (v *Verifier) RevokeUser(id auth.UserID, until time.Time) {
	now := v.clock.Read()
	v.revoked.addUser(id, now.Elapsed+remains(until, now.Wall))
}
