package bus

import (
	"sync/atomic"
	"time"
)

// VerifierStats is the state of a Verifier.
type VerifierStats struct {
	Staleness    time.Duration // time since the last catch-up, or since the start if there was none
	Revoked      int           // sessions whose tokens the verifier refuses
	Keys         int           // number of keys in the service's key set
	Remembered   int           // tokens whose signature is already verified
	Hits, Misses uint64        // tokens that were remembered when they arrived, and that were not; since the start
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

// shardedCounter is a count in several shards, so that cores that verify different tokens do not wait
// for each other. The cache's own statistics would double the cost of a look-up.
type shardedCounter [16]struct {
	n atomic.Uint64
	_ [56]byte // fills the cache line
}

func (s *shardedCounter) add(id digest) { s[id[0]%16].n.Add(1) }

func (s *shardedCounter) sum() (n uint64) {
	for i := range s {
		n += s[i].n.Load()
	}
	return n
}
