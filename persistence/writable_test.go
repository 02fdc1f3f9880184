package persistence_test

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

// becomesWritable waits until the database takes changes again.
func becomesWritable(t *testing.T, s *persistence.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := s.Writable(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestLockedSQLiteIsNotWritable(t *testing.T) {
	t.Parallel()
	databaseURL := testdb.SQLite(t)
	s := open(t, databaseURL)
	if err := s.Writable(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(databaseURL, "sqlite://")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; { // the former result counts for a moment
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err = s.Writable(ctx)
		cancel()
	}
	if !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("locked: %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	becomesWritable(t, s)
}

func TestFullSQLiteIsNotWritable(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.SQLite(t))
	var pages int
	if err := s.DB().QueryRowContext(t.Context(), "PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	execute(t, s, "PRAGMA max_page_count = "+strconv.Itoa(pages))
	for i, err := 0, error(nil); err == nil; i++ {
		_, err = s.CreateUser(t.Context(), persistence.NewUser{EmailKey: strconv.Itoa(i), Name: strings.Repeat("a", 1000), At: now})
		if err != nil && !errors.Is(err, auth.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if err := s.Writable(t.Context()); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("full: %v", err)
	}
	execute(t, s, "PRAGMA max_page_count = 1000000")
	becomesWritable(t, s)
}
