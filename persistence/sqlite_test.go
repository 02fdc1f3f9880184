package persistence_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zyotra/auth/internal/testdb"
)

func TestSQLiteFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "auth.db")
	newUser(t, open(t, "sqlite://"+path), "a")
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode(); mode != 0o600 {
			t.Errorf("%s: %v", filepath.Base(name), mode)
		}
	}
}

func TestSQLitePathIsTakenAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := "a b%41?mode=memory#&é'.db"
	newUser(t, open(t, "sqlite://"+filepath.Join(dir, name)), "a")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 || files[0].Name() != name { // the file, -shm and -wal
		t.Errorf("files: %v", files)
	}
}

func TestSQLiteFileIsThereAgainAfterwards(t *testing.T) {
	t.Parallel()
	url := testdb.SQLite(t)
	id := newUser(t, open(t, url), "a")
	if _, err := open(t, url).Account(t.Context(), id); err != nil {
		t.Error(err)
	}
}
