package events

import "sync/atomic"

// RelayStats is what a Relay has done since the start. No relay is a leader: whichever comes
// first to what waits publishes it.
type RelayStats struct {
	Published  int64 // events that their stream confirmed
	PassedOver int64 // events that could not be opened
	Turns      int64 // looks at the outbox that went well, with or without something to publish
	Failures   int64 // looks that did not: database or stream were away
}

type relayCounts struct{ published, passedOver, turns, failures atomic.Int64 }

// turn counts a look at the outbox.
func (c *relayCounts) turn(err error) {
	if err != nil {
		c.failures.Add(1)
		return
	}
	c.turns.Add(1)
}

// Stats tells what the relay has done.
func (r *Relay) Stats() RelayStats {
	c := &r.counts
	return RelayStats{
		Published: c.published.Load(), PassedOver: c.passedOver.Load(),
		Turns: c.turns.Load(), Failures: c.failures.Load(),
	}
}
