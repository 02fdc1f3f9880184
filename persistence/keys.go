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

// SigningKey is an Ed25519 key as it is kept.
type SigningKey struct {
	ID         string    // kid
	Public     []byte    // 32 bytes
	Sealed     []byte    // the private half, which only the master secret opens
	CreatedAt  time.Time //
	ActiveFrom time.Time // when it begins to sign
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
			CreatedAt: r.CreatedAt.UTC(), ActiveFrom: r.ActiveFrom.UTC(),
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
