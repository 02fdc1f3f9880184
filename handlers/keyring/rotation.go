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

// publishLead is how long a key is in the key set before it signs. Those who keep the set
// may do so for five minutes (Cache-Control of jwks.json); the rest is for clocks that
// differ and instances that were cut off.
const publishLead = 10 * time.Minute

// lockKeys is held by whoever changes what is stored of keys and peppers.
const lockKeys = "signing_keys"

// timeline is the stored keys, newest first, with when they leave.
type timeline []timedKey

type timedKey struct {
	persistence.SigningKey
	until time.Time // when it leaves the set; zero as long as nothing follows it
}

func (t timedKey) retired() bool           { return !t.RetiredAt.IsZero() }
func (t timedKey) gone(now time.Time) bool { return !t.until.IsZero() && !now.Before(t.until) }

// timeline reads the keys and finds out when they leave: once the last token has expired that was
// signed before the successor began, whatever ACCESS_TOKEN_TTL was then. A retired key verifies
// nothing any more, and is only shown as long.
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

// newest returns the index of the newest key that nobody retired, which may be waiting for
// its time, or -1.
func (t timeline) newest() int {
	return slices.IndexFunc(t, func(key timedKey) bool { return !key.retired() })
}

// current returns the index of the key that signs now, or -1.
func (t timeline) current(now time.Time) int {
	return slices.IndexFunc(t, func(key timedKey) bool { return !key.retired() && !key.ActiveFrom.After(now) })
}

// due returns from when the next key has to sign, if it is time to make it.
func (k *Keys) due(keys timeline, now time.Time) (from time.Time, is bool) {
	newest := keys.newest()
	switch {
	case newest < 0:
		return now, true
	case k.Rotation == 0 || k.Secret != nil:
		return time.Time{}, false
	}
	from = keys[newest].ActiveFrom.Add(k.Rotation)
	if earliest := now.Add(publishLead); from.Before(earliest) { // it was missed
		return earliest, true
	}
	return from, !from.After(now.Add(publishLead))
}

// outdated tells whether renew has something to do.
func (k *Keys) outdated(keys timeline, now time.Time) bool {
	_, due := k.due(keys, now)
	return due || slices.ContainsFunc(keys, func(key timedKey) bool { return key.gone(now) })
}

// renew makes the next key if it is due, unless another instance did meanwhile.
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

// change runs fn while no other instance changes the keys, without those whose time is over,
// and returns what is there afterwards. A key sealed with another master secret than the
// rest would stop every instance, so it returns secret.ErrSealed first.
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

// sweep deletes the keys whose time is over and returns the others.
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

// create makes a key that signs from then on, and returns its kid.
func (k *Keys) create(ctx context.Context, tx *persistence.Store, from time.Time) (string, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("generate signing key: %w", err)
	}
	id := keyID(public)
	if strings.HasPrefix(id, "-") { // a shell would take it for a flag
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

// keyID is the key's thumbprint (RFC 7638, RFC 8037 §2), cut to 96 bits.
func keyID(public ed25519.PublicKey) string {
	members := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, base64.RawURLEncoding.EncodeToString(public))
	sum := sha256.Sum256([]byte(members))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// KeyState is what a stored key does.
type KeyState string

// The states of a key, in the order in which it passes them.
const (
	KeyNext      KeyState = "next"      // published, signs later
	KeySigning   KeyState = "signing"   //
	KeyVerifying KeyState = "verifying" // signed once, and its tokens are still good
	KeyRetired   KeyState = "retired"   // withdrawn: its tokens are refused
)

// StoredKey is what operators are told of a key.
type StoredKey struct {
	ID            string    `json:"kid"`
	State         KeyState  `json:"state"`
	CreatedAt     time.Time `json:"createdAt"`
	ActiveFrom    time.Time `json:"activeFrom"`
	VerifiesUntil time.Time `json:"verifiesUntil,omitzero"` // known once there is a successor
	RetiredAt     time.Time `json:"retiredAt,omitzero"`
}

// List returns the keys that are stored, newest first.
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
			continue // until somebody sweeps it away
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

// Rotate makes the next key, which signs once it has been published long enough, or at once:
// then other services that keep the key set meet tokens of a key they do not know yet. If a
// next key is waiting already, that one is taken and made is false.
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

// activate makes a key sign at once: the one that is waiting, which some know already, or
// a new one.
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

// Retire withdraws a key at once: what it signed is refused, by other instances as soon as
// they have read the keys again. If no other can sign now, the next one does, or a new one.
// It returns auth.ErrNotFound for a kid that is unknown, gone or retired already.
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
			// Whoever keeps the key set must look at it again.
			return tx.Emit(ctx, now, events.KeyRotated{KeyID: keys[current].ID, ActiveFrom: keys[current].ActiveFrom})
		}
		_, _, err := k.activate(ctx, tx, keys, now)
		return err
	})
	return err
}
