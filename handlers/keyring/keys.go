// Package keyring manages the keys that sign access tokens and the secrets that the database stores
// sealed.
//
// Keys (keys.go) provides the keys that sign and verify, and follows changes by other instances.
// rotation.go creates the next key when it is due and serves the commands of operators.
// Secrets (secrets.go) seals private keys and peppers under the current master secret.
package keyring

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// reloadEvery is how often Run reads the keys, and so the maximum delay until an instance reads the
// change of another. It is also the minimum interval between two database reads for unknown kids, so
// that invented kids cost nearly nothing.
const reloadEvery = 5 * time.Second

const (
	// lookTimeout bounds a database read for an unknown kid.
	lookTimeout = 2 * time.Second
	// retryEvery is the minimum interval until an unknown kid causes another read after a failure.
	retryEvery = 500 * time.Millisecond
	// hintPause is the minimum interval between two reads that hints cause.
	hintPause = 250 * time.Millisecond
)

// Keys provides the keys that sign and verify access tokens. The caller must call Load first; Run
// keeps the keys up to date. Rotate, Retire and List, in rotation.go, are for operators and require
// neither.
type Keys struct {
	Store     *persistence.Store
	Master    secret.Keys   // seals the private keys
	Secret    []byte        // if set, tokens use HS256 with this secret, and the stored keys are unused
	Rotation  time.Duration // age at which the next key replaces a key; 0 means never
	AccessTTL time.Duration // of an access token
	Log       *slog.Logger  // of Run
	Changed   func()        // if set, is called after a change of the key set
	Hints     chan struct{} // if set, a value makes Run read the keys immediately
	Clock     clock.Func

	set     atomic.Pointer[keySet]
	lookups singleflight.Group // for unknown kids
	reload  sync.Mutex
	noted   time.Time // time of the last NoteLifetime; reload guards noted, asked and failed
	asked   time.Time // time of the last read for an unknown kid
	failed  error     // result of the last load, for any caller
}

// keySet is immutable: a load replaces it with a new one.
type keySet struct {
	signers []signer // newest first, down to the one that signed when the set was created
	byID    map[string][]token.Key
	public  auth.JWKS
}

// signer is a key with the time from which it signs.
type signer struct {
	token.Key
	from time.Time
}

// Load reads the keys from the database, creates one if there is none or the next one is due, and
// deletes expired keys. If several instances load concurrently, one of them creates the key. It
// returns secret.ErrSealed if the keys were sealed with another master secret, in HS256 mode too,
// because passwords depend on the master secret in every mode.
func (k *Keys) Load(ctx context.Context) error {
	k.reload.Lock()
	defer k.reload.Unlock()
	return k.load(ctx)
}

func (k *Keys) load(ctx context.Context) (err error) {
	defer func() { k.failed = err }()
	now := k.Clock.Now()
	if err := k.noteLifetime(ctx, now); err != nil {
		return err
	}
	keys, err := k.timeline(ctx, k.Store)
	if err != nil {
		return err
	}
	if k.outdated(keys, now) {
		if keys, err = k.renew(ctx); err != nil {
			return err
		}
	}
	set, err := k.open(keys, now)
	if err != nil {
		return err
	}
	if k.Secret != nil {
		set = symmetric(k.Secret)
	}
	before := k.set.Swap(set)
	if k.Changed != nil && before != nil && !slices.Equal(before.public.Keys, set.public.Keys) {
		k.Changed()
	}
	return nil
}

const (
	// noteEvery is how often an instance records the lifetime of the access tokens that it issues.
	noteEvery = 10 * time.Minute
	// noteFor is how long a record is valid. An instance that could not renew its record for longer has
	// issued no tokens either, because a login also writes to the database.
	noteFor = 24 * time.Hour
)

// noteLifetime records the lifetime of this instance's access tokens before it issues any, so that all
// instances remember ended sessions and retired keys long enough, now and after a change of
// ACCESS_TOKEN_TTL.
func (k *Keys) noteLifetime(ctx context.Context, now time.Time) error {
	if since := now.Sub(k.noted); since >= 0 && since < noteEvery {
		return nil
	}
	if err := k.Store.NoteLifetime(ctx, k.AccessTTL, now.Add(noteFor+k.AccessTTL+token.Leeway), now); err != nil {
		return err
	}
	k.noted = now
	return nil
}

// symmetric returns the key set of HS256 mode: one secret and no public key.
func symmetric(secret []byte) *keySet {
	key := token.Key{Secret: secret}
	return &keySet{signers: []signer{{Key: key}}, byID: map[string][]token.Key{"": {key}}, public: auth.JWKS{Keys: []auth.JWK{}}}
}

// open returns the key set of the stored keys. It opens the private keys of the key that signs now and of
// its successors.
func (k *Keys) open(keys timeline, now time.Time) (*keySet, error) {
	set := &keySet{byID: map[string][]token.Key{}, public: auth.JWKS{Keys: []auth.JWK{}}}
	complete := false
	for _, key := range keys {
		if key.retired() || key.gone(now) {
			continue
		}
		set.byID[key.ID] = []token.Key{{ID: key.ID, Public: key.Public}}
		set.public.Keys = append(set.public.Keys, auth.JWK{
			KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key.Public),
			KeyID: key.ID, Algorithm: "EdDSA", Use: "sig",
		})
		if complete {
			continue
		}
		seed, err := k.Master.Open(key.Sealed, sealedKey(key.ID))
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", key.ID, err)
		}
		signs := token.Key{ID: key.ID, Public: key.Public, Private: ed25519.NewKeyFromSeed(seed)}
		set.signers = append(set.signers, signer{signs, key.ActiveFrom})
		complete = !key.ActiveFrom.After(now)
	}
	return set, nil
}

func sealedKey(id string) string { return "signing_keys/" + id }

// Signing returns the key that signs now: the newest active key.
func (k *Keys) Signing() token.Key {
	now := k.Clock.Now()
	signers := k.set.Load().signers
	for _, s := range signers {
		if !s.from.After(now) {
			return s.Key
		}
	}
	return signers[len(signers)-1].Key // created by an instance whose clock is ahead
}

// Find returns a function that looks up a kid, for package token. An unknown kid may be a new key of
// another instance, so the function reads the database for it; see lookAgain.
func (k *Keys) Find(ctx context.Context) token.Find {
	return func(kid string) ([]token.Key, error) {
		if found, ok := k.set.Load().byID[kid]; ok {
			return found, nil
		}
		looked := k.lookups.DoChan("", func() (any, error) { return nil, k.lookAgain(context.WithoutCancel(ctx)) })
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: signing keys: %w", auth.ErrUnavailable, ctx.Err())
		case result := <-looked:
			if found, ok := k.set.Load().byID[kid]; ok {
				return found, nil
			}
			return nil, result.Err
		}
	}
}

// lookAgain reads the keys for an unknown kid, and returns the error of the read. Within reloadEvery
// of the last such read, or retryEvery after a failure, it returns the result of the last load
// instead. Cancelling a request does not cancel the read, because other requests may wait for it.
func (k *Keys) lookAgain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	k.reload.Lock()
	defer k.reload.Unlock()
	pause := reloadEvery
	if k.failed != nil {
		pause = retryEvery
	}
	now := k.Clock.Now()
	if age := now.Sub(k.asked); age >= 0 && age < pause { // a negative age is from a clock that was ahead
		return k.failed
	}
	k.asked = now
	return k.load(ctx)
}

// Keys answers auth.keys: it returns the public keys, none in HS256 mode.
func (k *Keys) Keys(context.Context, auth.KeysRequest) (auth.JWKS, error) {
	return k.set.Load().public, nil
}

// Run loads the keys repeatedly until ctx ends. While loading fails it keeps the keys that it has.
func (k *Keys) Run(ctx context.Context) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	hints := k.Hints
	var rest <-chan time.Time
	for away := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rest:
			hints, rest = k.Hints, nil
			continue
		case <-hints:
			hints, rest = nil, time.After(hintPause)
		case <-tick.C:
		}
		err := k.loadInTime(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away: // logged once, not every five seconds
			k.Log.Error("signing keys cannot be read; going on with those known", "err", err)
		case err == nil && away:
			k.Log.Info("signing keys are read again")
		}
		away = err != nil
	}
}

// loadInTime is Load with a timeout, for Run: a database that hangs must not block lookups. It logs a
// change of the newest key.
func (k *Keys) loadInTime(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadEvery)
	defer cancel()
	before := k.set.Load()
	if err := k.Load(ctx); err != nil {
		return err
	}
	if newest := k.set.Load().signers[0]; newest.ID != before.signers[0].ID {
		k.Log.Info("signing key changes", "kid", newest.ID, "activeFrom", newest.from)
	}
	return nil
}

// Horizon returns how long the service must remember state that a valid access token may depend on: the
// longest lifetime of tokens that may be valid, also of those issued under another ACCESS_TOKEN_TTL,
// plus the leeway of the verifiers. own is the lifetime of this instance's tokens.
func Horizon(ctx context.Context, store *persistence.Store, own time.Duration) (time.Duration, error) {
	longest, err := store.LongestLifetime(ctx)
	return max(longest, own) + token.Leeway, err
}
