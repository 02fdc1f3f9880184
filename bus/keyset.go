package bus

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/token"
)

const (
	// refetchEvery is how often an unknown kid may make a verifier fetch the keys.
	refetchEvery = 5 * time.Second
	// refetchAfterFailure is how soon the next one may after a fetch that failed.
	refetchAfterFailure = 500 * time.Millisecond
)

// keySet is the service's public keys by kid. It is immutable: a newer one takes its place.
type keySet map[string]*verificationKey

// verificationKey stays the same object for as long as its key is in the set, so that a remembered
// token knows its key.
type verificationKey struct {
	keys      []token.Key // one, in the form that package token reads
	withdrawn atomic.Bool // it has left the set
}

// parseKeySet reads a JSON Web Key Set. It ignores keys that it does not understand, and those
// that are not for signatures, as RFC 7517 §5 wants. Two keys of one kid are an error: a token
// would not say which of them signed it.
func parseKeySet(set auth.JWKS) (keySet, error) {
	keys := keySet{}
	for _, k := range set.Keys {
		public, ok := verifies(k)
		if !ok {
			continue
		}
		if _, twice := keys[k.KeyID]; twice {
			return nil, fmt.Errorf("%w: two keys with the kid %q", auth.ErrUnavailable, k.KeyID)
		}
		keys[k.KeyID] = &verificationKey{keys: []token.Key{{ID: k.KeyID, Public: public}}}
	}
	return keys, nil
}

// verifies returns the public key of k if it verifies access tokens: an Ed25519 key (RFC 8037 §2)
// for signatures with a kid. A missing use or alg leaves open what it is for.
func verifies(k auth.JWK) (public []byte, ok bool) {
	isEd25519 := k.KeyType == "OKP" && k.Curve == "Ed25519" && (k.Algorithm == "" || k.Algorithm == "EdDSA" || k.Algorithm == "Ed25519")
	if !isEd25519 || k.KeyID == "" || k.Use != "" && k.Use != "sig" {
		return nil, false
	}
	public, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
	return public, err == nil && len(public) == 32
}

// replace takes over the keys that before has too, and marks those that are gone as withdrawn.
// set must be in use already: a token that is verified with a withdrawn key at this moment is
// remembered with that key, and so does not count.
func (set keySet) replace(before keySet) {
	for kid, key := range before {
		if set[kid] != key {
			key.withdrawn.Store(true)
		}
	}
}

// inherit returns set with the key objects of before where the key is the same.
func (set keySet) inherit(before keySet) keySet {
	for kid, key := range set {
		if old, ok := before[kid]; ok && bytes.Equal(old.keys[0].Public, key.keys[0].Public) {
			set[kid] = old
		}
	}
	return set
}

// keyFetch is a fetch of the keys that callers wait for.
type keyFetch struct {
	done chan struct{}
	err  error // readable once done is closed
}

// keyFetches lets callers with an unknown kid share one fetch, which is not theirs to cancel.
type keyFetches struct {
	mu      sync.Mutex
	current *keyFetch     // requested, or under way
	at      time.Duration // elapsed time when the last one was requested
	err     error         // of the last one
}

// join returns the fetch to wait for. It returns none, and the error of the last fetch, if that
// was so recent that the keys are not fetched again.
func (f *keyFetches) join(elapsed time.Duration) (fetch *keyFetch, isNew bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != nil {
		return f.current, false, nil
	}
	pause := refetchEvery
	if f.err != nil {
		pause = refetchAfterFailure
	}
	if elapsed-f.at < pause {
		return nil, false, f.err
	}
	f.current, f.at = &keyFetch{done: make(chan struct{})}, elapsed
	return f.current, true, nil
}

// begin returns the fetch that a request for the keys, made from now on, will be the answer to.
func (f *keyFetches) begin() *keyFetch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// end hands the outcome to those who wait for a fetch that begin returned.
func (f *keyFetches) end(fetch *keyFetch, err error) {
	if fetch == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.err = nil, err
	fetch.err = err
	close(fetch.done)
}

// lookupKey returns the key of a kid, or nil for an unknown one. The key may be new, so an unknown
// kid makes the verifier fetch the keys now and then. It returns auth.ErrUnavailable if they
// cannot be fetched, or not while ctx lasts.
func (v *Verifier) lookupKey(ctx context.Context, kid string) (*verificationKey, error) {
	if key, ok := (*v.keys.Load())[kid]; ok {
		return key, nil
	}
	fetch, isNew, err := v.fetches.join(v.clock.Read().Elapsed)
	if fetch == nil {
		return nil, err
	}
	if isNew {
		signal(v.wanted)
	}
	select {
	case <-fetch.done:
		if fetch.err != nil {
			return nil, fetch.err
		}
		return (*v.keys.Load())[kid], nil
	case <-v.done:
		return nil, errClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: fetch keys: %w", auth.ErrUnavailable, ctx.Err())
	}
}

// fetchKeys asks for the keys. Only the follower calls it, one time after the other, so no answer
// overtakes a later one.
func (v *Verifier) fetchKeys(ctx context.Context) (err error) {
	fetch := v.fetches.begin()
	defer func() { v.fetches.end(fetch, err) }()
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	reply, err := Call(ctx, v.conn, auth.Keys, auth.KeysRequest{})
	if err != nil {
		return err
	}
	keys, err := parseKeySet(reply)
	if err != nil {
		return err
	}
	var before keySet
	if old := v.keys.Load(); old != nil {
		before = *old
	}
	keys = keys.inherit(before)
	v.keys.Store(&keys)
	keys.replace(before)
	return nil
}
