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
	// refetchEvery is the shortest interval at which unknown kids make a verifier fetch the keys.
	refetchEvery = 5 * time.Second
	// refetchAfterFailure is the shortest interval after a failed fetch.
	refetchAfterFailure = 500 * time.Millisecond
)

// keySet is the service's public keys by kid. It is immutable: a newer set replaces it.
type keySet map[string]*verificationKey

// verificationKey stays the same object as long as its key is in the set, so that a remembered
// token can refer to its key.
type verificationKey struct {
	keys      []token.Key // exactly one, in the form that package token reads
	withdrawn atomic.Bool // the key is no longer in the set
}

// parseKeySet reads a JSON Web Key Set. It ignores keys that it does not understand, and keys
// that are not for signatures, as RFC 7517 §5 requires. Two keys with the same kid are an
// auth.ErrUnavailable error: a token would not identify the one that signed it.
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
// for signatures with a kid. A key without use or alg has no restriction and counts too.
func verifies(k auth.JWK) (public []byte, ok bool) {
	isEd25519 := k.KeyType == "OKP" && k.Curve == "Ed25519" && (k.Algorithm == "" || k.Algorithm == "EdDSA" || k.Algorithm == "Ed25519")
	if !isEd25519 || k.KeyID == "" || k.Use != "" && k.Use != "sig" {
		return nil, false
	}
	public, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
	return public, err == nil && len(public) == 32
}

// replace marks the keys of before that are not in set as withdrawn. set must already be stored: a
// token that is concurrently verified with a withdrawn key is remembered with that key object, so
// the verifier does not use the remembered token.
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

// keyFetch is a fetch of the keys for which callers wait.
type keyFetch struct {
	done chan struct{}
	err  error // readable once done is closed
}

// keyFetches lets callers with an unknown kid share one fetch, which no caller can cancel.
type keyFetches struct {
	mu      sync.Mutex
	current *keyFetch     // requested or in flight; nil if none
	at      time.Duration // elapsed time of the last request
	err     error         // of the last fetch
}

// join returns the fetch to wait for, and whether the caller has to start it. If the last fetch is
// so recent that the keys are not fetched again, it returns nil and the error of that fetch.
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

// begin returns the fetch that callers wait for, or nil. A request for the keys that is sent after
// begin answers this fetch.
func (f *keyFetches) begin() *keyFetch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// end passes the result to the callers that wait for a fetch that begin returned.
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
// kid makes the verifier fetch the keys, at most every refetchEvery. It returns auth.ErrUnavailable
// if the fetch fails, or if ctx ends first.
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

// fetchKeys requests the keys and stores them. Only the follower calls it, sequentially, so an older
// reply never replaces a newer one.
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
