package persistence_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

func TestInspectTellsHowADatabaseIs(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"SQLite": testdb.SQLite, "Postgres": testdb.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := url(t)
			newUser(t, open(t, at), "a") // which stays open
			s, err := persistence.Inspect(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c, err := s.ServerStatus(t.Context())
			if err != nil || !strings.HasPrefix(c.Version, name+" ") || c.ReadOnly {
				t.Fatalf("%+v, %v", c, err)
			}
			if name == "SQLite" && c.Journal != "wal" {
				t.Errorf("journal %q", c.Journal)
			}
			if name == "Postgres" && (c.MostConnections < 1 || c.Connections < 1 || c.Latency <= 0 || max(c.Ahead, -c.Ahead) > time.Minute) {
				t.Errorf("%+v", c)
			}
			if _, err := s.Backlog(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInspectingAnSQLiteFileCannotChangeIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "auth.db")
	if _, err := persistence.Inspect(t.Context(), "sqlite://"+path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it was made")
	}
	newUser(t, open(t, "sqlite://"+path), "a")
	s, err := persistence.Inspect(t.Context(), "sqlite://"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.DB().ExecContext(t.Context(), "DELETE FROM users"); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("delete: %v", err)
	}
	if damage, err := s.QuickCheck(t.Context()); damage != "" || err != nil {
		t.Errorf("%q, %v", damage, err)
	}
}
