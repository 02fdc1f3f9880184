// Package clock reads wall time and elapsed time together and notices when the wall clock jumps.
//
// Elapsed time comes from the monotonic clock. Deadlines of remembered facts are kept in elapsed
// time, so nobody who sets the machine's clock moves them. Wall time serves what is stored or
// signed, such as exp and created_at.
//
// A Clock without a reference follows its source: after a jump it reports the new wall time. A
// Clock that is checked against a reference, such as the database, goes on by elapsed time when
// the source jumps, until the next check decides which of the two was wrong. In either case
// Reading.Jumps changes, and whoever remembers facts by wall time reads them again.
//
// The monotonic clock of Linux stands still while the machine is suspended, so a resumed machine
// looks like one whose wall clock jumped ahead.
package clock

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Tolerance is the usual difference that a Clock puts up with. Comparing with a reference costs
// time, and the time server slews a wall clock by less than this between two readings.
const Tolerance = time.Second

// Reading is one moment on both clocks.
type Reading struct {
	Wall    time.Time     // without a monotonic part
	Elapsed time.Duration // since the source was made
	Jumps   uint64        // how often the wall time has jumped; readings of equal Jumps are comparable
}

// Source reads both clocks at one moment.
type Source func() Reading

// Wall is the source of a wall clock and of this process's monotonic clock. The wall clock is
// usually time.Now.
func Wall(now func() time.Time) Source {
	begun := time.Now()
	return func() Reading {
		return Reading{Wall: now().Round(0), Elapsed: time.Since(begun)}
	}
}

// system is Wall(time.Now) with one look at the clock.
func system() Source {
	begun := time.Now()
	return func() Reading {
		now := time.Now()
		return Reading{Wall: now.Round(0), Elapsed: now.Sub(begun)}
	}
}

// Clock is safe for concurrent use. Make it with New or System.
type Clock struct {
	source    Source
	tolerance time.Duration
	mu        sync.Mutex // held by those who replace the state
	state     atomic.Pointer[state]
}

// state is immutable.
type state struct {
	epoch     int64         // wall time of the source at elapsed 0, in nanoseconds since 1970
	ahead     time.Duration // of the source, relative to the reference
	isChecked bool          // there is a reference
	jumps     uint64        // of this clock, without those of the source
	since     time.Duration // elapsed time at the last jump; never if there was none
}

// never is far enough back for Steady, and near enough to be subtracted.
const never = time.Duration(math.MinInt64 / 2)

// New makes a clock of a source. A jump, or a difference from a reference, of less than the
// tolerance is not one. The source may be the Read of another Clock, whose jumps then count too.
func New(source Source, tolerance time.Duration) *Clock {
	c := &Clock{source: source, tolerance: tolerance}
	r := source()
	c.state.Store(&state{epoch: epoch(r), since: never})
	return c
}

// System makes a clock of the machine's clocks.
func System() *Clock { return New(system(), Tolerance) }

func epoch(r Reading) int64 { return r.Wall.UnixNano() - int64(r.Elapsed) }

// Read returns the time on both clocks, and notices a jump.
func (c *Clock) Read() Reading {
	s := c.state.Load()
	r := c.source()
	if drift := time.Duration(epoch(r) - s.epoch); drift.Abs() > c.tolerance/2 {
		r, s = c.adjust()
	}
	return s.correct(r)
}

func (s *state) correct(r Reading) Reading {
	if s.ahead != 0 {
		r.Wall = r.Wall.Add(-s.ahead)
	}
	r.Jumps += s.jumps
	return r
}

// adjust takes in how the source's clocks have moved apart: as a jump, or as slewing.
func (c *Clock) adjust() (Reading, *state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state.Load()
	r := c.source() // anew: another goroutine may have taken in a later jump than the caller saw
	drift := time.Duration(epoch(r) - s.epoch)
	if drift.Abs() <= c.tolerance/2 {
		return r, c.state.Load()
	}
	s.epoch += int64(drift)
	if drift.Abs() > c.tolerance {
		s.jumps, s.since = s.jumps+1, r.Elapsed
		if s.isChecked {
			s.ahead += drift
		}
	}
	c.state.Store(&s)
	return r, &s
}

// Now returns the wall time.
func (c *Clock) Now() time.Time { return c.Read().Wall }

// Steady returns for how long the wall time has not jumped: for more than a century if it has not
// since the clock was made. A start is no jump.
func (c *Clock) Steady() time.Duration {
	r := c.Read()
	return r.Elapsed - c.state.Load().since
}

// Ahead returns by how much the source's wall clock is ahead of the reference; 0 without one.
func (c *Clock) Ahead() time.Duration { return c.state.Load().ahead }

// Check compares the clock with its reference, which answered there to a question that was asked
// at one reading of this clock and answered at another. A difference that exceeds the tolerance
// and half of the time between them sets the clock, which counts as a jump; Check then returns
// true. A clock that jumped meanwhile is not compared.
func (c *Clock) Check(there time.Time, asked, answered Reading) (isSet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state.Load()
	isFirst := !s.isChecked
	s.isChecked = true
	half := (answered.Elapsed - asked.Elapsed) / 2
	wrong := answered.Wall.Add(-half).Sub(there)
	if asked.Jumps == answered.Jumps && wrong.Abs() >= c.tolerance+half {
		s.ahead += wrong
		s.jumps, s.since, isSet = s.jumps+1, answered.Elapsed, true
	}
	if isFirst || isSet {
		c.state.Store(&s)
	}
	return isSet
}
