package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

type lifetimeRow struct {
	bun.BaseModel `bun:"table:access_lifetimes,alias:a"`

	Lifetime    int64     `bun:"lifetime,pk"` // microseconds
	NeededUntil time.Time `bun:"needed_until"`
}

// longestLifetime selects the longest lifetime of access tokens that may be valid, in microseconds.
const longestLifetime = "(SELECT COALESCE(max(a.lifetime), 0) FROM access_lifetimes AS a)"

// NoteLifetime stores a lifetime of access tokens, in whole microseconds, until the tokens with that
// lifetime have expired. If it is stored already, the later time applies. NoteLifetime deletes the
// lifetimes that were needed until before now.
func (s *Store) NoteLifetime(ctx context.Context, lifetime time.Duration, until, now time.Time) error {
	row := lifetimeRow{Lifetime: lifetime.Microseconds(), NeededUntil: until}
	_, err := s.write.NewInsert().Model(&row).On("CONFLICT (lifetime) DO UPDATE").
		Set("needed_until = CASE WHEN a.needed_until < EXCLUDED.needed_until THEN EXCLUDED.needed_until ELSE a.needed_until END").Exec(ctx)
	if err != nil {
		return s.fault("note lifetime", err)
	}
	_, err = s.write.NewDelete().Model((*lifetimeRow)(nil)).Where("needed_until < ?", now).Exec(ctx)
	return s.fault("forget lifetimes", err)
}

// LongestLifetime returns the longest lifetime of access tokens that may be valid, including those
// that other processes issue. It returns 0 if no lifetime is stored.
func (s *Store) LongestLifetime(ctx context.Context) (time.Duration, error) {
	var micros int64
	err := s.read.NewRaw("SELECT "+longestLifetime).Scan(ctx, &micros)
	return time.Duration(micros) * time.Microsecond, s.fault("select longest lifetime", err)
}
