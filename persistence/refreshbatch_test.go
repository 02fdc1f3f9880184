package persistence

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/testpg"
)

func openForBatches(t *testing.T) *Store { return openFilled(t, testpg.URL(t), true) }

// batchOf returns refreshes of sessions that fill made, each from another address.
func batchOf(ids ...string) []*waiter {
	var batch []*waiter
	for i, id := range ids {
		batch = append(batch, &waiter{signal: make(chan signal, 1), step: Step{
			SessionID: id, Generation: 1, At: filledAt.Add(time.Duration(i) * time.Microsecond), ExpiresAt: filledAt.Add(time.Hour),
			Carrier: "body", Client: auth.ClientInfo{IP: fmt.Sprint("192.0.2.", i), UserAgent: "browser \"" + id + "\" ünd"},
			Limit: gcra.Limit{Burst: 30, Interval: time.Second},
		}})
	}
	return batch
}

// A refresh in a batch changes what it changes alone.
func TestBatchedRefreshEqualsSingleRefresh(t *testing.T) {
	t.Parallel()
	alone, many := openForBatches(t), openForBatches(t)
	batch := batchOf("20", "21", "22")
	batch[1].step.Limit = gcra.Limit{}
	if err := many.advanceBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for _, m := range batch {
		want, err := alone.advanceAlone(t.Context(), m.step)
		if err != nil || !m.moved || !reflect.DeepEqual(m.session, want) {
			t.Errorf("%+v\nalone %+v, %v", m, want, err)
		}
		kept, err := many.Session(t.Context(), m.step.SessionID)
		if err != nil || !reflect.DeepEqual(kept, want) {
			t.Errorf("kept  %+v, %v\nalone %+v", kept, err, want)
		}
	}
}

// A refresh that is refused alone is refused in a batch, and does not delay the others.
func TestBatchMovesOnlyValidRefreshes(t *testing.T) {
	t.Parallel()
	s := openForBatches(t)
	batch := batchOf("30", "31", "32", "33", "34", "35", "36", "nobody's", "37")
	spent, expired, elsewhere, ended, disabled, busy, locked := batch[1], batch[2], batch[3], batch[4], batch[5], batch[6], batch[8]
	spent.step.Generation = 2
	expired.step.At = filledAt.Add(24 * 365 * time.Hour)
	elsewhere.step.Carrier = "cookie"
	busy.step.Limit.Burst = 1
	if _, err := s.EndSession(t.Context(), ended.step.SessionID, auth.ReasonLogout, filledAt); err != nil {
		t.Fatal(err)
	}
	if err := s.SetDisabled(t.Context(), 35, filledAt, filledAt); err != nil {
		t.Fatal(err)
	}
	if got, err := s.advanceAlone(t.Context(), busy.step); err != nil {
		t.Fatal(err)
	} else {
		busy.step.Generation = got.Generation
	}
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), "SELECT FROM login_sessions WHERE id = ? FOR SHARE", locked.step.SessionID); err != nil {
		t.Fatal(err)
	}
	if err := s.advanceBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if !batch[0].moved {
		t.Error("a valid refresh has not moved")
	}
	for _, m := range []*waiter{spent, expired, elsewhere, ended, disabled, busy, locked} {
		kept, err := s.Session(t.Context(), m.step.SessionID)
		if before := max(1, m.step.Generation); err != nil || m.moved || kept.Generation > before {
			t.Errorf("%+v has become %+v, %v", m.step, kept, err)
		}
	}
}

// Each session moves once, and each caller gets its own session.
func TestManyRefreshesAtOnce(t *testing.T) {
	t.Parallel()
	s := openForBatches(t)
	const sessions, tries = 100, 3
	var moved atomic.Int64
	var group sync.WaitGroup
	for i := range sessions * tries {
		group.Go(func() {
			id := fmt.Sprint(1 + i%sessions)
			step := batchOf(id)[0].step
			step.Client.IP = fmt.Sprint(i)
			got, err := s.AdvanceSession(t.Context(), step)
			if errors.Is(err, auth.ErrNotFound) {
				return
			}
			if err != nil || got.ID != id || got.Generation != 2 || got.Used != step.Client {
				t.Errorf("%+v: %+v, %v", step, got, err)
			}
			moved.Add(1)
		})
	}
	group.Wait()
	if n := moved.Load(); n != sessions {
		t.Errorf("%d of %d sessions have moved", n, sessions)
	}
	// The next refresh gets its turn. This one is of a spent token.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.AdvanceSession(ctx, batchOf("1")[0].step); !errors.Is(err, auth.ErrNotFound) {
		t.Errorf("a refresh after all others: %v", err)
	}
}

// A caller that leaves does not delay the others.
func TestCallerThatLeavesDelaysNoOther(t *testing.T) {
	t.Parallel()
	s := openForBatches(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	all := &refreshBatcher{hasLead: true}
	if _, err := all.advance(gone, s, batchOf("40")[0].step); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(all.waiting) != 0 {
		t.Errorf("%d wait", len(all.waiting))
	}
	chosen := batchOf("41")[0]
	all.waiting = []*waiter{chosen}
	all.promote()
	all.leave(chosen)
	if all.hasLead {
		t.Error("the waiter that has left leads")
	}
	all.hasLead = true
	all.leave(batchOf("42")[0]) // on its way
	if !all.hasLead {
		t.Error("the leader was forgotten")
	}
}

// A session that stays locked does not delay other sessions.
func TestLockedSessionDelaysNoOther(t *testing.T) {
	t.Parallel()
	s := openForBatches(t)
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), "SELECT FROM login_sessions WHERE id = '60' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	var locked atomic.Int64
	var group sync.WaitGroup
	for range 3 { // each retries
		group.Go(func() {
			if _, err := s.AdvanceSession(t.Context(), batchOf("60")[0].step); err == nil {
				locked.Add(1)
			} else if !errors.Is(err, auth.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	for i := range 10 {
		if _, err := s.AdvanceSession(t.Context(), batchOf(fmt.Sprint(61 + i))[0].step); err != nil {
			t.Error(err)
		}
	}
	if n := locked.Load(); n != 0 {
		t.Errorf("%d refreshes passed a lock", n)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	if n := locked.Load(); n != 1 {
		t.Errorf("moved %d times", n)
	}
}
