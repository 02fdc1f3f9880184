package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

type keyRow struct {
	bun.BaseModel `bun:"table:signing_keys,alias:k"`

	ID         string    `bun:"id,pk"`
	PublicKey  []byte    `bun:"public_key"`
	PrivateKey []byte    `bun:"private_key"`
	CreatedAt  time.Time `bun:"created_at"`
	ActiveFrom time.Time `bun:"active_from"`
	RetiredAt  time.Time `bun:"retired_at,nullzero"`
}

// SigningKey is a stored Ed25519 key.
type SigningKey struct {
	ID         string    // kid
	Public     []byte    // 32 bytes
	Sealed     []byte    // the private half, which only the master secret opens; empty once retired
	CreatedAt  time.Time //
	ActiveFrom time.Time // when it begins to sign
	RetiredAt  time.Time // when it was withdrawn; zero if it was not
}

// SigningKeys returns all keys, the newest first.
func (s *Store) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	var rows []keyRow
	if err := s.read.NewSelect().Model(&rows).Order("active_from DESC", "id").Scan(ctx); err != nil {
		return nil, s.fault("select signing keys", err)
	}
	keys := make([]SigningKey, len(rows))
	for i, r := range rows {
		keys[i] = SigningKey{
			ID: r.ID, Public: r.PublicKey, Sealed: r.PrivateKey,
			CreatedAt: r.CreatedAt.UTC(), ActiveFrom: r.ActiveFrom.UTC(), RetiredAt: r.RetiredAt.UTC(),
		}
	}
	return keys, nil
}

// CreateSigningKey stores a key.
func (s *Store) CreateSigningKey(ctx context.Context, k SigningKey) error {
	row := keyRow{ID: k.ID, PublicKey: k.Public, PrivateKey: k.Sealed, CreatedAt: k.CreatedAt, ActiveFrom: k.ActiveFrom}
	_, err := s.write.NewInsert().Model(&row).Exec(ctx)
	return s.fault("insert signing key", err)
}

// ActivateSigningKey sets the time at which a key begins to sign.
func (s *Store) ActivateSigningKey(ctx context.Context, id string, from time.Time) error {
	_, err := s.write.NewUpdate().Model((*keyRow)(nil)).Set("active_from = ?", from).Where("id = ?", id).Exec(ctx)
	return s.fault("activate signing key", err)
}

// ResealSigningKey replaces the sealed private half of a key.
func (s *Store) ResealSigningKey(ctx context.Context, id string, sealed []byte) error {
	_, err := s.write.NewUpdate().Model((*keyRow)(nil)).Set("private_key = ?", sealed).Where("id = ?", id).Exec(ctx)
	return s.fault("reseal signing key", err)
}

// RetireSigningKey marks a key as withdrawn and overwrites its private half.
func (s *Store) RetireSigningKey(ctx context.Context, id string, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*keyRow)(nil)).
		Set("retired_at = ?", at).Set("private_key = ?", []byte{}).Where("id = ?", id).Exec(ctx)
	return s.fault("retire signing key", err)
}

// DeleteSigningKey deletes a key.
func (s *Store) DeleteSigningKey(ctx context.Context, id string) error {
	_, err := s.write.NewDelete().Model((*keyRow)(nil)).Where("id = ?", id).Exec(ctx)
	return s.fault("delete signing key", err)
}
