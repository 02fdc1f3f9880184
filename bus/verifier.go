package bus

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/maypok86/otter/v2"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/token"
)

const (
	defaultStaleness = 30 * time.Second
	defaultRemember  = 100_000
	// catchUpEvery is how often a verifier asks for what it may have missed, or more often if
	// it may not be stale for long.
	catchUpEvery = 5 * time.Second
	// catchUpTimeout is how long it waits for one answer.
	catchUpTimeout = 2 * time.Second
	// refetchEvery is how often an unknown kid may make it ask for the keys.
	refetchEvery = 5 * time.Second
)

// VerifierConfig says whose tokens a Verifier takes. Issuer and Audience are required.
type VerifierConfig struct {
	Issuer       string        // TOKEN_ISSUER of the service
	Audience     string        // TOKEN_AUDIENCE of the service
	MaxStaleness time.Duration // how long to vouch without news of revocations; 30 s if it is 0
	Remember     int           // how many verified tokens to remember; 100,000 if it is 0
	Log          *slog.Logger  // nil logs nothing
	Clock        func() time.Time
}

// Verifier verifies access tokens in this process: no request goes over the bus for a token,
// and yet a session that has ended is refused within a moment.
//
// It keeps the service's keys and the sessions that have ended. Both come as events
// (key.rotated, session.revoked), and what was missed is asked for at the start, after a
// reconnect and every few seconds (auth.keys, auth.revocations). Before it has caught up once,
// and when it has not for MaxStaleness, it refuses to vouch. The signature of a token is
// checked once; afterwards the token is known by its digest until it expires.
//
// Where access tokens are HS256 there are no public keys, and each token is asked about.
type Verifier struct {
	conn   *nats.Conn
	config VerifierConfig
	issuer token.Issuer
	known  *otter.Cache[digest, auth.VerifyReply]
	hits   spread
	misses atomic.Uint64
	begun  time.Time
	synced atomic.Int64 // when it last caught up, in nanoseconds since begun; 0 never
	keys   atomic.Pointer[map[string][]token.Key]

	revokedMu sync.RWMutex
	revoked   map[string]time.Time // by session, when the last of its tokens has expired

	fetchMu sync.Mutex
	fetched time.Time // when an unknown kid last made us ask

	subs   []*nats.Subscription
	stop   context.CancelFunc
	done   chan struct{}
	ready  chan struct{} // closed when it has caught up the first time
	news   chan struct{} // that the keys have changed
	cursor string        // of auth.revocations; the follower's
}

type digest [sha256.Size]byte

// NewVerifier begins to follow the service over conn, which stays the caller's. It works as
// soon as Ready returns. Close must be called in the end.
func NewVerifier(conn *nats.Conn, c VerifierConfig) (*Verifier, error) {
	if c.Issuer == "" || c.Audience == "" {
		return nil, errors.New("verifier: Issuer and Audience are required")
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
		c.Clock = time.Now
	}
	known, err := otter.New(&otter.Options[digest, auth.VerifyReply]{MaximumSize: c.Remember})
	if err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	v := &Verifier{
		conn: conn, config: c, issuer: token.Issuer{Name: c.Issuer, Audience: c.Audience}, known: known,
		begun: time.Now(), revoked: map[string]time.Time{},
		done: make(chan struct{}), ready: make(chan struct{}), news: make(chan struct{}, 1),
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

func (v *Verifier) subscribe() error {
	for subject, heard := range map[string]nats.MsgHandler{
		events.SessionRevoked{}.Type(): v.hearRevoked,
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

// Close ends the following. Verify returns auth.ErrUnavailable from then on. Closing again
// does nothing.
func (v *Verifier) Close() error {
	v.stop()
	<-v.done
	v.synced.Store(0)
	v.known.InvalidateAll()
	err := v.unsubscribe()
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
		return nil
	}
	return err
}

// Ready waits until the verifier has caught up the first time, and returns the context's
// error if that ends before.
func (v *Verifier) Ready(ctx context.Context) error {
	select {
	case <-v.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Err returns nil if the verifier vouches for tokens now, and otherwise an
// auth.ErrUnavailable error.
func (v *Verifier) Err() error {
	synced := time.Duration(v.synced.Load())
	switch {
	case synced == 0:
		return fmt.Errorf("%w: revocations are not known yet", auth.ErrUnavailable)
	case time.Since(v.begun)-synced > v.config.MaxStaleness:
		return fmt.Errorf("%w: no news of revocations for %s", auth.ErrUnavailable, v.config.MaxStaleness)
	}
	return nil
}

// Verify returns what a token says that is valid now and has all the scopes. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired, auth.ErrTokenRevoked or
// auth.ErrInsufficientScope for any other, and auth.ErrUnavailable if it cannot tell. The
// slices of the reply are shared and not to be changed.
func (v *Verifier) Verify(ctx context.Context, text string, scopes ...string) (auth.VerifyReply, error) {
	if err := v.Err(); err != nil {
		return auth.VerifyReply{}, err
	}
	reply, err := v.read(ctx, text)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	if v.isRevoked(reply.SessionID) {
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

// read returns what a token says, whether or not its session lives.
func (v *Verifier) read(ctx context.Context, text string) (auth.VerifyReply, error) {
	if len(*v.keys.Load()) == 0 {
		return Call(ctx, v.conn, auth.Verify, auth.VerifyRequest{Token: text})
	}
	if len(text) > token.MaxBytes {
		return auth.VerifyReply{}, auth.ErrInvalidToken
	}
	now := v.config.Clock()
	id := digest(sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text)))) // without a copy
	if reply, ok := v.known.GetIfPresent(id); ok {
		v.hits.add(id)
		if !now.Before(reply.ExpiresAt) {
			return auth.VerifyReply{}, auth.ErrTokenExpired
		}
		return reply, nil
	}
	v.misses.Add(1)
	access, err := v.issuer.Read(text, v.find(ctx), now)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	reply := access.Reply()
	v.known.Set(id, reply)
	return reply, nil
}

// find looks up a kid, for package token. An unknown one may be of a new key, so now and then
// the service is asked.
func (v *Verifier) find(ctx context.Context) token.Find {
	return func(kid string) ([]token.Key, error) {
		if found, ok := (*v.keys.Load())[kid]; ok {
			return found, nil
		}
		v.fetchMu.Lock()
		defer v.fetchMu.Unlock()
		if now := v.config.Clock(); now.Sub(v.fetched) >= refetchEvery {
			v.fetched = now
			if err := v.fetchKeys(ctx); err != nil {
				return nil, err
			}
		}
		return (*v.keys.Load())[kid], nil
	}
}

// fetchKeys asks for the keys. If one is gone, what it signed is not known any more.
func (v *Verifier) fetchKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	set, err := Call(ctx, v.conn, auth.Keys, auth.KeysRequest{})
	if err != nil {
		return err
	}
	keys := map[string][]token.Key{}
	for _, k := range set.Keys {
		public, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
		if err != nil || k.Curve != "Ed25519" || len(public) != 32 {
			return fmt.Errorf("key %s is not an Ed25519 key", k.KeyID)
		}
		keys[k.KeyID] = []token.Key{{ID: k.KeyID, Public: public}}
	}
	before := v.keys.Swap(&keys)
	if before == nil {
		return nil
	}
	for kid := range *before {
		if _, stays := keys[kid]; !stays {
			v.known.InvalidateAll()
			return nil
		}
	}
	return nil
}

// Refuse refuses a session's tokens, of which the last ends at until, without waiting for the
// news: for whoever ended it.
func (v *Verifier) Refuse(sessionID string, until time.Time) {
	v.revokedMu.Lock()
	defer v.revokedMu.Unlock()
	v.revoked[sessionID] = until.Add(token.Leeway)
}

func (v *Verifier) isRevoked(sessionID string) bool {
	v.revokedMu.RLock()
	defer v.revokedMu.RUnlock()
	_, revoked := v.revoked[sessionID]
	return revoked
}

func (v *Verifier) hearRevoked(m *nats.Msg) {
	_, data, err := events.Decode[events.SessionRevoked](m.Header, m.Data)
	if err != nil {
		v.config.Log.Warn("not an event", "subject", m.Subject, "err", err)
		return
	}
	v.Refuse(data.SessionID, data.ExpiresAt)
}

// Refetch makes the verifier ask for the keys soon, for whoever knows that they have changed.
func (v *Verifier) Refetch() {
	select {
	case v.news <- struct{}{}:
	default:
	}
}

// follow catches up again and again until ctx ends.
func (v *Verifier) follow(ctx context.Context) {
	defer close(v.done)
	reconnected := v.conn.StatusChanged(nats.CONNECTED)
	defer v.conn.RemoveStatusListener(reconnected)
	wake := reconnected
	every := min(catchUpEvery, v.config.MaxStaleness/3)
	for away := false; ; {
		err := v.catchUp(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !away:
			v.config.Log.Warn("revocations cannot be read", "err", err)
		case err == nil && away:
			v.config.Log.Info("revocations are read again")
		}
		away = err != nil
		wait := every
		if away {
			wait = min(every, 250*time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case _, open := <-wake:
			if !open {
				wake = nil // the connection is closed for good
			}
		case <-v.news:
		case <-time.After(wait):
		}
	}
}

// catchUp asks for the keys and for all sessions that have ended since the last time.
func (v *Verifier) catchUp(ctx context.Context) error {
	begun := time.Since(v.begun)
	if err := v.fetchKeys(ctx); err != nil {
		return err
	}
	for more := true; more; {
		page, err := v.page(ctx)
		if err != nil {
			return err
		}
		v.learn(page.Revoked)
		v.cursor, more = page.Cursor, page.More
	}
	v.forget()
	if v.synced.Swap(int64(max(begun, 1))) == 0 {
		close(v.ready)
	}
	return nil
}

func (v *Verifier) page(ctx context.Context) (auth.RevocationsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	return Call(ctx, v.conn, auth.Revocations, auth.RevocationsRequest{Since: v.cursor})
}

// learn refuses sessions, as long as that matters.
func (v *Verifier) learn(list []auth.Revocation) {
	now := v.config.Clock()
	v.revokedMu.Lock()
	defer v.revokedMu.Unlock()
	for _, r := range list {
		if until := r.ExpiresAt.Add(token.Leeway); now.Before(until) {
			v.revoked[r.SessionID] = until
		}
	}
}

// forget drops tokens that have expired, and sessions whose tokens all have.
func (v *Verifier) forget() {
	now := v.config.Clock()
	for id, reply := range v.known.All() {
		if !now.Before(reply.ExpiresAt) {
			v.known.Invalidate(id)
		}
	}
	v.revokedMu.Lock()
	defer v.revokedMu.Unlock()
	for id, until := range v.revoked {
		if now.After(until) {
			delete(v.revoked, id)
		}
	}
}
