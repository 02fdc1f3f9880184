// Package testdb gives tests databases that have the schema of this version.
//
// Migrating one takes longer than most tests, so each process migrates one SQLite file and all
// processes together one Postgres database, and copy them.
//
// It must not be used outside of tests.
package testdb

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// template returns the bytes of a migrated SQLite file.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "testdb")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "auth.db")
	if err := migrate(context.Background(), "sqlite://"+file); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})

func migrate(ctx context.Context, url string) error {
	store, err := persistence.Open(ctx, url)
	if err != nil {
		return err
	}
	_, err = migrations.Up(ctx, store.DB())
	if closed := store.Close(); err == nil {
		err = closed // closing writes the log into the file
	}
	return err
}

// SQLite returns the URL of a new migrated SQLite file in a directory of the test's own.
func SQLite(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.db")
	SQLiteFile(t, file)
	return "sqlite://" + file
}

// SQLiteFile writes a migrated SQLite file, which must not exist.
func SQLiteFile(t testing.TB, file string) {
	t.Helper()
	content, err := template()
	if err == nil {
		err = os.WriteFile(file, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Postgres returns the URL of a new migrated Postgres database, which is dropped when the test ends.
func Postgres(t testing.TB) string {
	t.Helper()
	return testpg.Copy(t, "schema_"+migrations.Fingerprint(), func(url string) error {
		return migrate(context.Background(), url)
	})
}
