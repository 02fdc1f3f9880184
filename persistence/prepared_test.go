package persistence_test

import (
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

// A pooler that gives each transaction another connection loses what was prepared.
func TestWhatAPoolerForgetsIsSentAgain(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.Postgres(t))
	n := newSession(t, s, "a")
	for i := range 3 {
		at := now.Add(time.Duration(i+1) * time.Minute)
		got, err := s.AdvanceSession(t.Context(), step(n, at))
		if err != nil || got.Generation != n.Generation+1 || !got.UsedAt.Equal(at) {
			t.Fatalf("refresh %d: %+v, %v", i, got, err)
		}
		n = got
		if _, err := s.DB().ExecContext(t.Context(), "DEALLOCATE ALL"); err != nil { // on the one connection there is
			t.Fatal(err)
		}
	}
}

// A newer version may give the table more columns while this one runs.
func TestWhatIsPreparedOutlivesAMigration(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.Postgres(t))
	n := newSession(t, s, "a")
	for i, change := range []string{"ADD COLUMN more TEXT NOT NULL DEFAULT ''", "DROP COLUMN more"} {
		got, err := s.AdvanceSession(t.Context(), step(n, now.Add(time.Duration(i+1)*time.Minute)))
		if err != nil {
			t.Fatalf("before %s: %v", change, err)
		}
		n = got
		if _, err := s.DB().ExecContext(t.Context(), "ALTER TABLE login_sessions "+change); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AdvanceSession(t.Context(), step(n, now.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAdvanceSession(b *testing.B) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": testdb.SQLite, "postgres": testdb.Postgres} {
		b.Run(name, func(b *testing.B) {
			s := open(b, url(b))
			n := newSession(b, s, "a")
			from := auth.ClientInfo{IP: "192.0.2.7", UserAgent: "a browser"}
			b.ReportAllocs()
			for b.Loop() {
				next, err := s.AdvanceSession(b.Context(), persistence.Step{
					SessionID: n.ID, Generation: n.Generation, At: now, ExpiresAt: now.Add(time.Hour), Carrier: n.Carrier, Client: from,
				})
				if err != nil {
					b.Fatal(err)
				}
				n = next
			}
		})
	}
}
