package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/testclock"
)

func TestTheClockFollowsTheDatabases(t *testing.T) {
	there := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	machine := testclock.New(there)
	var away error
	c := &databaseClock{
		clock: clock.New(machine.Read, clock.Tolerance),
		ask:   func(context.Context) (time.Time, error) { return there, away },
		log:   slog.New(slog.DiscardHandler),
	}
	at := time.Duration(0) // by which the machine's is ahead
	for i, step := range []struct {
		machine time.Duration
		away    error
		want    time.Duration // by which the service's is
	}{
		{machine: 300 * time.Millisecond, want: 300 * time.Millisecond}, // within the tolerance
		{machine: 30 * time.Second},                                     // time goes on as it did at the last jump
		{machine: 30*time.Second + 300*time.Millisecond, want: 300 * time.Millisecond},
		{machine: 40 * time.Second, away: errors.New("away")},
		{machine: -30 * time.Second},
		{machine: 0},
	} {
		machine.Jump(step.machine - at)
		at, away = step.machine, step.away
		if got := c.clock.Now().Sub(there); got != step.want {
			t.Errorf("%d: before the comparison the service's clock is off by %s, want %s", i, got, step.want)
		}
		if err := c.set(t.Context()); !errors.Is(err, step.away) {
			t.Fatal(err)
		}
		if got := c.clock.Now().Sub(there); got != step.want {
			t.Errorf("%d: the service's clock is off by %s, want %s", i, got, step.want)
		}
	}
	machine.Jump(time.Hour)
	there = there.Add(time.Hour) // the machine was suspended
	check(t, c.set(t.Context()))
	if got := c.clock.Now().Sub(there); got.Abs() >= clock.Tolerance {
		t.Errorf("after an hour of sleep the service's clock is off by %s", got)
	}
}

func TestAClockThatIsWrongFromTheStart(t *testing.T) {
	there := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	machine := testclock.New(there.Add(-time.Hour))
	c := &databaseClock{
		clock: clock.New(machine.Read, clock.Tolerance), log: slog.New(slog.DiscardHandler),
		ask: func(context.Context) (time.Time, error) { return there, nil },
	}
	check(t, c.set(t.Context()))
	if got := c.clock.Now(); !got.Equal(there) || c.clock.Ahead() != -time.Hour {
		t.Errorf("%s, %s ahead", got, c.clock.Ahead())
	}
}
