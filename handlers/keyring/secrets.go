package keyring

import (
	"context"
	"fmt"
	"slices"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/persistence"
)

// Secrets manages the secrets that the database stores sealed with the master secret: the private
// keys of signing keys, and the peppers, derived from master secrets, that key passwords. All fields
// but Clock are required.
//
// An operator replaces a master secret in three steps: the service starts with the new one before
// the former one, Reseal seals everything with the new one, and the operator removes the former one.
// Then only the pepper of the former one remains. The service refuses the refresh tokens made under
// it: it does not keep their key, because a master secret is often replaced after a leak.
type Secrets struct {
	Store  *persistence.Store
	Master secret.Keys
	Clock  clock.Func
}

// Peppers returns the peppers that may key passwords, those of the master secrets first. It stores
// the current one, sealed with its own master secret; an operator can then remove that master secret
// only after Reseal. It returns secret.ErrSealed, and stores nothing, if a key or pepper in the
// database was sealed with a master secret that is missing.
func (s *Secrets) Peppers(ctx context.Context) (peppers []password.Pepper, err error) {
	keys, err := s.Store.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := s.Store.Peppers(ctx)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if _, err := s.openKey(key); err != nil {
			return nil, err
		}
	}
	peppers = password.Peppers(s.Master)
	for _, k := range kept {
		pepper, err := s.openPepper(k)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(peppers, func(p password.Pepper) bool { return p.ID == k.ID }) {
			peppers = append(peppers, pepper)
		}
	}
	current := peppers[0]
	if slices.ContainsFunc(kept, func(k persistence.Pepper) bool { return k.ID == current.ID }) {
		return peppers, nil
	}
	return peppers, s.keep(ctx, s.Store, current)
}

// openKey returns the seed of a private key, nil for a retired key.
func (s *Secrets) openKey(k persistence.SigningKey) ([]byte, error) {
	if !k.RetiredAt.IsZero() {
		return nil, nil
	}
	seed, err := s.Master.Open(k.Sealed, sealedKey(k.ID))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", k.ID, err)
	}
	return seed, nil
}

func (s *Secrets) openPepper(k persistence.Pepper) (password.Pepper, error) {
	key, err := s.Master.Open(k.Sealed, sealedPepper(k.ID))
	if err != nil {
		return password.Pepper{}, fmt.Errorf("pepper %s: %w", k.ID, err)
	}
	return password.Pepper{ID: k.ID, Key: key}, nil
}

func sealedPepper(id string) string { return "peppers/" + id }

// keep stores a pepper, sealed with the current master secret.
func (s *Secrets) keep(ctx context.Context, store *persistence.Store, p password.Pepper) error {
	sealed, err := s.Master.Seal(p.Key, sealedPepper(p.ID))
	if err != nil {
		return fmt.Errorf("seal pepper: %w", err)
	}
	return store.KeepPepper(ctx, persistence.Pepper{ID: p.ID, Sealed: sealed, CreatedAt: s.Clock.Now()})
}

// Resealed counts the keys and peppers that Reseal has sealed again.
type Resealed struct {
	Keys, Peppers int
}

// Reseal seals every key and pepper with the first master secret that is not sealed with it yet, and
// stores the peppers of the other master secrets, so that an operator can remove those. It returns
// secret.ErrSealed if no master secret opens a key or pepper. After an error nothing has changed.
func (s *Secrets) Reseal(ctx context.Context) (done Resealed, err error) {
	err = s.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if err := tx.Lock(ctx, lockKeys); err != nil {
			return err
		}
		keys, peppers, err := s.foreign(ctx, tx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := s.resealKey(ctx, tx, key); err != nil {
				return err
			}
		}
		for _, pepper := range peppers {
			if err := s.keep(ctx, tx, pepper); err != nil {
				return err
			}
		}
		done = Resealed{Keys: len(keys), Peppers: len(peppers)}
		return nil
	})
	return done, err
}

// Sealing counts the keys and peppers that are sealed with the first master secret and with the second.
type Sealing struct {
	First, Second int
}

// Inspect opens all peppers and all keys that are not retired, and changes nothing. It returns
// secret.ErrSealed if one of them was sealed with a master secret that is missing.
func (s *Secrets) Inspect(ctx context.Context) (found Sealing, err error) {
	keys, err := s.Store.SigningKeys(ctx)
	if err != nil {
		return found, err
	}
	kept, err := s.Store.Peppers(ctx)
	if err != nil {
		return found, err
	}
	for _, key := range keys {
		if _, err := s.openKey(key); err != nil {
			return Sealing{}, err
		}
		if key.RetiredAt.IsZero() {
			found.count(s.isOwn(key.Sealed, sealedKey(key.ID)))
		}
	}
	for _, k := range kept {
		if _, err := s.openPepper(k); err != nil {
			return Sealing{}, err
		}
		found.count(s.isOwn(k.Sealed, sealedPepper(k.ID)))
	}
	return found, nil
}

func (f *Sealing) count(first bool) {
	if first {
		f.First++
	} else {
		f.Second++
	}
}

// NeedsAll reports whether a key or pepper depends on the master secrets after the first. It ignores
// refresh tokens.
func (s *Secrets) NeedsAll(ctx context.Context) (bool, error) {
	keys, peppers, err := s.foreign(ctx, s.Store)
	return len(keys)+len(peppers) > 0, err
}

// foreign returns the keys and peppers that would be lost with only the first master secret.
func (s *Secrets) foreign(ctx context.Context, store *persistence.Store) (keys []persistence.SigningKey, peppers []password.Pepper, err error) {
	stored, err := store.SigningKeys(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range stored {
		if key.RetiredAt.IsZero() && !s.isOwn(key.Sealed, sealedKey(key.ID)) {
			keys = append(keys, key)
		}
	}
	kept, err := store.Peppers(ctx)
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{s.Master[0].ID: true}
	for _, k := range kept {
		known[k.ID] = true
		if s.isOwn(k.Sealed, sealedPepper(k.ID)) {
			continue
		}
		pepper, err := s.openPepper(k)
		if err != nil {
			return nil, nil, err
		}
		peppers = append(peppers, pepper)
	}
	for _, derived := range password.Peppers(s.Master) {
		if !known[derived.ID] {
			peppers = append(peppers, derived)
		}
	}
	return keys, peppers, nil
}

// isOwn reports whether the first master secret opens a sealed value.
func (s *Secrets) isOwn(sealed []byte, row string) bool {
	_, err := s.Master[:1].Open(sealed, row)
	return err == nil
}

func (s *Secrets) resealKey(ctx context.Context, tx *persistence.Store, key persistence.SigningKey) error {
	seed, err := s.openKey(key)
	if err != nil {
		return err
	}
	sealed, err := s.Master.Seal(seed, sealedKey(key.ID))
	if err != nil {
		return fmt.Errorf("seal signing key: %w", err)
	}
	return tx.ResealSigningKey(ctx, key.ID, sealed)
}
