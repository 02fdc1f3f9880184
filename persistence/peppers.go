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

// Pepper is a stored pepper that keys passwords.
type Pepper struct {
	ID        string    // ID of the master secret that the pepper was derived from
	Sealed    []byte    // the pepper, which only the master secret opens
	CreatedAt time.Time // when it was first stored
}

// Peppers returns all stored peppers, in the order of their IDs.
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

// KeepPepper stores a pepper. If it is stored already, KeepPepper replaces its sealed form.
func (s *Store) KeepPepper(ctx context.Context, p Pepper) error {
	row := pepperRow{ID: p.ID, Sealed: p.Sealed, CreatedAt: p.CreatedAt}
	_, err := s.write.NewInsert().Model(&row).On("CONFLICT (id) DO UPDATE").Set("sealed = EXCLUDED.sealed").Exec(ctx)
	return s.fault("keep pepper", err)
}
