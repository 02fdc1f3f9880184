package handlers_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/zyotra/auth/handlers"
)

// kept is how long a session stays after its end.
const kept = 24*time.Hour + accessTTL

func (s *service) cleanUp(t *testing.T) int {
	t.Helper()
	c := handlers.Cleanup{Store: s.store, Clock: s.now}
	n, _, err := c.Once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEndedAndExpiredSessionsAreDeletedAfterADay(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.begun(t) // expires idleTTL from now
		refreshed := s.login(t).Tokens
		ended := s.login(t).Tokens
		want(t, "logout", s.logout(t, ended.AccessToken, ""), nil)

		s.advance(time.Hour)
		s.refresh(t, refreshed)

		for _, step := range []struct {
			after   time.Duration // since the beginning
			deleted int
			what    string
		}{
			{kept - time.Microsecond, 0, "before its time"},
			{kept, 1, "the ended one"},
			{idleTTL + kept - time.Microsecond, 0, "before its time"},
			{idleTTL + kept, 1, "the expired one"},
			{time.Hour + idleTTL + kept - time.Microsecond, 0, "before its time"},
			{time.Hour + idleTTL + kept, 1, "the one that was refreshed before it expired"},
		} {
			s.advance(begin.Add(step.after).Sub(s.now()))
			if n := s.cleanUp(t); n != step.deleted {
				t.Errorf("%s, after %s: %d deleted, want %d", step.what, step.after, n, step.deleted)
			}
		}
		if n := s.count(t, "login_sessions"); n != 0 {
			t.Errorf("%d left", n)
		}
	})
}

// More than a batch, several at once, and nothing that lives.
func TestCleanUpTakesAllThatIsOver(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		live := s.begun(t)
		s.execute(t, `INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent, expires_at, deadline_at, carrier, sweep_at)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1700)
			SELECT 'over' || i, user_id, 1, 'pwd', ?, '', '', ?, '', '', ?, ?, 'body', ? FROM n, login_sessions`,
			begin, begin, begin, begin, begin)
		s.advance(kept)
		live = s.refresh(t, s.login(t).Tokens)
		total := make([]int, 4)
		errs := atOnce(len(total), func(i int) (err error) {
			c := handlers.Cleanup{Store: s.store, Clock: s.now}
			total[i], _, err = c.Once(context.Background())
			return err
		})
		for i, err := range errs {
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
		if n := total[0] + total[1] + total[2] + total[3]; n != 1700 {
			t.Errorf("%v deleted", total)
		}
		want(t, "the live one", s.verify(t, live.AccessToken), nil)
	})
}

func TestCleanUpRunsUntilItIsStopped(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		tokens := s.begun(t)
		want(t, "logout", s.logout(t, tokens.AccessToken, ""), nil)
		s.advance(kept)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		c := &handlers.Cleanup{Store: s.store, Clock: s.now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		go func() { ended <- c.Run(ctx) }()
		for s.count(t, "login_sessions") > 0 {
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
