package events

import "sync/atomic"

// RelayStats counts the work of a Relay since the start. No relay is a leader: the first relay that
// finds waiting events publishes them.
type RelayStats struct {
	Published  int64 // events that their stream confirmed
	PassedOver int64 // events that could not be opened
	Turns      int64 // successful reads of the outbox, with or without events to publish
	Failures   int64 // failed reads or publications: the database or the stream was unreachable
}

type relayCounts struct{ published, passedOver, turns, failures atomic.Int64 }

// turn counts a read of the outbox as successful or failed.
func (c *relayCounts) turn(err error) {
	if err != nil {
		c.failures.Add(1)
		return
	}
	c.turns.Add(1)
}

// Stats returns the counters of the relay.
func (r *Relay) Stats() RelayStats {
	c := &r.counts
	return RelayStats{
		Published: c.published.Load(), PassedOver: c.passedOver.Load(),
		Turns: c.turns.Load(), Failures: c.failures.Load(),
	}
}
