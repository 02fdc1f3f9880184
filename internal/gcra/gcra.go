// Package gcra says whether a call may pass or comes too soon after others: the generic cell
// rate algorithm (ITU-T I.371, appendix 1), in its virtual scheduling form.
//
// All there is to keep of the past calls is one time, the theoretical arrival time: when the
// last of them would have come, had they kept to the interval. A call that comes earlier than
// that is borrowing, and a burst is how much may be borrowed. So at most Burst + d/Interval
// calls pass within any duration d, and one that is refused changes nothing.
//
// The package decides; whoever asks keeps the times.
package gcra

import "time"

// Limit lets Burst calls pass at once, and from then on one each Interval. The zero value lets
// everything pass.
type Limit struct {
	Burst    int
	Interval time.Duration
}

// Slack is how far the theoretical arrival time may lie ahead for a call to pass.
func (l Limit) Slack() time.Duration { return time.Duration(l.Burst-1) * l.Interval }

// Cap returns due, or the latest theoretical arrival time that calls until now can have led to if
// due is later: then it comes from a clock that was ahead, or from a limit that was stricter.
// Whoever keeps the time has to keep the capped one, or it stays as far away as it was.
func (l Limit) Cap(due, now time.Time) time.Time {
	if l.Interval <= 0 {
		return due
	}
	if latest := now.Add(time.Duration(l.Burst) * l.Interval); due.After(latest) {
		return latest
	}
	return due
}

// Wait is how long after now the next call would pass; 0 if it would now, and never more than the
// interval. due is the theoretical arrival time.
func (l Limit) Wait(due, now time.Time) time.Duration {
	if l.Interval <= 0 {
		return 0
	}
	due = l.Cap(due, now)
	return max(0, due.Add(-l.Slack()).Sub(now)) // Sub saturates, so the subtraction is not to follow it
}

// Pass returns the theoretical arrival time after a call that passes now.
func (l Limit) Pass(due, now time.Time) time.Time {
	if due.Before(now) {
		due = now
	}
	return l.Cap(due, now).Add(l.Interval)
}

// Return is the theoretical arrival time as if one call fewer had passed. If nothing has been
// borrowed for a while since, that is one call more than the limit would have let pass.
func (l Limit) Return(due time.Time) time.Time { return due.Add(-l.Interval) }
