package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// each runs f on an empty database of both kinds.
func each(t *testing.T, f func(t *testing.T, db *bun.DB)) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"sqlite": sqliteURL, "postgres": testpg.URL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, url(t)))
		})
	}
}

func sqliteURL(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "auth.db") }

func open(t *testing.T, url string) *bun.DB {
	t.Helper()
	s, err := persistence.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.DB()
}

func up(t *testing.T, db *bun.DB) []string {
	t.Helper()
	done, err := Up(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func execute(t *testing.T, db *bun.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// tables are those that the steps make, not those that remember the steps.
func tables(t *testing.T, db *bun.DB) []string {
	t.Helper()
	query := "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
	if db.Dialect().Name() == dialect.SQLite {
		query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	}
	var names []string
	if err := db.NewRaw(query).Scan(t.Context(), &names); err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, table) })
	slices.Sort(names)
	return names
}

func notes(t *testing.T, db *bun.DB) int {
	t.Helper()
	n, err := db.NewSelect().Table(table).Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func TestUpMakesTheSchemaOnce(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		before := time.Now().Add(-time.Second)
		done := up(t, db)
		if len(done) == 0 || done[0] != "0001_accounts" {
			t.Fatalf("Up applied %q", done)
		}
		if got := tables(t, db); !slices.Contains(got, "users") || !slices.Contains(got, "login_sessions") || !slices.Contains(got, "signing_keys") {
			t.Errorf("tables: %q", got)
		}
		if err := Check(t.Context(), db); err != nil {
			t.Errorf("Check: %v", err)
		}
		steps, err := Status(t.Context(), db)
		if err != nil || len(steps) != len(done) {
			t.Fatalf("Status = %+v, %v", steps, err)
		}
		for i, s := range steps {
			if s.Name != done[i] || !s.Known || s.AppliedAt.Before(before) || s.AppliedAt.After(time.Now()) {
				t.Errorf("step %d: %+v", i, s)
			}
		}
		if again := up(t, db); len(again) != 0 {
			t.Errorf("a second Up applied %q", again)
		}
		if n := notes(t, db); n != len(done) {
			t.Errorf("%d notes for %d steps", n, len(done))
		}
	})
}

func TestLookingAtAnEmptyDatabaseLeavesItEmpty(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		if err := Check(t.Context(), db); !errors.Is(err, ErrPending) {
			t.Errorf("Check: %v", err)
		}
		steps, err := Status(t.Context(), db)
		if err != nil || len(steps) == 0 {
			t.Fatalf("Status = %+v, %v", steps, err)
		}
		for _, s := range steps {
			if !s.Known || !s.AppliedAt.IsZero() {
				t.Errorf("%+v on an empty database", s)
			}
		}
		if fresh, err := isFresh(t.Context(), db); err != nil || !fresh {
			t.Errorf("not empty any more: %v, %v", fresh, err)
		}
	})
}

func TestNewerDatabaseIsLeftAlone(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		if _, err := Down(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		execute(t, db, "INSERT INTO "+table+" (name, group_id, migrated_at) VALUES ('9999', 1, CURRENT_TIMESTAMP)")

		if done, err := Up(t.Context(), db); !errors.Is(err, ErrNewer) || len(done) != 0 {
			t.Errorf("Up = %q, %v", done, err)
		}
		if done, err := Down(t.Context(), db); !errors.Is(err, ErrNewer) || len(done) != 0 {
			t.Errorf("Down = %q, %v", done, err)
		}
		if got := tables(t, db); len(got) != 0 || notes(t, db) != 1 {
			t.Errorf("something was done: tables %q, %d notes", got, notes(t, db))
		}
	})
}

func TestCheckTellsANewerDatabase(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		execute(t, db, "INSERT INTO "+table+" (name, group_id, migrated_at) VALUES ('9999', 2, CURRENT_TIMESTAMP)")
		if err := Check(t.Context(), db); !errors.Is(err, ErrNewer) {
			t.Errorf("Check: %v", err)
		}
		steps, err := Status(t.Context(), db)
		if err != nil || len(steps) == 0 || steps[len(steps)-1].Known || steps[len(steps)-1].Name != "9999" {
			t.Errorf("Status = %+v, %v", steps, err)
		}
	})
}

func TestDownUndoesAndUpDoesItAgain(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		done := up(t, db)
		undone, err := Down(t.Context(), db)
		slices.Reverse(undone)
		if err != nil || !slices.Equal(undone, done) {
			t.Fatalf("Down = %q, %v after %q", undone, err, done)
		}
		if got := tables(t, db); len(got) != 0 || notes(t, db) != 0 {
			t.Errorf("left: tables %q, %d notes", got, notes(t, db))
		}
		if err := Check(t.Context(), db); !errors.Is(err, ErrPending) {
			t.Errorf("Check after Down: %v", err)
		}
		if again := up(t, db); !slices.Equal(again, done) {
			t.Errorf("Up again applied %q, first %q", again, done)
		}
		if err := Check(t.Context(), db); err != nil {
			t.Errorf("Check after Up again: %v", err)
		}
	})
}

// The second statement of the first step finds its table there already.
func TestFailedStepLeavesNeitherTableNorNote(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		execute(t, db, "CREATE TABLE login_sessions (id TEXT)")
		if done, err := Up(t.Context(), db); err == nil || len(done) != 0 {
			t.Fatalf("Up = %q, %v", done, err)
		}
		if got := tables(t, db); !slices.Equal(got, []string{"login_sessions"}) || notes(t, db) != 0 {
			t.Errorf("left: tables %q, %d notes", got, notes(t, db))
		}
		if err := Check(t.Context(), db); !errors.Is(err, ErrPending) {
			t.Errorf("Check: %v", err)
		}
		execute(t, db, "DROP TABLE login_sessions")
		up(t, db)
	})
}

// The note is refused, and so the step that was complete but for it is undone.
func TestStepAndNoteAreOneTransaction(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		if _, err := Down(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		refuse := "ALTER TABLE " + table + " ADD CHECK (name = '')"
		if db.Dialect().Name() == dialect.SQLite {
			refuse = "CREATE TRIGGER refuse BEFORE INSERT ON " + table + " BEGIN SELECT RAISE(ABORT, 'refused'); END"
		}
		execute(t, db, refuse)
		if done, err := Up(t.Context(), db); err == nil || len(done) != 0 {
			t.Errorf("Up = %q, %v", done, err)
		}
		if got := tables(t, db); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	})
}

func TestInstancesThatMigrateAtOnceTakeTurns(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	results := make([][]string, 8)
	errs := make([]error, len(results))
	var wg sync.WaitGroup
	for i := range results {
		db := open(t, url)
		wg.Go(func() { results[i], errs[i] = Up(t.Context(), db) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	db := open(t, url)
	applied := slices.Concat(results...)
	if len(applied) == 0 || len(applied) != notes(t, db) {
		t.Errorf("applied %q, noted %d", applied, notes(t, db))
	}
	if err := Check(t.Context(), db); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestUpWithoutADatabaseIsAnError(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if done, err := Up(ctx, db); !errors.Is(err, context.Canceled) || len(done) != 0 {
			t.Errorf("Up = %q, %v", done, err)
		}
		if err := Check(ctx, db); !errors.Is(err, context.Canceled) {
			t.Errorf("Check: %v", err)
		}
	})
}

func TestBothFoldersHoldTheSameSteps(t *testing.T) {
	t.Parallel()
	list := func(folder string) (names []string) {
		entries, err := fs.ReadDir(files, folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	postgres, sqlite := list("postgres"), list("sqlite")
	if len(postgres) == 0 || !slices.Equal(postgres, sqlite) {
		t.Errorf("postgres %q\nsqlite   %q", postgres, sqlite)
	}
	for _, name := range postgres {
		step, isUp := strings.CutSuffix(name, ".tx.up.sql")
		if isUp && !slices.Contains(postgres, step+".tx.down.sql") {
			t.Errorf("%s has no way back", step)
		}
		if !isUp && !strings.HasSuffix(name, ".tx.down.sql") {
			t.Errorf("%s is not in a transaction", name)
		}
	}
}

// The second step meets sessions that the first one's version made.
func TestSessionsFromBeforeTheSecondStepAreSweptInTheirTime(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		for _, statement := range []string{
			"DROP TABLE peppers", "ALTER TABLE signing_keys DROP COLUMN retired_at", "DROP INDEX login_sessions_sweep_at",
			"ALTER TABLE login_sessions DROP COLUMN sweep_at", "ALTER TABLE login_sessions DROP COLUMN carrier",
			"DELETE FROM " + table + " WHERE name = '0002'",
			"INSERT INTO users (email, email_key, password, name, created_at, updated_at) VALUES ('a', 'a', '', '', '2026-03-01 12:00:00+00:00', '2026-03-01 12:00:00+00:00')",
			session("live", "NULL"), session("ended", "'2026-03-02 12:00:00+00:00'"),
		} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		if done := up(t, db); !slices.Equal(done, []string{"0002_sessions_keys"}) {
			t.Fatalf("Up applied %q", done)
		}
		for id, want := range map[string]int{"live": 10, "ended": 2} {
			var carrier string
			var sweep time.Time
			err := db.NewRaw("SELECT carrier, sweep_at FROM login_sessions WHERE id = ?", id).Scan(t.Context(), &carrier, &sweep)
			if err != nil || carrier != "body" || !sweep.Equal(time.Date(2026, time.March, want, 12, 0, 0, 0, time.UTC)) {
				t.Errorf("%s: %q, %v, %v", id, carrier, sweep, err)
			}
		}
	})
}

// session inserts one of the first step's sessions.
func session(id, revoked string) string {
	const at = "'2026-03-01 12:00:00+00:00'"
	return "INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent, expires_at, deadline_at, revoked_at) " +
		"SELECT '" + id + "', id, 1, 'pwd', " + at + ", '', '', " + at + ", '', '', '2026-03-10 12:00:00+00:00', '2026-05-10 12:00:00+00:00', " + revoked + " FROM users"
}

// Events that waited under the former schema wait under this one, and the other way round.
func TestWhatWaitsToBePublishedGoesOnWaiting(t *testing.T) {
	each(t, func(t *testing.T, db *bun.DB) {
		up(t, db)
		back := func() {
			for _, statement := range strings.Split(script(t, db, "0010_outbox_pending.tx.down.sql"), "--bun:split") {
				execute(t, db, statement)
			}
			execute(t, db, "DELETE FROM "+table+" WHERE name = '0010'") // the later ones have nothing to do with it
		}
		back()
		const insert = "INSERT INTO outbox (id, type, subject, time, data, published_at) VALUES ('%s', 'user.deleted', '1', '2026-03-01 12:00:00+00:00', '{}', %s)"
		execute(t, db, fmt.Sprintf(insert, "waits", "NULL"))
		execute(t, db, fmt.Sprintf(insert, "published", "'2026-03-01 12:00:00+00:00'"))
		waiting := func(query string) (ids []string) {
			if err := db.NewRaw(query).Scan(t.Context(), &ids); err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if done := up(t, db); len(done) != 1 {
			t.Fatalf("%v", done)
		}
		if ids := waiting("SELECT id FROM outbox WHERE seq IN (SELECT seq FROM outbox_pending)"); !slices.Equal(ids, []string{"waits"}) {
			t.Errorf("up: %v", ids)
		}
		back()
		if ids := waiting("SELECT id FROM outbox WHERE published_at IS NULL"); !slices.Equal(ids, []string{"waits"}) {
			t.Errorf("down: %v", ids)
		}
	})
}

// script is the text of a step for the database.
func script(t *testing.T, db *bun.DB, name string) string {
	t.Helper()
	folder := "postgres/"
	if db.Dialect().Name() == dialect.SQLite {
		folder = "sqlite/"
	}
	text, err := fs.ReadFile(files, folder+name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
