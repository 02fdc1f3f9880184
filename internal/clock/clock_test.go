package clock_test

import (
	"sync"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/testclock"
)

var begin = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// ever is what a clock that has not jumped is steady for, at least.
const ever = 100 * 365 * 24 * time.Hour

func TestWithoutAReferenceItFollowsItsSource(t *testing.T) {
	machine := testclock.New(begin)
	c := clock.New(machine.Read, clock.Tolerance)
	for i, step := range []struct {
		advance, jump time.Duration
		wall          time.Duration // since begin
		steady        time.Duration
		jumps         uint64
	}{
		{advance: time.Minute, wall: time.Minute, steady: ever},
		{jump: 400 * time.Millisecond, wall: time.Minute + 400*time.Millisecond, steady: ever}, // slewing
		{jump: 400 * time.Millisecond, wall: time.Minute + 800*time.Millisecond, steady: ever}, // which may go on
		{jump: 400 * time.Millisecond, wall: time.Minute + 1200*time.Millisecond, steady: ever},
		{jump: -2200 * time.Millisecond, wall: time.Minute - time.Second, steady: 0, jumps: 1},
		{advance: time.Second, wall: time.Minute, steady: time.Second, jumps: 1},
		{jump: time.Hour, wall: time.Hour + time.Minute, jumps: 2},
		{advance: time.Second, jump: -time.Hour, wall: time.Minute + time.Second, jumps: 3},
	} {
		machine.Advance(step.advance)
		machine.Jump(step.jump)
		if steady := min(c.Steady(), ever); steady != step.steady {
			t.Errorf("%d: steady for %s, want %s", i, steady, step.steady)
		}
		if got := c.Read(); got.Wall.Sub(begin) != step.wall || got.Jumps != step.jumps {
			t.Errorf("%d: %s after the beginning with %d jumps, want %s and %d", i, got.Wall.Sub(begin), got.Jumps, step.wall, step.jumps)
		}
	}
}

// check asks a reference, which takes a while.
func check(c *clock.Clock, machine *testclock.Clock, there time.Time, took time.Duration) bool {
	asked := c.Read()
	machine.Advance(took)
	return c.Check(there.Add(took/2), asked, c.Read())
}

func TestWithAReferenceItGoesOnWhenItsSourceJumps(t *testing.T) {
	machine := testclock.New(begin.Add(time.Hour)) // wrong from the start
	c := clock.New(machine.Read, clock.Tolerance)
	if !check(c, machine, begin, 100*time.Millisecond) {
		t.Fatal("an hour is within the tolerance")
	}
	if at := c.Now().Sub(begin); at != 100*time.Millisecond || c.Ahead() != time.Hour || c.Steady() != 0 {
		t.Fatalf("%s after the beginning, %s ahead, steady for %s", at, c.Ahead(), c.Steady())
	}
	machine.Advance(900 * time.Millisecond)
	for _, jump := range []time.Duration{-2 * time.Hour, time.Hour, 24 * time.Hour, -24 * time.Hour} {
		before := c.Read()
		machine.Jump(jump)
		machine.Advance(time.Second)
		after := c.Read()
		if after.Wall.Sub(before.Wall) != time.Second || after.Jumps != before.Jumps+1 {
			t.Errorf("%s: time moved by %s, jumps from %d to %d", jump, after.Wall.Sub(before.Wall), before.Jumps, after.Jumps)
		}
	}
	// The machine was suspended: the jump was right, and the reference says so.
	machine.Jump(30 * time.Minute)
	if c.Now().Sub(begin) != 5*time.Second || !check(c, machine, begin.Add(30*time.Minute+5*time.Second), 0) {
		t.Error("the reference did not count")
	}
	if at := c.Now().Sub(begin); at != 30*time.Minute+5*time.Second {
		t.Errorf("%s after the beginning", at)
	}
}

func TestAReferenceIsNotMorePreciseThanItsAnswer(t *testing.T) {
	machine := testclock.New(begin)
	c := clock.New(machine.Read, clock.Tolerance)
	for _, tt := range []struct {
		wrong, took time.Duration
		isSet       bool
	}{
		{wrong: 999 * time.Millisecond},
		{wrong: 1500 * time.Millisecond, took: 2 * time.Second},
		{wrong: -1999 * time.Millisecond, took: 2 * time.Second},
		{wrong: 2 * time.Second, took: 2 * time.Second, isSet: true},
	} {
		if got := check(c, machine, c.Now().Add(-tt.wrong), tt.took); got != tt.isSet {
			t.Errorf("%+v: set: %t", tt, got)
		}
	}
	asked := c.Read()
	machine.Jump(time.Hour)
	if c.Check(begin, asked, c.Read()) {
		t.Error("it was compared although it jumped meanwhile")
	}
}

func TestJumpsOfTheSourceCount(t *testing.T) {
	machine := testclock.New(begin)
	inner := clock.New(machine.Read, clock.Tolerance)
	check(inner, machine, begin, 0)
	outer := clock.New(inner.Read, 5*time.Second)
	machine.Jump(time.Hour) // which the inner one keeps to itself
	if r := outer.Read(); r.Jumps != 1 || !r.Wall.Equal(begin) {
		t.Errorf("%+v", r)
	}
}

func TestManyReadersSeeAJumpOnce(t *testing.T) {
	machine := testclock.New(begin)
	c := clock.New(machine.Read, clock.Tolerance)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				c.Read()
			}
		})
	}
	for i := range 100 {
		machine.Jump([]time.Duration{time.Hour, -time.Hour}[i%2])
		c.Read()
	}
	group.Wait()
	if r := c.Read(); r.Jumps != 100 {
		t.Errorf("%d jumps", r.Jumps)
	}
}

func TestTheMachinesClocks(t *testing.T) {
	for name, c := range map[string]*clock.Clock{"system": clock.System(), "wall": clock.New(clock.Wall(time.Now), clock.Tolerance)} {
		before := time.Now().Round(0)
		first, second := c.Read(), c.Read()
		if first.Wall.Before(before) || second.Wall.Before(first.Wall) || second.Elapsed < first.Elapsed || second.Jumps != 0 {
			t.Errorf("%s: %+v, then %+v", name, first, second)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	c := clock.New(clock.System().Read, 5*time.Second)
	b.ReportAllocs()
	for b.Loop() {
		c.Read()
	}
}

func BenchmarkNow(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		time.Now()
	}
}
