package persistence

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Most of the cost of a refresh on Postgres is the round trip and the wait for the disk. Refreshes that
// arrive while a statement is in flight wait for it, and are then sent as one batch in one statement. A
// refresh that finds no statement in flight is sent immediately.
//
// The statement of a batch skips locked rows, so it waits for no other transaction and cannot be part of
// a deadlock. A refresh that the batch did not advance is retried alone, and the retry decides as if it
// were the first attempt. If the batch committed but its reply was lost, the retry falls within
// REFRESH_GRACE.

const (
	// maxBatch is the most refreshes in one statement.
	maxBatch = 64
	// batchTimeout bounds the statement of a batch. After it, each refresh is retried alone.
	batchTimeout = 2 * time.Second
	// leadTimeout is how long waiting refreshes wait for the statement in flight. After it, the next
	// leader sends a batch concurrently.
	leadTimeout = 100 * time.Millisecond
)

// refreshBatcher batches the refreshes of this process. One refresh at a time leads: it sends itself and
// the waiting refreshes.
type refreshBatcher struct {
	mu      sync.Mutex
	hasLead bool // a refresh leads
	waiting []*waiter
}

// waiter is a refresh that waits for a leader, or to become one.
type waiter struct {
	step    Step
	signal  chan signal
	session Session // after the refresh, if moved is set
	moved   bool    // the batch advanced the session
}

type signal bool

const (
	promoted signal = true  // the waiter leads from now on
	returned signal = false // the batch with the waiter has returned
)

// advance implements Store.AdvanceSession.
func (b *refreshBatcher) advance(ctx context.Context, s *Store, step Step) (Session, error) {
	w := &waiter{step: step, signal: make(chan signal, 1)}
	if !b.enqueue(w) {
		return b.lead(ctx, s, w)
	}
	select {
	case <-ctx.Done():
		b.leave(w)
		return s.advanceAlone(ctx, step)
	case sig := <-w.signal:
		if sig == promoted {
			return b.lead(ctx, s, w)
		}
	}
	if w.moved {
		return w.session, nil
	}
	return s.advanceAlone(ctx, step)
}

// lead sends w and the waiting refreshes as one batch. It promotes the next leader when the batch
// returns, or after leadTimeout.
func (b *refreshBatcher) lead(ctx context.Context, s *Store, w *waiter) (Session, error) {
	batch := b.takeBatch(w)
	timer := time.AfterFunc(leadTimeout, b.promote)
	done := func() {
		if timer.Stop() {
			b.promote()
		}
	}
	if len(batch) == 1 {
		defer done()
		return s.advanceAlone(ctx, w.step)
	}
	bounded, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	_ = s.advanceBatch(bounded, batch) // a refresh that did not advance gets the error of its retry
	done()
	for _, other := range batch[1:] {
		other.signal <- returned
	}
	if w.moved {
		return w.session, nil
	}
	return s.advanceAlone(ctx, w.step)
}

// enqueue adds w to the waiting refreshes. If there is no leader, it makes w the leader and returns false.
func (b *refreshBatcher) enqueue(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.hasLead {
		b.hasLead = true
		return false
	}
	b.waiting = append(b.waiting, w)
	return true
}

// takeBatch returns w and waiting refreshes, at most maxBatch and one of each session.
func (b *refreshBatcher) takeBatch(w *waiter) []*waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	batch, sessions := []*waiter{w}, map[string]bool{w.step.SessionID: true}
	var rest []*waiter
	for _, other := range b.waiting {
		if len(batch) == maxBatch || sessions[other.step.SessionID] {
			rest = append(rest, other)
			continue
		}
		batch, sessions[other.step.SessionID] = append(batch, other), true
	}
	b.waiting = rest
	return batch
}

// promote makes the oldest waiting refresh the leader.
func (b *refreshBatcher) promote() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		b.hasLead = false
		return
	}
	b.waiting[0].signal <- promoted
	b.waiting = b.waiting[1:]
}

// leave removes a refresh whose context has ended.
func (b *refreshBatcher) leave(w *waiter) {
	b.mu.Lock()
	i := slices.Index(b.waiting, w)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.mu.Unlock()
	select {
	case sig := <-w.signal:
		if sig == promoted { // just before the context ended
			b.promote()
		}
	default: // w was waiting, or its batch is in flight
	}
}

// batchStep is a step as the statement reads it.
type batchStep struct {
	Session    string    `json:"session"`
	Generation int64     `json:"gen"`
	Carrier    string    `json:"way"`
	At         time.Time `json:"at"`
	ExpiresAt  time.Time `json:"expires"`
	IP         string    `json:"ip"`
	Agent      string    `json:"agent"`
	Due        int64     `json:"due"`    // microseconds, like Latest and Interval
	Latest     int64     `json:"latest"` // latest permitted refresh_due
	Interval   int64     `json:"pause"`
}

// batchSteps selects the steps of sessions that are not locked. It looks up each session by its id, so no
// plan reads the whole table. Its names differ from the names of the table's columns.
const batchSteps = `SELECT w.* FROM jsonb_to_recordset(?::jsonb) AS w(session text, gen bigint, way text, at timestamptz,
expires timestamptz, ip text, agent text, due bigint, latest bigint, pause bigint) CROSS JOIN LATERAL
(SELECT FROM login_sessions AS l WHERE l.id = w.session AND l.generation = w.gen FOR NO KEY UPDATE SKIP LOCKED) AS l`

// advanceBatch is advanceAlone for several sessions, on Postgres.
func (s *Store) advanceBatch(ctx context.Context, batch []*waiter) error {
	steps, bySession := make([]batchStep, len(batch)), make(map[string]*waiter, len(batch))
	for i, w := range batch {
		steps[i], bySession[w.step.SessionID] = w.step.batched(), w
	}
	data, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("encode steps: %w", err)
	}
	p := s.prepare()
	var rows []sessionRow
	err = p.run(s.write.NewUpdate().With("step", s.write.NewRaw(batchSteps, p.value(string(data)))).
		Model((*sessionRow)(nil)).TableExpr("step").
		Set("generation = generation + 1").
		Set("used_at = step.at").
		Set("used_ip = step.ip").
		Set("used_agent = step.agent").
		Set("expires_at = CASE WHEN deadline_at < step.expires THEN deadline_at ELSE step.expires END").
		Set("refresh_due = CASE WHEN step.pause = 0 THEN refresh_due ELSE GREATEST(refresh_due, step.due) + step.pause END").
		Where("id = step.session AND generation = step.gen").
		Where("carrier = step.way AND "+expiry+" > step.at").
		Where(mayRefresh(batch[0].step.Verified)).
		Where("refresh_due <= step.latest").
		Returning(sessionColumns)).Scan(ctx, &rows)
	if err != nil {
		return s.fault("advance sessions", err)
	}
	for _, row := range rows {
		w := bySession[row.ID]
		w.session, w.moved = row.session(), true
	}
	return nil
}

func (step Step) batched() batchStep {
	b := batchStep{
		Session: step.SessionID, Generation: step.Generation, Carrier: string(step.Carrier),
		At: step.At, ExpiresAt: step.ExpiresAt, IP: step.Client.IP, Agent: step.Client.UserAgent,
		Due: micros(step.At), Latest: math.MaxInt64,
	}
	if limit := step.Limit; limit.Interval > 0 {
		b.Latest, b.Interval = b.Due+limit.Slack().Microseconds(), limit.Interval.Microseconds()
	}
	return b
}
