package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

type pepperRow struct {
	bun.BaseModel `bun:"table:peppers,alias:p"`

	ID        string    `bun:"id,pk"`
	Sealed    []byte    `bun:"sealed"`
	CreatedAt time.Time `bun:"created_at"`
}

// Pepper is a pepper that passwords were keyed with, as it is kept.
type Pepper struct {
	ID        string    // of the master secret it was derived from
	Sealed    []byte    // the pepper, which only the master secret opens
	CreatedAt time.Time // when it was first kept
}

// Peppers returns those that are kept.
func (s *Store) Peppers(ctx context.Context) ([]Pepper, error) {
	var rows []pepperRow
	if err := s.read.NewSelect().Model(&rows).Order("id").Scan(ctx); err != nil {
		return nil, s.fault("select peppers", err)
	}
	peppers := make([]Pepper, len(rows))
	for i, r := range rows {
		peppers[i] = Pepper{ID: r.ID, Sealed: r.Sealed, CreatedAt: r.CreatedAt.UTC()}
	}
	return peppers, nil
}

// KeepPepper stores a pepper, or seals it anew if it is kept already.
func (s *Store) KeepPepper(ctx context.Context, p Pepper) error {
	row := pepperRow{ID: p.ID, Sealed: p.Sealed, CreatedAt: p.CreatedAt}
	_, err := s.write.NewInsert().Model(&row).On("CONFLICT (id) DO UPDATE").Set("sealed = EXCLUDED.sealed").Exec(ctx)
	return s.fault("keep pepper", err)
}
