package gcra_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/gcra"
)

var begin = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// try lets a call pass, or returns how long it has to wait.
func try(l gcra.Limit, due *time.Time, now time.Time) (wait time.Duration) {
	if wait = l.Wait(*due, now); wait == 0 {
		*due = l.Pass(*due, now)
	}
	return wait
}

func TestABurstPassesAndThenOneEachInterval(t *testing.T) {
	l := gcra.Limit{Burst: 5, Interval: 30 * time.Second}
	var due time.Time
	for _, step := range []struct {
		after time.Duration // since the beginning
		wait  time.Duration
	}{
		{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0},
		{0, 30 * time.Second},
		{10 * time.Second, 20 * time.Second}, // refusing did not push it back
		{30*time.Second - 1, 1},
		{30 * time.Second, 0},
		{30 * time.Second, 30 * time.Second},
		{95 * time.Second, 0}, {95 * time.Second, 0},
		{95 * time.Second, 25 * time.Second},
		{time.Hour, 0}, {time.Hour, 0}, {time.Hour, 0}, {time.Hour, 0}, {time.Hour, 0},
		{time.Hour, 30 * time.Second}, // rest does not add up beyond a burst
	} {
		if wait := try(l, &due, begin.Add(step.after)); wait != step.wait {
			t.Errorf("after %s: wait %s, want %s", step.after, wait, step.wait)
		}
	}
}

func TestAReturnedCallMayPassAgain(t *testing.T) {
	l := gcra.Limit{Burst: 2, Interval: time.Second}
	var due time.Time
	for range 2 {
		try(l, &due, begin)
	}
	due = l.Return(due)
	for i, want := range []time.Duration{0, time.Second} {
		if wait := try(l, &due, begin); wait != want {
			t.Errorf("%d: wait %s, want %s", i, wait, want)
		}
	}
}

func TestTheZeroLimitLetsEverythingPass(t *testing.T) {
	var due time.Time
	for range 1000 {
		if wait := try(gcra.Limit{}, &due, begin); wait != 0 {
			t.Fatalf("wait %s", wait)
		}
	}
}

// Calls at any times: in no window pass more than burst and window/interval, a refused one
// would pass after just the time it was told, and asking changes nothing.
func FuzzNoWindowLetsMorePass(f *testing.F) {
	f.Add(uint8(5), uint16(30_000), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 255, 255})
	f.Add(uint8(1), uint16(1), []byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0})
	f.Add(uint8(20), uint16(100), slices.Repeat([]byte{0, 30}, 200))
	f.Fuzz(func(t *testing.T, burst uint8, millis uint16, gaps []byte) {
		l := gcra.Limit{Burst: max(1, int(burst)), Interval: time.Duration(max(1, int(millis))) * time.Millisecond}
		var due time.Time
		var passed []time.Time
		for now := begin; len(gaps) >= 2; gaps = gaps[2:] {
			now = now.Add(time.Duration(binary.BigEndian.Uint16(gaps)) * time.Millisecond)
			before := due
			wait := try(l, &due, now)
			if wait == 0 {
				passed = append(passed, now)
				continue
			}
			if due != before {
				t.Fatal("a refused call moved the time")
			}
			if wait > l.Interval {
				t.Fatalf("wait %s, more than the interval %s", wait, l.Interval)
			}
			if l.Wait(due, now.Add(wait)) != 0 || l.Wait(due, now.Add(wait-1)) == 0 {
				t.Fatalf("%s is not when it would pass", wait)
			}
		}
		for i, from := range passed {
			for j, to := range passed[i:] {
				if most := l.Burst + int(to.Sub(from)/l.Interval); j+1 > most {
					t.Fatalf("%d passed within %s, most are %d", j+1, to.Sub(from), most)
				}
			}
		}
	})
}

func TestATimeFromAClockThatWasAheadIsCapped(t *testing.T) {
	l := gcra.Limit{Burst: 5, Interval: 30 * time.Second}
	latest := begin.Add(150 * time.Second)
	for name, due := range map[string]time.Time{"a day": begin.Add(24 * time.Hour), "just": latest.Add(1)} {
		if got := l.Cap(due, begin); !got.Equal(latest) {
			t.Errorf("%s too late: %s", name, got.Sub(begin))
		}
		if wait := l.Wait(due, begin); wait != 30*time.Second {
			t.Errorf("%s too late: wait %s", name, wait)
		}
		if got := l.Pass(due, begin); !got.Equal(latest.Add(30 * time.Second)) {
			t.Errorf("%s too late: passes to %s", name, got.Sub(begin))
		}
	}
	for _, due := range []time.Time{{}, begin, latest} {
		if got := l.Cap(due, begin); !got.Equal(due) {
			t.Errorf("%s becomes %s", due, got)
		}
	}
	if far := begin.Add(time.Hour); (gcra.Limit{}).Cap(far, begin) != far {
		t.Error("the zero limit has no latest time")
	}
}
