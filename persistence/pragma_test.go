package persistence

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/internal/testpg"
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

func TestOnlyARelaxedTransactionDoesNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), testpg.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	setting := func(relax bool) (text string) {
		err := s.Tx(t.Context(), func(ctx context.Context, tx *Store) error {
			if relax {
				if err := tx.Relax(ctx); err != nil {
					return err
				}
			}
			return tx.write.NewRaw("SHOW synchronous_commit").Scan(ctx, &text)
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	usual := setting(false)
	if got := setting(true); got != "off" || usual == "off" || setting(false) != usual {
		t.Errorf("relaxed %s, before %s, after %s", got, usual, setting(false))
	}
}
