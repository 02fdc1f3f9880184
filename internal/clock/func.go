package clock

import "time"

// Func returns the wall time; nil is the system's. It is for code that stores times and needs no
// elapsed time.
type Func func() time.Time

// Now returns the time in UTC, cut to the microseconds that the databases keep.
func (f Func) Now() time.Time {
	if f == nil {
		f = time.Now
	}
	return f().UTC().Truncate(time.Microsecond)
}

// Earlier returns the earlier of two times.
func Earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Later returns the later of two times.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
