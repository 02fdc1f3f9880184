package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

func TestTheClockFollowsTheDatabases(t *testing.T) {
	there, here := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Duration(0)
	var away error
	c := &clock{
		system: func() time.Time { return there.Add(here) },
		ask:    func(context.Context) (time.Time, error) { return there, away },
		log:    slog.New(slog.DiscardHandler),
	}
	for _, step := range []struct {
		here time.Duration // how far this machine's clock is ahead
		away error
		want time.Duration // how far the service's is
	}{
		{here: 300 * time.Millisecond, want: 300 * time.Millisecond}, // not worth it
		{here: 30 * time.Second},
		{here: 30*time.Second + 300*time.Millisecond, want: 300 * time.Millisecond},
		{here: 40 * time.Second, away: errors.New("away"), want: 10 * time.Second},
		{here: 40 * time.Second},
		{here: -30 * time.Second},
		{here: 0},
	} {
		here, away = step.here, step.away
		if err := c.set(t.Context()); !errors.Is(err, step.away) {
			t.Fatal(err)
		}
		if got := c.now().Sub(there); got != step.want {
			t.Errorf("%s ahead: the service's clock is off by %s, want %s", step.here, got, step.want)
		}
	}
}
