package persistence_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/persistence"
)

var errNotNow = errors.New("not now")

// try counts a try at each of the keys, unless one has to wait.
func try(ctx context.Context, s *persistence.Store, limit gcra.Limit, at time.Time, keys ...string) error {
	return s.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		held, err := tx.HoldCounters(ctx, keys...)
		if err != nil {
			return err
		}
		var counters []persistence.Counter
		for _, c := range held {
			if limit.Wait(c.Due[0], at) > 0 {
				return errNotNow
			}
			c.Due[0] = limit.Pass(c.Due[0], at)
			counters = append(counters, c)
		}
		if err := tx.Relax(ctx); err != nil {
			return err
		}
		return tx.SetCounters(ctx, counters...)
	})
}

func counters(t *testing.T, s *persistence.Store) int {
	t.Helper()
	n, err := s.DB().NewSelect().Table("limits").Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func TestCountersComeBackAsTheyWereSet(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		want := persistence.Counter{Key: "b", Due: [persistence.Tiers]time.Time{now, now.Add(time.Microsecond)}}
		err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
			held, err := tx.HoldCounters(ctx, "b", "a")
			if err != nil {
				return err
			}
			if len(held) != 2 || held["a"] != (persistence.Counter{Key: "a"}) {
				t.Errorf("new ones: %+v", held)
			}
			return tx.SetCounters(ctx, want, held["a"])
		})
		if err != nil {
			t.Fatal(err)
		}
		held, err := s.HoldCounters(t.Context(), "b")
		if err != nil || held["b"] != want {
			t.Errorf("got %+v, %v, want %+v", held, err, want)
		}
	})
}

// Of many at once, on several connections and with their keys in any order, just the burst
// passes, and who was refused at one key is not counted at the other.
func TestTheBurstPassesHoweverManyTryAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		limit := gcra.Limit{Burst: 7, Interval: time.Minute}
		passed := map[string]int{}
		for i, err := range atOnce(64, func(i int) error {
			keys := []string{"shared", fmt.Sprint("own", i%2)}
			if i%3 == 0 {
				keys[0], keys[1] = keys[1], keys[0]
			}
			return try(t.Context(), s, limit, now, keys...)
		}) {
			switch {
			case err == nil:
				passed["shared"]++
				passed[fmt.Sprint("own", i%2)]++
			case !errors.Is(err, errNotNow):
				t.Fatal(err)
			}
		}
		if passed["shared"] != limit.Burst {
			t.Errorf("%v passed", passed)
		}
		for key, n := range passed {
			held, err := s.HoldCounters(t.Context(), key)
			if want := now.Add(time.Duration(n) * limit.Interval); err != nil || !held[key].Due[0].Equal(want) {
				t.Errorf("%s: %+v, %v, want %s", key, held, err, want)
			}
		}
	})
}

func TestIdleCountersAreSwept(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var all []persistence.Counter
		for i := range 20 {
			all = append(all, persistence.Counter{
				Key: fmt.Sprint(i), Due: [persistence.Tiers]time.Time{now, now.Add(time.Duration(i) * time.Second)},
			})
		}
		if err := s.SetCounters(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			at                    time.Time
			looked, deleted, left int
		}{
			{now.Add(-time.Microsecond), 4, 0, 20}, // a batch, and so on until all are put off
			{now.Add(-time.Microsecond), 4, 0, 20},
			{now.Add(-time.Microsecond), 4, 0, 20},
			{now.Add(-time.Microsecond), 4, 0, 20},
			{now.Add(-time.Microsecond), 4, 0, 20},
			{now.Add(-time.Microsecond), 0, 0, 20},
			{now.Add(9 * time.Second), 4, 4, 16},
			{now.Add(9 * time.Second), 4, 4, 12},
			{now.Add(9 * time.Second), 2, 2, 10},
			{now.Add(9 * time.Second), 0, 0, 10},
		} {
			looked, deleted, err := s.SweepCounters(t.Context(), step.at, 4)
			if err != nil || looked != step.looked || deleted != step.deleted || counters(t, s) != step.left {
				t.Errorf("at %s: %d looked at, %d deleted, %d left, %v; want %+v", step.at, looked, deleted, counters(t, s), err, step)
			}
		}
	})
}

// Sweeping neither waits for those who count nor makes them fail or forget.
func TestSweepingAndCountingDoNotHinderEachOther(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		limit := gcra.Limit{Burst: 1000, Interval: time.Microsecond}
		for _, err := range atOnce(8, func(i int) error {
			for n := range 20 {
				if i%4 == 0 {
					if _, _, err := s.SweepCounters(t.Context(), now.Add(time.Hour), 2); err != nil {
						return err
					}
					continue
				}
				if err := try(t.Context(), s, limit, now, fmt.Sprint(n%3), fmt.Sprint((n+1+i%2)%3)); err != nil {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// The database reckons as package gcra does.
func TestRefreshesArePacedAsTheLimitSays(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		limit := gcra.Limit{Burst: 3, Interval: 2 * time.Second}
		var due time.Time
		at := now
		for i := range 60 {
			at = at.Add(time.Duration(rand.IntN(4_000)) * time.Millisecond / 2)
			want := limit.Wait(due, at) == 0
			if want {
				due = limit.Pass(due, at)
			}
			next := step(n, at)
			next.Limit = limit
			advanced, err := s.AdvanceSession(t.Context(), next)
			passed := err == nil
			if passed {
				n = advanced
			} else if errors.Is(err, auth.ErrNotFound) {
				err = nil
			}
			if got := stored(t, s, n.ID).RefreshDue; err != nil || passed != want || !got.Equal(due) {
				t.Fatalf("%d: passed %v, %v, due %s; want %v, %s", i, passed, err, got, want, due)
			}
		}
	})
}
