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

// Secrets is what the database keeps sealed with the master secret: the private halves of
// signing keys, and the peppers of master secrets that passwords were keyed under. All
// fields but Clock are required.
//
// A master secret is replaced in three steps: the service starts with the new one in front
// of the former, Reseal seals everything with the new one, and the former is taken away.
// Then only its pepper remains. Refresh tokens made under it are refused from then on: its
// key for them is not kept, since a secret is often replaced because others know it.
type Secrets struct {
	Store  *persistence.Store
	Master secret.Keys
	Clock  clock.Func
}

// Peppers returns the peppers that passwords may be keyed with, those of the master secrets
// first. It keeps the current one, sealed with its own master secret, which then cannot go
// before Reseal was called. It returns secret.ErrSealed, and keeps nothing, if something in
// the database was sealed with a master secret that is missing.
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

// openKey returns the private half of a key, nothing of a retired one.
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

// Resealed counts what Reseal sealed anew.
type Resealed struct {
	Keys, Peppers int
}

// Reseal seals everything with the first master secret that it does not open yet, and keeps
// the peppers of the others, so that they are needed no longer. It returns secret.ErrSealed
// if none of them opens something. If it returns an error, nothing was changed.
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

// Sealing counts what is sealed with each master secret, the first and the second.
type Sealing struct {
	First, Second int
}

// Inspect opens everything that is sealed, and changes nothing. It returns secret.ErrSealed if
// something was sealed with a master secret that is missing.
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

// NeedsAll tells whether something hangs on the master secrets behind the first, refresh
// tokens aside.
func (s *Secrets) NeedsAll(ctx context.Context) (bool, error) {
	keys, peppers, err := s.foreign(ctx, s.Store)
	return len(keys)+len(peppers) > 0, err
}

// foreign returns what would be lost if there were only the first master secret.
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

// isOwn tells whether the first master secret opens what was sealed.
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
