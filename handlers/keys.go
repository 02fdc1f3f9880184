package handlers

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// reloadEvery is how often an unknown kid may make Keys look into the database, so that
// made-up ones cost next to nothing.
const reloadEvery = 5 * time.Second

// Keys signs access tokens and knows what verifies them. Load must be called first.
type Keys struct {
	Store  *persistence.Store
	Master secret.Keys // seals the private halves
	Secret []byte      // set: tokens are HS256 with this secret, and the stored keys are not used
	Clock  Clock

	set    atomic.Pointer[keySet]
	reload sync.Mutex
	loaded time.Time // when it was last tried; under reload, as is
	failed error     // what came of it
}

// keySet is immutable: a newer one takes its place.
type keySet struct {
	signing token.Key
	byID    map[string][]token.Key
	public  auth.KeySet
}

// Load reads the keys from the database and makes the first one if there is none; of
// several instances that start at once, one makes it. It returns secret.ErrSealed if the
// master secret is not the one the keys were sealed with, in HS256 mode too: the passwords
// hang on it all the same.
func (k *Keys) Load(ctx context.Context) error {
	k.reload.Lock()
	defer k.reload.Unlock()
	return k.load(ctx)
}

func (k *Keys) load(ctx context.Context) error {
	k.loaded = k.Clock.now()
	stored, err := k.Store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if len(stored) == 0 {
		if stored, err = k.create(ctx); err != nil {
			return err
		}
	}
	set, err := k.open(stored)
	if err != nil {
		return err
	}
	if k.Secret != nil {
		set = symmetric(k.Secret)
	}
	k.set.Store(set)
	return nil
}

// symmetric is the set of HS256 mode: one secret, nothing public.
func symmetric(secret []byte) *keySet {
	key := token.Key{Secret: secret}
	return &keySet{signing: key, byID: map[string][]token.Key{"": {key}}, public: auth.KeySet{Keys: []auth.Key{}}}
}

// create makes the first key, unless another instance did meanwhile.
func (k *Keys) create(ctx context.Context) (stored []persistence.SigningKey, err error) {
	err = k.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if err := tx.Lock(ctx, "signing_keys"); err != nil {
			return err
		}
		if stored, err = tx.SigningKeys(ctx); err != nil || len(stored) > 0 {
			return err
		}
		key, err := k.generate()
		if err != nil {
			return err
		}
		stored = append(stored, key)
		return tx.CreateSigningKey(ctx, key)
	})
	return stored, err
}

func (k *Keys) generate() (persistence.SigningKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return persistence.SigningKey{}, fmt.Errorf("generate signing key: %w", err)
	}
	id := keyID(public)
	sealed, err := k.Master.Seal(private.Seed(), sealedRow(id))
	if err != nil {
		return persistence.SigningKey{}, fmt.Errorf("seal signing key: %w", err)
	}
	now := k.Clock.now()
	return persistence.SigningKey{ID: id, Public: public, Sealed: sealed, CreatedAt: now, ActiveFrom: now}, nil
}

// keyID is the key's thumbprint (RFC 7638, RFC 8037 §2), cut to 96 bits.
func keyID(public ed25519.PublicKey) string {
	members := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, base64.RawURLEncoding.EncodeToString(public))
	sum := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

func sealedRow(id string) string { return "signing_keys/" + id }

// open makes a set of the stored keys, newest first. The newest one signs.
func (k *Keys) open(stored []persistence.SigningKey) (*keySet, error) {
	set := &keySet{byID: map[string][]token.Key{}, public: auth.KeySet{Keys: []auth.Key{}}}
	for _, s := range stored {
		set.byID[s.ID] = []token.Key{{ID: s.ID, Public: s.Public}}
		set.public.Keys = append(set.public.Keys, auth.Key{
			KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(s.Public),
			KeyID: s.ID, Algorithm: "EdDSA", Use: "sig",
		})
	}
	newest := stored[0]
	seed, err := k.Master.Open(newest.Sealed, sealedRow(newest.ID))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", newest.ID, err)
	}
	set.signing = token.Key{ID: newest.ID, Public: newest.Public, Private: ed25519.NewKeyFromSeed(seed)}
	return set, nil
}

// signing returns the key that signs now.
func (k *Keys) signing() token.Key { return k.set.Load().signing }

// find returns a function that looks up a kid, for package token. An unknown one may be
// another instance's new key, so now and then the database is asked.
func (k *Keys) find(ctx context.Context) token.Find {
	return func(kid string) ([]token.Key, error) {
		if found, ok := k.set.Load().byID[kid]; ok {
			return found, nil
		}
		k.reload.Lock()
		defer k.reload.Unlock()
		if k.Clock.now().Sub(k.loaded) >= reloadEvery {
			k.failed = k.load(ctx)
		}
		if found, ok := k.set.Load().byID[kid]; ok {
			return found, nil
		}
		return nil, k.failed
	}
}

// Keys answers auth.keys: the public keys, none of them in HS256 mode.
func (k *Keys) Keys(context.Context, auth.KeysRequest) (auth.KeySet, error) {
	return k.set.Load().public, nil
}
