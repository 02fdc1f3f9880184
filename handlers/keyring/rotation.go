package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/persistence"
)

// publishLead is how long a key is in the key set before it signs. Clients may cache the set for five
// minutes (Cache-Control of jwks.json); the rest allows for clock differences and for instances that
// could not reach the database.
const publishLead = 10 * time.Minute

// lockKeys is the lock that every transaction takes that changes stored keys or peppers with Keys.change or
// Secrets.Reseal.
const lockKeys = "signing_keys"

// timeline is the stored keys, newest first, each with its expiry.
type timeline []timedKey

type timedKey struct {
	persistence.SigningKey
	until time.Time // when it leaves the set; zero while it has no successor
}

func (t timedKey) retired() bool           { return !t.RetiredAt.IsZero() }
func (t timedKey) gone(now time.Time) bool { return !t.until.IsZero() && !now.Before(t.until) }

// timeline reads the keys and computes when each leaves the set: when the last token has expired that
// was signed before its successor became active, under any ACCESS_TOKEN_TTL. A retired key verifies no
// token; List shows it for the same duration after its retirement.
func (k *Keys) timeline(ctx context.Context, store *persistence.Store) (timeline, error) {
	stored, err := store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	remains, err := Horizon(ctx, store, k.AccessTTL)
	if err != nil {
		return nil, err
	}
	keys := make(timeline, len(stored))
	var successor time.Time
	for i, s := range stored {
		keys[i].SigningKey = s
		switch {
		case !s.RetiredAt.IsZero():
			keys[i].until = s.RetiredAt.Add(remains)
			continue
		case !successor.IsZero():
			keys[i].until = successor.Add(remains)
		}
		successor = s.ActiveFrom
	}
	return keys, nil
}

// newest returns the index of the newest key that is not retired, which may not be active yet, or -1.
func (t timeline) newest() int {
	return slices.IndexFunc(t, func(key timedKey) bool { return !key.retired() })
}

// current returns the index of the key that signs now, or -1.
func (t timeline) current(now time.Time) int {
	return slices.IndexFunc(t, func(key timedKey) bool { return !key.retired() && !key.ActiveFrom.After(now) })
}

// due returns the time from which the next key has to sign, and whether it is time to create the key.
func (k *Keys) due(keys timeline, now time.Time) (from time.Time, is bool) {
	newest := keys.newest()
	switch {
	case newest < 0:
		return now, true
	case k.Rotation == 0 || k.Secret != nil:
		return time.Time{}, false
	}
	from = keys[newest].ActiveFrom.Add(k.Rotation)
	if earliest := now.Add(publishLead); from.Before(earliest) { // the key was not created in time
		return earliest, true
	}
	return from, !from.After(now.Add(publishLead))
}

// outdated reports whether a key is due or has to be deleted.
func (k *Keys) outdated(keys timeline, now time.Time) bool {
	_, due := k.due(keys, now)
	return due || slices.ContainsFunc(keys, func(key timedKey) bool { return key.gone(now) })
}

// renew deletes expired keys and creates the next key if it is due and no other instance has created it.
func (k *Keys) renew(ctx context.Context) (timeline, error) {
	return k.change(ctx, func(ctx context.Context, tx *persistence.Store, keys timeline, now time.Time) error {
		from, due := k.due(keys, now)
		if !due {
			return nil
		}
		_, err := k.create(ctx, tx, from)
		return err
	})
}

// change deletes expired keys, runs fn with the others while no other instance changes them, and
// returns the keys after fn. A key sealed with a different master secret from the rest would stop
// every instance, so change returns secret.ErrSealed before it runs fn if it cannot open the keys.
func (k *Keys) change(ctx context.Context, fn func(ctx context.Context, tx *persistence.Store, keys timeline, now time.Time) error) (after timeline, err error) {
	err = k.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if err := tx.Lock(ctx, lockKeys); err != nil {
			return err
		}
		now := k.Clock.Now()
		keys, err := k.sweep(ctx, tx, now)
		if err != nil {
			return err
		}
		if _, err := k.open(keys, now); err != nil {
			return err
		}
		if err := fn(ctx, tx, keys, now); err != nil {
			return err
		}
		after, err = k.timeline(ctx, tx)
		return err
	})
	return after, err
}

// sweep deletes expired keys and returns the others.
func (k *Keys) sweep(ctx context.Context, tx *persistence.Store, now time.Time) (timeline, error) {
	keys, err := k.timeline(ctx, tx)
	if err != nil {
		return nil, err
	}
	var kept timeline
	for _, key := range keys {
		if !key.gone(now) {
			kept = append(kept, key)
			continue
		}
		if err := tx.DeleteSigningKey(ctx, key.ID); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// create stores a new key that signs from a given time on, and returns its kid.
func (k *Keys) create(ctx context.Context, tx *persistence.Store, from time.Time) (string, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("generate signing key: %w", err)
	}
	id := keyID(public)
	if strings.HasPrefix(id, "-") { // a command would parse it as a flag
		return k.create(ctx, tx, from)
	}
	sealed, err := k.Master.Seal(private.Seed(), sealedKey(id))
	if err != nil {
		return "", fmt.Errorf("seal signing key: %w", err)
	}
	now := k.Clock.Now()
	key := persistence.SigningKey{ID: id, Public: public, Sealed: sealed, CreatedAt: now, ActiveFrom: from}
	if err := tx.CreateSigningKey(ctx, key); err != nil {
		return "", err
	}
	return id, tx.Emit(ctx, now, events.KeyRotated{KeyID: id, ActiveFrom: from})
}

// keyID returns the key's thumbprint (RFC 7638, RFC 8037 §2), truncated to 96 bits.
func keyID(public ed25519.PublicKey) string {
	members := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, base64.RawURLEncoding.EncodeToString(public))
	sum := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// KeyState is the state of a stored key.
type KeyState string

// The states of a key, in the order of its life.
const (
	KeyNext      KeyState = "next"      // published; signs later
	KeySigning   KeyState = "signing"   // signs now
	KeyVerifying KeyState = "verifying" // no longer signs; its tokens may still be valid
	KeyRetired   KeyState = "retired"   // withdrawn; its tokens are refused
)

// StoredKey describes a key to operators.
type StoredKey struct {
	ID            string    `json:"kid"`
	State         KeyState  `json:"state"`
	CreatedAt     time.Time `json:"createdAt"`
	ActiveFrom    time.Time `json:"activeFrom"`
	VerifiesUntil time.Time `json:"verifiesUntil,omitzero"` // zero while it has no successor, and if retired
	RetiredAt     time.Time `json:"retiredAt,omitzero"`
}

// List returns the stored keys that have not expired, newest first.
func (k *Keys) List(ctx context.Context) ([]StoredKey, error) {
	keys, err := k.timeline(ctx, k.Store)
	if err != nil {
		return nil, err
	}
	return keys.describe(k.Clock.Now()), nil
}

func (t timeline) describe(now time.Time) []StoredKey {
	list := []StoredKey{}
	current := t.current(now)
	for i, key := range t {
		if key.gone(now) {
			continue // not yet deleted by sweep
		}
		told := StoredKey{ID: key.ID, State: KeyVerifying, CreatedAt: key.CreatedAt, ActiveFrom: key.ActiveFrom, VerifiesUntil: key.until}
		switch {
		case key.retired():
			told.State, told.RetiredAt, told.VerifiesUntil = KeyRetired, key.RetiredAt, time.Time{}
		case i == current:
			told.State = KeySigning
		case key.ActiveFrom.After(now):
			told.State = KeyNext
		}
		list = append(list, told)
	}
	return list
}

// Rotate creates the next key, which signs after publishLead. With atOnce, or if no key signs now, it
// signs immediately; other services that cache the key set then receive tokens of a key that they do
// not have yet. If a next key exists already, Rotate uses it and made is false.
func (k *Keys) Rotate(ctx context.Context, atOnce bool) (next StoredKey, made bool, err error) {
	var id string
	now := k.Clock.Now()
	after, err := k.change(ctx, func(ctx context.Context, tx *persistence.Store, keys timeline, at time.Time) (err error) {
		now = at
		newest, current := keys.newest(), keys.current(at)
		switch {
		case atOnce || current < 0:
			id, made, err = k.activate(ctx, tx, keys, at)
		case newest != current:
			id = keys[newest].ID
		default:
			made = true
			id, err = k.create(ctx, tx, at.Add(publishLead))
		}
		return err
	})
	if err != nil {
		return StoredKey{}, false, err
	}
	list := after.describe(now)
	return list[slices.IndexFunc(list, func(key StoredKey) bool { return key.ID == id })], made, nil
}

// activate makes a key sign immediately: the next key, which other services may have cached already,
// or a new one.
func (k *Keys) activate(ctx context.Context, tx *persistence.Store, keys timeline, now time.Time) (id string, made bool, err error) {
	newest := keys.newest()
	if newest < 0 || newest == keys.current(now) {
		id, err = k.create(ctx, tx, now)
		return id, true, err
	}
	id = keys[newest].ID
	if err := tx.ActivateSigningKey(ctx, id, now); err != nil {
		return "", false, err
	}
	return id, false, tx.Emit(ctx, now, events.KeyRotated{KeyID: id, ActiveFrom: now})
}

// Retire withdraws a key immediately. An instance refuses the key's tokens as soon as it has read the
// keys again. If no other key signs now, Retire activates the next key or a new one. It returns
// auth.ErrNotFound for a kid that is unknown, expired or already retired.
func (k *Keys) Retire(ctx context.Context, kid string) error {
	_, err := k.change(ctx, func(ctx context.Context, tx *persistence.Store, keys timeline, now time.Time) error {
		i := slices.IndexFunc(keys, func(key timedKey) bool { return key.ID == kid && !key.retired() })
		if i < 0 {
			return auth.ErrNotFound
		}
		if err := tx.RetireSigningKey(ctx, kid, now); err != nil {
			return err
		}
		keys[i].RetiredAt = now
		if current := keys.current(now); current >= 0 {
			// Services that cache the key set must fetch it again.
			return tx.Emit(ctx, now, events.KeyRotated{KeyID: keys[current].ID, ActiveFrom: keys[current].ActiveFrom})
		}
		_, _, err := k.activate(ctx, tx, keys, now)
		return err
	})
	return err
}
