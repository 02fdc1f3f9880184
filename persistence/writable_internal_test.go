package persistence

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testpg"
)

func TestFullPostgresIsNotWritable(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), testpg.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.writable.at = time.Now().Add(time.Hour)
	if err := s.Writable(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.fault("insert", &pgconn.PgError{Code: "53100"}); !errors.Is(err, auth.ErrUnavailable) {
		t.Error(err)
	}
	if err := s.Writable(t.Context()); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
}

func TestRecentProbeIsNotRepeated(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "auth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	known := errors.New("known")
	s.writable.at, s.writable.err = time.Now().Add(time.Hour), known
	if err := s.Writable(t.Context()); err != known {
		t.Errorf("got %v", err)
	}
}
