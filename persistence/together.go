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

// Most of what a refresh costs Postgres, and this process, is the way there and back and the wait
// for the disk. So those that come while one is on its way wait for it, and then go together, in
// one statement. Where there are no others nobody waits.
//
// A statement for many passes over rows that are locked, so it waits for nobody and cannot be part
// of a deadlock. What it did not move, for whatever reason, is tried again alone, which decides
// as if nothing had been tried: one that was moved all the same is a retry like any other.

const (
	// togetherMost is how many refreshes go in one statement.
	togetherMost = 64
	// togetherWithin is how long that may take before each tries alone.
	togetherWithin = 2 * time.Second
	// leadsFor is how long others wait for one that is on its way.
	leadsFor = 100 * time.Millisecond
)

// together has the refreshes of this process go together.
type together struct {
	mu      sync.Mutex
	isLed   bool // some are on their way
	waiting []*member
}

// member is a refresh that waits for others to come back.
type member struct {
	step    Step
	turn    chan turn
	session Session // as it is then
	moved   bool
}

type turn bool

const (
	leads turn = true
	went  turn = false
)

// advance is Store.AdvanceSession.
func (t *together) advance(ctx context.Context, s *Store, step Step) (Session, error) {
	m := &member{step: step, turn: make(chan turn, 1)}
	if !t.wait(m) {
		return t.lead(ctx, s, m)
	}
	select {
	case <-ctx.Done():
		t.leave(m)
		return s.advanceAlone(ctx, step)
	case now := <-m.turn:
		if now == leads {
			return t.lead(ctx, s, m)
		}
	}
	if m.moved {
		return m.session, nil
	}
	return s.advanceAlone(ctx, step)
}

// lead takes those along who wait, and then has the next one lead; if that takes long, before.
func (t *together) lead(ctx context.Context, s *Store, m *member) (Session, error) {
	group := t.gather(m)
	long := time.AfterFunc(leadsFor, t.next)
	done := func() {
		if long.Stop() {
			t.next()
		}
	}
	if len(group) == 1 {
		defer done()
		return s.advanceAlone(ctx, m.step)
	}
	within, cancel := context.WithTimeout(ctx, togetherWithin)
	defer cancel()
	_ = s.advanceTogether(within, group) // whoever it fails for finds out why
	done()
	for _, led := range group[1:] {
		led.turn <- went
	}
	if m.moved {
		return m.session, nil
	}
	return s.advanceAlone(ctx, m.step)
}

// wait has m wait if others are on their way.
func (t *together) wait(m *member) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.isLed {
		t.isLed = true
		return false
	}
	t.waiting = append(t.waiting, m)
	return true
}

// gather returns m and those who can go along: one of each session.
func (t *together) gather(m *member) []*member {
	t.mu.Lock()
	defer t.mu.Unlock()
	group, sessions := []*member{m}, map[string]bool{m.step.SessionID: true}
	var rest []*member
	for _, other := range t.waiting {
		if len(group) == togetherMost || sessions[other.step.SessionID] {
			rest = append(rest, other)
			continue
		}
		group, sessions[other.step.SessionID] = append(group, other), true
	}
	t.waiting = rest
	return group
}

// next has another one lead.
func (t *together) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.isLed = false
		return
	}
	t.waiting[0].turn <- leads
	t.waiting = t.waiting[1:]
}

// leave is for one that waits no longer.
func (t *together) leave(m *member) {
	t.mu.Lock()
	i := slices.Index(t.waiting, m)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	select {
	case now := <-m.turn:
		if now == leads { // it has just been told
			t.next()
		}
	default: // it waited, or is on its way, and nobody hears what comes of that
	}
}

// groupStep is a step as the statement reads it.
type groupStep struct {
	Session    string    `json:"session"`
	Generation int64     `json:"gen"`
	Carrier    string    `json:"way"`
	At         time.Time `json:"at"`
	ExpiresAt  time.Time `json:"expires"`
	IP         string    `json:"ip"`
	Agent      string    `json:"agent"`
	Due        int64     `json:"due"`    // microseconds, as the two below
	Latest     int64     `json:"latest"` // that refresh_due may be
	Interval   int64     `json:"pause"`
}

// groupSteps reads them, but for those of sessions that are locked. Each is looked up by itself, so
// no plan reads the whole table. Names are not those of columns.
const groupSteps = `SELECT w.* FROM jsonb_to_recordset(?::jsonb) AS w(session text, gen bigint, way text, at timestamptz,
expires timestamptz, ip text, agent text, due bigint, latest bigint, pause bigint) CROSS JOIN LATERAL
(SELECT FROM login_sessions AS l WHERE l.id = w.session AND l.generation = w.gen FOR NO KEY UPDATE SKIP LOCKED) AS l`

// advanceTogether is advanceAlone for several sessions, on Postgres.
func (s *Store) advanceTogether(ctx context.Context, group []*member) error {
	steps, bySession := make([]groupStep, len(group)), make(map[string]*member, len(group))
	for i, m := range group {
		steps[i], bySession[m.step.SessionID] = m.step.grouped(), m
	}
	data, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("encode steps: %w", err)
	}
	p := s.prepare()
	var rows []sessionRow
	err = p.run(s.write.NewUpdate().With("step", s.write.NewRaw(groupSteps, p.value(string(data)))).
		Model((*sessionRow)(nil)).TableExpr("step").
		Set("generation = generation + 1").
		Set("used_at = step.at").
		Set("used_ip = step.ip").
		Set("used_agent = step.agent").
		Set("expires_at = CASE WHEN deadline_at < step.expires THEN deadline_at ELSE step.expires END").
		Set("refresh_due = CASE WHEN step.pause = 0 THEN refresh_due ELSE GREATEST(refresh_due, step.due) + step.pause END").
		Where("id = step.session AND generation = step.gen").
		Where("carrier = step.way AND "+expiry+" > step.at").
		Where(mayRefresh(group[0].step.Verified)).
		Where("refresh_due <= step.latest").
		Returning(sessionColumns)).Scan(ctx, &rows)
	if err != nil {
		return s.fault("advance sessions", err)
	}
	for _, row := range rows {
		m := bySession[row.ID]
		m.session, m.moved = row.session(), true
	}
	return nil
}

func (step Step) grouped() groupStep {
	g := groupStep{
		Session: step.SessionID, Generation: step.Generation, Carrier: string(step.Carrier),
		At: step.At, ExpiresAt: step.ExpiresAt, IP: step.Client.IP, Agent: step.Client.UserAgent,
		Due: micros(step.At), Latest: math.MaxInt64,
	}
	if limit := step.Limit; limit.Interval > 0 {
		g.Latest, g.Interval = g.Due+limit.Slack().Microseconds(), limit.Interval.Microseconds()
	}
	return g
}
