package bus

import (
	"errors"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/token"
)

func TestVerifierDefaults(t *testing.T) {
	c, err := VerifierConfig{Issuer: "issuer", Audience: "audience"}.check()
	if err != nil || c.MaxStaleness != 30*time.Second || c.Remember != 100_000 || c.Log == nil || c.Clock == nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// An unknown kid makes a verifier fetch the keys at most every five seconds, and every half second
// after a failure. Callers that come meanwhile share a fetch.
func TestKeyFetchesAreSharedAndRare(t *testing.T) {
	failure := errors.New("failure")
	f := keyFetches{at: -refetchEvery}
	for _, step := range []struct {
		at    time.Duration
		isNew bool
		err   error // of the fetch, if there is one; otherwise the one returned
	}{
		{0, true, nil},
		{refetchEvery - 1, false, nil},
		{refetchEvery, true, failure},
		{refetchEvery + refetchAfterFailure - 1, false, failure},
		{refetchEvery + refetchAfterFailure, true, nil},
		{2*refetchEvery + refetchAfterFailure - 1, false, nil},
		{2*refetchEvery + refetchAfterFailure, true, nil},
	} {
		fetch, isNew, err := f.join(step.at)
		if isNew != step.isNew || (fetch != nil) != step.isNew {
			t.Fatalf("at %s: new %v, fetch %v, %v", step.at, isNew, fetch, err)
		}
		if !isNew {
			if !errors.Is(err, step.err) {
				t.Errorf("at %s: %v, want %v", step.at, err, step.err)
			}
			continue
		}
		if shared, isNew, _ := f.join(step.at); shared != fetch || isNew {
			t.Errorf("at %s a second caller has a fetch of its own", step.at)
		}
		f.end(f.begin(), step.err)
		<-fetch.done
		if !errors.Is(fetch.err, step.err) {
			t.Errorf("at %s the fetch ended with %v", step.at, fetch.err)
		}
	}
}

func TestRevocationsLastAsLongAsTheirTokens(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	for name, now := range map[string]time.Time{"the service's time": begin.Add(time.Hour), "an older service, without its time": {}} {
		r := revocations{sessions: map[string]time.Duration{}, users: map[auth.UserID]time.Duration{}}
		served := now
		if now.IsZero() {
			served = begin
		}
		r.addPage(auth.RevocationsReply{Now: now, Revoked: []auth.Revocation{
			{SessionID: "lives", ExpiresAt: served.Add(time.Minute)},
			{SessionID: "over", ExpiresAt: served.Add(-token.Leeway)},
		}}, clock.Reading{Wall: begin})
		r.addUser(8, time.Minute)
		if !r.isRevoked("lives", 7) || r.isRevoked("over", 7) || !r.isRevoked("other", 8) || r.isRevoked("other", 7) {
			t.Errorf("%s: %v, %v", name, r.sessions, r.users)
		}
		r.evict(time.Minute)
		if !r.isRevoked("lives", 7) || !r.isRevoked("other", 8) {
			t.Errorf("%s: forgotten at the deadline: %v, %v", name, r.sessions, r.users)
		}
		r.evict(time.Minute + 1)
		if !r.isRevoked("lives", 7) || r.isRevoked("other", 8) {
			t.Errorf("%s: after the user's deadline: %v, %v", name, r.sessions, r.users)
		}
		r.evict(time.Minute + token.Leeway)
		if !r.isRevoked("lives", 7) {
			t.Errorf("%s: forgotten within the leeway", name)
		}
		r.evict(time.Minute + token.Leeway + 1)
		if r.count() != 0 {
			t.Errorf("%s: %v stay", name, r.sessions)
		}
	}
}
