package persistence

import (
	"path/filepath"
	"testing"

	"github.com/uptrace/bun"
)

// The pragmas are a connection's own, so every connection of a pool is asked.
func TestSQLitePragmasAreInForce(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "auth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	reader := s.read.(*bun.DB)
	for name, want := range map[string]string{
		"foreign_keys": "1", "journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "query_only": "0",
	} {
		if got := pragma(t, s.db, name); got != want {
			t.Errorf("writer: %s is %s", name, got)
		}
	}
	for range reader.Stats().MaxOpenConnections {
		conn, err := reader.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // in the end, so that each is another one
		for name, want := range map[string]string{
			"foreign_keys": "1", "journal_mode": "wal", "busy_timeout": "5000", "query_only": "1",
		} {
			if got := pragma(t, conn, name); got != want {
				t.Errorf("reader: %s is %s", name, got)
			}
		}
	}
	if n := s.db.Stats().MaxOpenConnections; n != 1 {
		t.Errorf("%d connections write", n)
	}
}

func pragma(t *testing.T, db bun.IDB, name string) (value string) {
	t.Helper()
	if err := db.NewRaw("PRAGMA "+name).Scan(t.Context(), &value); err != nil {
		t.Fatal(err)
	}
	return value
}
