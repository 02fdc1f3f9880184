package persistence

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Tiers is the number of arrival times in a counter.
const Tiers = 2

type counterRow struct {
	bun.BaseModel `bun:"table:limits,alias:l"`

	Key    string `bun:"key,pk"`
	First  int64  `bun:"first"`
	Second int64  `bun:"second"`
	IdleAt int64  `bun:"idle_at"` // the later of both: from then on the row has no effect
}

// Counter is the state of a rate limit.
type Counter struct {
	Key string
	Due [Tiers]time.Time // theoretical arrival times; zero if there is none
}

// HoldCounters returns the counters of the keys and locks them until the transaction ends. The counter of
// a new key has zero times. The keys must be distinct.
func (s *Store) HoldCounters(ctx context.Context, keys ...string) (map[string]Counter, error) {
	rows := make([]counterRow, len(keys))
	for i, key := range slices.Sorted(slices.Values(keys)) { // the same order in every transaction prevents deadlocks
		rows[i].Key = key
	}
	err := s.write.NewInsert().Model(&rows).On("CONFLICT (key) DO UPDATE").Set("key = EXCLUDED.key").
		Returning("*").Scan(ctx)
	if err != nil {
		return nil, s.fault("hold limits", err)
	}
	counters := make(map[string]Counter, len(rows))
	for _, r := range rows {
		counters[r.Key] = Counter{r.Key, [Tiers]time.Time{fromMicros(r.First), fromMicros(r.Second)}}
	}
	return counters, nil
}

// SetCounters stores counters that the transaction holds.
func (s *Store) SetCounters(ctx context.Context, counters ...Counter) error {
	rows := make([]counterRow, len(counters))
	for i, c := range counters {
		first, second := micros(c.Due[0]), micros(c.Due[1])
		rows[i] = counterRow{Key: c.Key, First: first, Second: second, IdleAt: max(first, second)}
	}
	slices.SortFunc(rows, func(a, b counterRow) int { return strings.Compare(a.Key, b.Key) })
	_, err := s.write.NewInsert().Model(&rows).On("CONFLICT (key) DO UPDATE").
		Set("first = EXCLUDED.first").Set("second = EXCLUDED.second").Set("idle_at = EXCLUDED.idle_at").Exec(ctx)
	return s.fault("set limits", err)
}

// DropCounters deletes the counters whose keys begin with prefix, which uses the base64url alphabet. It
// waits for transactions that hold one of them.
func (s *Store) DropCounters(ctx context.Context, prefix string) error {
	held := s.write.NewSelect().Model((*counterRow)(nil)).Column("key").
		Where("key >= ? AND key < ?", prefix, prefix+"~").Order("key") // in the order of HoldCounters
	if s.skipLocked != "" {
		held = held.For("UPDATE")
	}
	_, err := s.write.NewDelete().Model((*counterRow)(nil)).Where("key IN (?)", held).Exec(ctx)
	return s.fault("delete limits", err)
}

// SweepCounters deletes counters that no longer have an effect, in one small batch. It returns how many
// it read and how many it deleted. If it read fewer than the batch, none is left or other transactions
// hold the rest. It postpones the sweep of a counter that still has an effect to the time at which the
// effect ends.
func (s *Store) SweepCounters(ctx context.Context, now time.Time, batch int64) (looked, deleted int, err error) {
	err = s.Tx(ctx, func(ctx context.Context, tx *Store) error {
		var rows []counterRow
		due := tx.read.NewSelect().Model(&rows).Column("key", "idle_at").
			Where("sweep_at <= ?", micros(now)).Order("sweep_at").Limit(batch)
		if s.skipLocked != "" {
			due = due.For(s.skipLocked)
		}
		if err := due.Scan(ctx); err != nil {
			return err
		}
		var idle, used []string
		for _, r := range rows {
			if r.IdleAt <= micros(now) {
				idle = append(idle, r.Key)
			} else {
				used = append(used, r.Key)
			}
		}
		looked, deleted = len(rows), len(idle)
		return tx.sweepCounters(ctx, idle, used)
	})
	if err != nil {
		return 0, 0, s.fault("sweep limits", err)
	}
	return looked, deleted, nil
}

// sweepCounters deletes the idle counters and postpones the sweep of the used ones. The transaction must
// hold both.
func (s *Store) sweepCounters(ctx context.Context, idle, used []string) error {
	if len(used) > 0 {
		_, err := s.write.NewUpdate().Model((*counterRow)(nil)).Set("sweep_at = idle_at").Where("key IN (?)", bun.List(used)).Exec(ctx)
		if err != nil {
			return err
		}
	}
	if len(idle) == 0 {
		return nil
	}
	_, err := s.write.NewDelete().Model((*counterRow)(nil)).Where("key IN (?)", bun.List(idle)).Exec(ctx)
	return err
}
