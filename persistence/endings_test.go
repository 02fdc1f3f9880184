package persistence_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

func raise(t *testing.T, s *persistence.Store, user auth.UserID) int64 {
	t.Helper()
	epoch, err := s.RaiseEpoch(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// One number ends all sessions of a user for every statement that asks for live ones.
func TestAHigherEpochEndsAllSessionsOfAUser(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		former, other := newSession(t, s, "former"), newSession(t, s, "other")
		epoch := raise(t, s, former.UserID)
		later := former
		later.ID = "later"
		if err := s.CreateSession(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		for session, ended := range map[*persistence.Session]bool{&former: true, &later: false, &other: false} {
			if got := stored(t, s, session.ID); got.HasEnded() != ended || !got.RevokedAt.IsZero() {
				t.Errorf("%+v", got)
			}
			_, err := s.AdvanceSession(t.Context(), step(*session, now))
			if errors.Is(err, auth.ErrNotFound) != ended {
				t.Errorf("refresh %s: %v", session.ID, err)
			}
		}
		live, err := s.LiveSessions(t.Context(), former.UserID, "", 10, now)
		if err != nil || len(live) != 1 || live[0].ID != "later" {
			t.Errorf("%+v, %v", live, err)
		}
		if n, err := s.CountLiveSessions(t.Context(), former.UserID, now); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		if got, err := s.SessionAddresses(t.Context(), former.UserID, 10, now); err != nil || !slices.Equal(got, []string{"192.0.2.1", ""}) {
			t.Errorf("%q, %v", got, err)
		}
		if kept, err := s.KeepSession(t.Context(), former.UserID, "former", epoch+1); err != nil || kept {
			t.Errorf("a session of a former epoch is kept: %v, %v", kept, err)
		}
		ended, err := s.EndNext(t.Context(), persistence.SessionEnding{UserID: former.UserID, Epoch: epoch, Reason: auth.ReasonAdmin}, 10, now)
		if err != nil || len(ended) != 1 || ended[0].ID != "former" || ended[0].Reason != auth.ReasonAdmin {
			t.Errorf("%+v, %v", ended, err)
		}
		if _, err := s.RaiseEpoch(t.Context(), 99); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("nobody's: %v", err)
		}
	})
}

// A kept session keeps its tokens, once.
func TestAKeptSessionGoesOn(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		if kept, err := s.KeepSession(t.Context(), n.UserID, n.ID, raise(t, s, n.UserID)); err != nil || !kept {
			t.Fatalf("%v, %v", kept, err)
		}
		if _, err := s.AdvanceSession(t.Context(), step(n, now)); err != nil {
			t.Error(err)
		}
		raise(t, s, n.UserID)
		if !stored(t, s, n.ID).HasEnded() {
			t.Error("it outlives the next end")
		}
	})
}

// A replica of the release before inserts sessions without an epoch.
func TestASessionOfTheFormerReleaseGetsItsUsersEpoch(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.Postgres(t))
	n := newSession(t, s, "a")
	raise(t, s, n.UserID)
	const insert = `INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent, expires_at, deadline_at, carrier, sweep_at)
		VALUES (?, ?, 1, 'pwd', ?, '', '', ?, '', '', ?, ?, '', ?)`
	at := now.Add(time.Hour)
	execute(t, s, insert, "old", n.UserID, now, now, at, at, at)
	if got := stored(t, s, "old"); got.HasEnded() {
		t.Errorf("%+v", got)
	}
	n.ID = "old"
	if _, err := s.AdvanceSession(t.Context(), step(n, now)); err != nil {
		t.Error(err)
	}
	raise(t, s, n.UserID)
	if !stored(t, s, "old").HasEnded() {
		t.Error("it outlives the end of all")
	}
	if _, err := s.DB().ExecContext(t.Context(), insert, "nobody's", 99, now, now, at, at, at); err == nil {
		t.Error("stored without a user")
	}
}

func TestTheLongestLifetimeIsForgottenWhenItsLastTokenHasExpired(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for _, step := range []struct {
			note      time.Duration
			until, at time.Duration
			want      time.Duration
		}{
			{0, 0, 0, 0},
			{time.Minute, time.Hour, 0, time.Minute},
			{time.Hour, 2 * time.Hour, 0, time.Hour},
			{time.Hour, time.Hour, 0, time.Hour}, // an earlier end does not count
			{time.Minute, 5 * time.Hour, 2 * time.Hour, time.Hour},
			{time.Minute, 6 * time.Hour, 2*time.Hour + time.Microsecond, time.Minute},
			{time.Minute, time.Hour, 7 * time.Hour, 0},
		} {
			if step.note > 0 {
				if err := s.NoteLifetime(t.Context(), step.note, now.Add(step.until), now.Add(step.at)); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := s.LongestLifetime(t.Context()); err != nil || got != step.want {
				t.Errorf("%+v: %v, %v", step, got, err)
			}
		}
	})
}
