package persistence_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// moments are times whose text, where a database compares text, differs in length.
var moments = []time.Time{
	now,
	time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC),
	time.Date(2026, time.March, 1, 12, 0, 0, 1000, time.UTC),
	time.Date(2026, time.March, 1, 12, 0, 0, 100000000, time.UTC),
	time.Date(2026, time.March, 1, 12, 0, 0, 120000000, time.UTC),
	time.Date(2026, time.March, 1, 23, 59, 59, 999999000, time.UTC),
	time.Date(2027, time.January, 1, 0, 0, 0, 0, time.UTC),
	time.Date(1970, time.January, 1, 0, 0, 0, 0, time.UTC),
	time.Date(2999, time.December, 31, 23, 59, 59, 999999000, time.UTC),
}

func step(n persistence.Session, at time.Time) persistence.Step {
	return persistence.Step{SessionID: n.ID, Generation: n.Generation, At: at, ExpiresAt: at.Add(time.Hour)}
}

func stored(t *testing.T, s *persistence.Store, id string) persistence.Session {
	t.Helper()
	n, err := s.Session(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSessionComesBackAsItWasStored(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		user := newUser(t, s, "a")
		for i, at := range moments {
			for _, text := range texts {
				want := persistence.Session{
					ID: fmt.Sprint(i, text), UserID: user, Generation: int64(i) + 1<<40, AMR: []string{"pwd", "otp"},
					CreatedAt: at, Created: auth.ClientInfo{IP: text, UserAgent: text + "created"},
					UsedAt: at, Used: auth.ClientInfo{IP: text + "used", UserAgent: text},
					ExpiresAt: at, DeadlineAt: at,
				}
				if err := s.CreateSession(t.Context(), want); err != nil {
					t.Fatal(err)
				}
				if got := stored(t, s, want.ID); !reflect.DeepEqual(got, want) {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
			}
		}
	})
}

func TestSessionNeedsItsUser(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		n.ID, n.UserID = "b", n.UserID+1
		if err := s.CreateSession(t.Context(), n); err == nil {
			t.Error("stored without a user")
		}
		if _, err := s.Session(t.Context(), "b"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("Session: %v", err)
		}
	})
}

func TestSessionIDIsGivenOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		n.UserID = newUser(t, s, "b")
		if err := s.CreateSession(t.Context(), n); err == nil {
			t.Error("stored twice")
		}
		if got := stored(t, s, n.ID); got.UserID == n.UserID {
			t.Error("the session changed hands")
		}
	})
}

func TestAdvanceSessionChangesWhatARefreshChanges(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		want, other := newSession(t, s, "a"), newSession(t, s, "b")
		for i, text := range texts {
			at := now.Add(time.Duration(i+1) * time.Minute)
			n := step(want, at)
			n.Client = auth.ClientInfo{IP: text, UserAgent: text}
			got, err := s.AdvanceSession(t.Context(), n)
			want.Generation++
			want.UsedAt, want.Used, want.ExpiresAt = at, n.Client, n.ExpiresAt
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("got  %+v, %v\nwant %+v", got, err, want)
			}
			if got := stored(t, s, "a"); !reflect.DeepEqual(got, want) {
				t.Errorf("stored %+v\nwant   %+v", got, want)
			}
		}
		if got := stored(t, s, "b"); !reflect.DeepEqual(got, other) {
			t.Errorf("another session changed: %+v", got)
		}
	})
}

func TestAdvanceSessionAtOnceSucceedsOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		won := 0
		for _, err := range atOnce(50, func(int) error {
			_, err := s.AdvanceSession(t.Context(), step(n, now))
			return err
		}) {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, auth.ErrNotFound):
				t.Error(err)
			}
		}
		if got := stored(t, s, "a").Generation; won != 1 || got != 2 {
			t.Errorf("%d won, generation %d", won, got)
		}
	})
}

func TestAdvanceSessionRefuses(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		if _, err := s.EndSession(t.Context(), newSession(t, s, "ended").ID, auth.ReasonLogout, now); err != nil {
			t.Fatal(err)
		}
		for name, step := range map[string]persistence.Step{
			"an older generation": {SessionID: "a", Generation: 0, At: now, ExpiresAt: now.Add(time.Hour)},
			"a later generation":  {SessionID: "a", Generation: 2, At: now, ExpiresAt: now.Add(time.Hour)},
			"an expired session":  {SessionID: "a", Generation: 1, At: n.ExpiresAt, ExpiresAt: now.Add(2 * time.Hour)},
			"an ended session":    {SessionID: "ended", Generation: 1, At: now, ExpiresAt: now.Add(time.Hour)},
			"no session":          {SessionID: "b", Generation: 1, At: now, ExpiresAt: now.Add(time.Hour)},
		} {
			got, err := s.AdvanceSession(t.Context(), step)
			if !errors.Is(err, auth.ErrNotFound) || !reflect.DeepEqual(got, persistence.Session{}) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		}
		if got := stored(t, s, "a"); !reflect.DeepEqual(got, n) {
			t.Errorf("changed: %+v", got)
		}
	})
}

func TestSessionIsLiveUntilTheMicrosecondItExpires(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for i, at := range moments {
			n := newSession(t, s, fmt.Sprint(i))
			execute(t, s, "UPDATE login_sessions SET expires_at = ?, deadline_at = ? WHERE id = ?", at, at, n.ID)
			if _, err := s.AdvanceSession(t.Context(), step(n, at)); !errors.Is(err, auth.ErrNotFound) {
				t.Errorf("at %v: %v", at, err)
			}
			got, err := s.AdvanceSession(t.Context(), step(n, at.Add(-time.Microsecond)))
			if err != nil || got.ExpiresAt != at {
				t.Errorf("just before %v: expires %v, %v", at, got.ExpiresAt, err)
			}
		}
	})
}

func TestAdvanceSessionStopsAtTheDeadline(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		for want, asked := range map[time.Time]time.Time{
			n.DeadlineAt.Add(-time.Microsecond): n.DeadlineAt.Add(-time.Microsecond),
			n.DeadlineAt:                        n.DeadlineAt.Add(time.Microsecond),
		} {
			next := step(stored(t, s, "a"), now)
			next.ExpiresAt = asked
			got, err := s.AdvanceSession(t.Context(), next)
			if err != nil || got.ExpiresAt != want || got.DeadlineAt != n.DeadlineAt {
				t.Errorf("asked for %v: expires %v, deadline %v, %v", asked, got.ExpiresAt, got.DeadlineAt, err)
			}
		}
	})
}

func TestEndSessionOnceForTheFirstReason(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n, other := newSession(t, s, "a"), newSession(t, s, "b")
		at := now.Add(time.Minute)
		if ended, err := s.EndSession(t.Context(), n.ID, auth.ReasonTokenReuse, at); err != nil || len(ended) != 1 || ended[0].ID != n.ID {
			t.Errorf("the first time: %v, %v", ended, err)
		}
		if ended, err := s.EndSession(t.Context(), n.ID, auth.ReasonLogout, at.Add(time.Minute)); err != nil || len(ended) != 0 {
			t.Errorf("the second time: %v, %v", ended, err)
		}
		n.RevokedAt, n.Reason = at, auth.ReasonTokenReuse
		if got := stored(t, s, n.ID); !reflect.DeepEqual(got, n) {
			t.Errorf("got  %+v\nwant %+v", got, n)
		}
		var reason auth.Reason
		if err := s.DB().NewRaw("SELECT revoke_reason FROM login_sessions WHERE id = ?", n.ID).Scan(t.Context(), &reason); err != nil || reason != auth.ReasonTokenReuse {
			t.Errorf("reason %q, %v", reason, err)
		}
		if got := stored(t, s, other.ID); !reflect.DeepEqual(got, other) {
			t.Errorf("another session changed: %+v", got)
		}
		if ended, err := s.EndSession(t.Context(), "c", auth.ReasonLogout, at); err != nil || len(ended) != 0 {
			t.Errorf("no session: %v, %v", ended, err)
		}
	})
}

func TestEndSessionAtOnceEndsItOnce(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		n := newSession(t, s, "a")
		ended := make([][]persistence.Session, 20)
		errs := atOnce(len(ended), func(i int) (err error) {
			ended[i], err = s.EndSession(t.Context(), n.ID, auth.ReasonLogout, now)
			return err
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		times := 0
		for _, e := range ended {
			times += len(e)
		}
		if times != 1 {
			t.Errorf("ended %d times", times)
		}
	})
}

func TestCountLiveSessions(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		first := newSession(t, s, "s")
		newSession(t, s, "another user's")
		ended, expired := first, first
		ended.ID, expired.ID, expired.ExpiresAt = "ended", "expired", now
		for _, n := range []persistence.Session{ended, expired} {
			if err := s.CreateSession(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.EndSession(t.Context(), "ended", auth.ReasonAdmin, now); err != nil {
			t.Fatal(err)
		}
		if n, err := s.CountLiveSessions(t.Context(), first.UserID, now); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
	})
}
