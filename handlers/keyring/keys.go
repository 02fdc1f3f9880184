// Package keyring keeps the keys that sign access tokens and the secrets that the database stores
// sealed.
//
// Keys (keys.go) signs and finds keys, and follows changes by other instances. rotation.go makes the
// next key when it is due and serves the commands of operators. Secrets (secrets.go) seals private
// keys and peppers under the current master secret.
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

// reloadEvery is how often Run reads the keys, and so how soon an instance learns what
// another did. It is also how often an unknown kid may make Keys look into the database, so
// that made-up ones cost next to nothing.
const reloadEvery = 5 * time.Second

const (
	// lookTimeout bounds a look for an unknown kid.
	lookTimeout = 2 * time.Second
	// retryEvery is how soon an unknown kid may make Keys look again after a failure.
	retryEvery = 500 * time.Millisecond
	// hintPause is how soon a hint may make Run read the keys after another one did.
	hintPause = 250 * time.Millisecond
)

// Keys signs access tokens and knows what verifies them. Load must be called first, and Run
// keeps it up to date. Rotate, Retire and List, in rotation.go, are for operators and need
// neither.
type Keys struct {
	Store     *persistence.Store
	Master    secret.Keys   // seals the private halves
	Secret    []byte        // set: tokens are HS256 with this secret, and the stored keys are not used
	Rotation  time.Duration // age at which the next key takes over; 0 is never
	AccessTTL time.Duration // of an access token
	Log       *slog.Logger  // of Run
	Changed   func()        // if it is set, hears that the key set has changed
	Hints     chan struct{} // if it is set, a value makes Run read the keys at once
	Clock     clock.Func

	set     atomic.Pointer[keySet]
	lookups singleflight.Group // of unknown kids
	reload  sync.Mutex
	noted   time.Time // when AccessTTL was last noted; under reload, as are
	asked   time.Time // when an unknown kid last made us look, and
	failed  error     // what came of the last look, whoever made it
}

// keySet is immutable: a newer one takes its place.
type keySet struct {
	signers []signer // newest first, back to the one that signed when the set was made
	byID    map[string][]token.Key
	public  auth.JWKS
}

// signer is a key with the time from which it signs.
type signer struct {
	token.Key
	from time.Time
}

// Load reads the keys from the database, makes one if there is none or the next one is due,
// and forgets those whose time is over; of several instances that do so at once, one makes
// it. It returns secret.ErrSealed if the master secret is not the one the keys were sealed
// with, in HS256 mode too: the passwords hang on it all the same.
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
	// noteEvery is how often an instance notes the lifetime of the access tokens that it issues.
	noteEvery = 10 * time.Minute
	// noteFor is how long a note is good for. An instance that could not write a new one for longer
	// has issued no tokens either: a login writes too.
	noteFor = 24 * time.Hour
)

// noteLifetime notes the lifetime of this instance's access tokens before it issues any, so that all
// instances remember long enough what was ended and withdrawn, now and after ACCESS_TOKEN_TTL has
// changed.
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

// symmetric is the set of HS256 mode: one secret, nothing public.
func symmetric(secret []byte) *keySet {
	key := token.Key{Secret: secret}
	return &keySet{signers: []signer{{Key: key}}, byID: map[string][]token.Key{"": {key}}, public: auth.JWKS{Keys: []auth.JWK{}}}
}

// open makes a set of the keys. Private halves are opened of the key that signs now and of
// those that will.
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

// Signing returns the key that signs now: the newest whose time has come.
func (k *Keys) Signing() token.Key {
	now := k.Clock.Now()
	signers := k.set.Load().signers
	for _, s := range signers {
		if !s.from.After(now) {
			return s.Key
		}
	}
	return signers[len(signers)-1].Key // made by an instance whose clock is ahead of ours
}

// Find returns a function that looks up a kid, for package token. An unknown one may be
// another instance's new key, so now and then the database is asked.
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

// lookAgain reads the keys for an unknown kid, unless that was done a moment ago, and returns why
// they could not be read the last time. The request that brings the kid does not end it: others
// wait for the outcome too.
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
	if age := now.Sub(k.asked); age >= 0 && age < pause { // a negative one is by a clock that was ahead
		return k.failed
	}
	k.asked = now
	return k.load(ctx)
}

// Keys answers auth.keys: the public keys, none of them in HS256 mode.
func (k *Keys) Keys(context.Context, auth.KeysRequest) (auth.JWKS, error) {
	return k.set.Load().public, nil
}

// Run loads the keys again and again until ctx ends. While that fails it goes on with those
// it has.
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
		case err != nil && !away: // said once, not every five seconds
			k.Log.Error("signing keys cannot be read; going on with those known", "err", err)
		case err == nil && away:
			k.Log.Info("signing keys are read again")
		}
		away = err != nil
	}
}

// loadInTime is Load for Run: a database that hangs must not keep lookups waiting.
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

// Horizon returns how long something that an access token may still need has to be remembered: for the
// longest lifetime of tokens that may be valid, whatever ACCESS_TOKEN_TTL is now, and the leeway of
// those that verify them. own is the lifetime of this instance's.
func Horizon(ctx context.Context, store *persistence.Store, own time.Duration) (time.Duration, error) {
	longest, err := store.LongestLifetime(ctx)
	return max(longest, own) + token.Leeway, err
}
