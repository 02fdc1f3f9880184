package bus

import (
	"sync/atomic"
	"time"
)

// VerifierStats is the state of a Verifier.
type VerifierStats struct {
	Staleness    time.Duration // since it last caught up, or since it began if it never did
	Revoked      int           // sessions that are refused
	Keys         int           // of the service's key set
	Remembered   int           // tokens whose signature need not be checked again
	Hits, Misses uint64        // tokens that were remembered when they came, and that were not; since the start
}

// Stats returns the state of the verifier.
func (v *Verifier) Stats() VerifierStats {
	s := VerifierStats{
		Staleness: v.clock.Read().Elapsed, Revoked: v.revoked.count(),
		Remembered: v.known.EstimatedSize(), Hits: v.hits.sum(), Misses: v.misses.Load(),
	}
	if keys := v.keys.Load(); keys != nil {
		s.Keys = len(*keys)
	}
	if synced := v.synced.Load(); synced != nil {
		s.Staleness -= synced.elapsed
	}
	return s
}

// shardedCounter is a count kept in several places, so that cores that verify different tokens do not
// wait for each other. The cache's own statistics cost as much again as looking a token up.
type shardedCounter [16]struct {
	n atomic.Uint64
	_ [56]byte // to the end of the cache line
}

func (s *shardedCounter) add(id digest) { s[id[0]%16].n.Add(1) }

func (s *shardedCounter) sum() (n uint64) {
	for i := range s {
		n += s[i].n.Load()
	}
	return n
}
