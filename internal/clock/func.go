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
