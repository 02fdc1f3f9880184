package bus

import (
	"sync"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/token"
)

// revocations are the sessions and users whose tokens are refused, each until a deadline in
// elapsed time: a change of the wall clock does not move it.
type revocations struct {
	mu       sync.RWMutex
	sessions map[string]time.Duration
	users    map[auth.UserID]time.Duration
}

// remains returns how long after now a verifier must refuse tokens of which the last expires at until.
// No token lives longer than token.MaxLifetime, so a later until is capped.
func remains(until, now time.Time) time.Duration {
	return min(max(0, until.Sub(now)), token.MaxLifetime) + token.Leeway
}

func (r *revocations) addSession(id string, deadline time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[id] = max(r.sessions[id], deadline)
}

func (r *revocations) addUser(id auth.UserID, deadline time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[id] = max(r.users[id], deadline)
}

// addPage adds the revocations of a page. read is the time at which the page arrived. The times of the
// page are the service's, so the remaining time of a revocation counts from the service's own now.
func (r *revocations) addPage(page auth.RevocationsReply, read clock.Reading) {
	now := page.Now
	if now.IsZero() {
		now = read.Wall
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range page.Revoked {
		if now.Before(one.ExpiresAt.Add(token.Leeway)) {
			r.sessions[one.SessionID] = max(r.sessions[one.SessionID], read.Elapsed+remains(one.ExpiresAt, now))
		}
	}
}

func (r *revocations) isRevoked(session string, user auth.UserID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, revoked := r.sessions[session]; revoked || len(r.users) == 0 {
		return revoked
	}
	_, revoked := r.users[user]
	return revoked
}

// evict removes the revocations whose tokens have all expired.
func (r *revocations) evict(elapsed time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, deadline := range r.sessions {
		if elapsed > deadline {
			delete(r.sessions, id)
		}
	}
	for id, deadline := range r.users {
		if elapsed > deadline {
			delete(r.users, id)
		}
	}
}

func (r *revocations) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.sessions)
}
