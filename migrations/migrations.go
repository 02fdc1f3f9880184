// Package migrations holds the schema as numbered up and down steps, once for Postgres and once for
// SQLite. The numbers are the same in both folders.
//
// One transaction applies a step and records it, so a process that dies during a step leaves no partial
// change. On Postgres, an advisory lock makes the instances of a service take turns; SQLite has one
// process.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/migrate"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// table is the table of the applied steps.
const table = "schema_migrations"

// lockID is the advisory lock of every process that changes the schema: "zyotra" in ASCII.
const lockID = 0x7a796f747261

// Errors for a database whose schema version differs from the one of this binary.
var (
	ErrPending = errors.New("the database lacks migrations")
	ErrNewer   = errors.New("the database was migrated by a newer version")
)

// Step is one migration.
type Step struct {
	Name      string    // for example "0001_accounts"
	AppliedAt time.Time // zero if it is not applied
	Known     bool      // false if only a newer version knows it
}

// Up applies the missing steps and returns them, oldest first. If a step fails, the steps before it stay
// applied. Up changes nothing and returns ErrNewer if the database has steps that this binary does not
// know, ErrForeign if it holds another program's tables, and ErrRights if the role may not create tables.
func Up(ctx context.Context, db *bun.DB) ([]string, error) {
	finish := func(ctx context.Context, tx bun.IConn, step *migrate.Migration) error {
		if isFolding(step.Name) {
			if _, err := refold(ctx, tx, db.Dialect().Name()); err != nil {
				return err
			}
		}
		return markInTransaction(ctx, tx, step)
	}
	m, err := migrator(db, migrate.AfterMigration(finish))
	if err != nil {
		return nil, err
	}
	var done []string
	err = locked(ctx, db, func() error {
		err := Check(ctx, db)
		if !errors.Is(err, ErrPending) {
			return err
		}
		if err := CheckRights(ctx, db); err != nil {
			return err
		}
		if err := m.Init(ctx); err != nil {
			return fmt.Errorf("prepare migrations: %w", err)
		}
		group, err := m.Migrate(ctx)
		done = names(group.Migrations, err)
		return err
	})
	return done, err
}

// Down undoes the steps that the last Up applied, and returns them, newest first. If a step fails, Status
// reports which steps are still applied.
func Down(ctx context.Context, db *bun.DB) ([]string, error) {
	m, err := migrator(db)
	if err != nil {
		return nil, err
	}
	var undone []string
	err = locked(ctx, db, func() error {
		if err := m.Init(ctx); err != nil {
			return fmt.Errorf("prepare migrations: %w", err)
		}
		if err := checkNewer(ctx, m); err != nil {
			return err
		}
		group, err := m.Rollback(ctx)
		if err != nil {
			return err
		}
		undone = names(group.Migrations, nil)
		slices.Reverse(undone) // the newest was undone first
		return nil
	})
	return undone, err
}

// Fingerprint identifies the steps of this version by a hash: 32 hexadecimal digits.
func Fingerprint() string {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		fmt.Fprintf(sum, "%s\x00%d\x00%s", path, len(text), text)
		return err
	})
	if err != nil {
		panic(err) // the files are in the binary
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// Status returns all steps, oldest first, or ErrForeign. It changes nothing.
func Status(ctx context.Context, db *bun.DB) ([]Step, error) {
	if err := checkOwn(ctx, db); err != nil {
		return nil, err
	}
	fresh, err := isFresh(ctx, db)
	if err != nil {
		return nil, err
	}
	if fresh {
		all, err := discover(db)
		if err != nil {
			return nil, err
		}
		return steps(all.Sorted(), true), nil
	}
	m, err := migrator(db)
	if err != nil {
		return nil, err
	}
	known, err := m.MigrationsWithStatus(ctx)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	newer, err := m.MissingMigrations(ctx)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return append(steps(known, true), steps(newer, false)...), nil
}

func steps(list migrate.MigrationSlice, known bool) []Step {
	out := make([]Step, len(list))
	for i, m := range list {
		out[i] = Step{Name: strings.TrimSuffix(m.String(), "_"), AppliedAt: m.MigratedAt.UTC(), Known: known}
	}
	return out
}

// Check returns nil if the database has exactly the steps of this binary, and ErrPending, ErrNewer or
// ErrForeign if it does not.
func Check(ctx context.Context, db *bun.DB) error {
	list, err := Status(ctx, db)
	if err != nil {
		return err
	}
	var missing []string
	for _, s := range list {
		switch {
		case !s.Known:
			return fmt.Errorf("%w: it has %s", ErrNewer, s.Name)
		case s.AppliedAt.IsZero():
			missing = append(missing, s.Name)
		}
	}
	switch n := len(missing); n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", ErrPending, missing[0])
	default:
		return fmt.Errorf("%w: %s to %s", ErrPending, missing[0], missing[n-1])
	}
}

// discover reads the dialect's steps.
func discover(db *bun.DB) (*migrate.Migrations, error) {
	folder := "postgres"
	if db.Dialect().Name() == dialect.SQLite {
		folder = "sqlite"
	}
	sub, err := fs.Sub(files, folder)
	if err != nil {
		return nil, err
	}
	found := migrate.NewMigrations()
	if err := found.Discover(sub); err != nil {
		return nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	return found, nil
}

func migrator(db *bun.DB, options ...migrate.MigratorOption) (*migrate.Migrator, error) {
	found, err := discover(db)
	if err != nil {
		return nil, err
	}
	options = append(options, migrate.WithTableName(table), migrate.WithLocksTableName(table+"_locks"),
		migrate.WithMarkAppliedOnSuccess(true), migrate.WithUpsert(true))
	return migrate.NewMigrator(db, found, options...), nil
}

// markInTransaction records a step as applied, in the transaction of the step. The migrator records it
// again afterwards, which only updates the time.
func markInTransaction(ctx context.Context, tx bun.IConn, step *migrate.Migration) error {
	note := fmt.Sprintf("INSERT INTO %s (name, group_id, migrated_at) VALUES ('%s', %d, '%s')",
		table, step.Name, step.GroupID, time.Now().UTC().Format("2006-01-02 15:04:05.999999-07:00"))
	_, err := tx.ExecContext(ctx, note)
	return err
}

func checkNewer(ctx context.Context, m *migrate.Migrator) error {
	missing, err := m.MissingMigrations(ctx)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: it has %s", ErrNewer, missing[0].Name)
	}
	return nil
}

// locked runs fn while no other instance changes the schema. A transaction holds the lock, so the lock
// ends with the connection and works behind PgBouncer.
func locked(ctx context.Context, db *bun.DB, fn func() error) error {
	if db.Dialect().Name() == dialect.SQLite {
		return fn()
	}
	return db.RunInTx(ctx, &sql.TxOptions{}, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(?)", lockID); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		return fn()
	})
}

// isFresh reports whether the database has never been migrated.
func isFresh(ctx context.Context, db *bun.DB) (bool, error) {
	query := "SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?"
	if db.Dialect().Name() == dialect.SQLite {
		query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
	}
	var n int
	if err := db.NewRaw(query, table).Scan(ctx, &n); err != nil {
		return false, fmt.Errorf("look for migrations: %w", err)
	}
	return n == 0, nil
}

// names returns the steps of a group, without the last one if err is set: that step failed.
func names(group migrate.MigrationSlice, err error) []string {
	if err != nil && len(group) > 0 {
		group = group[:len(group)-1]
	}
	var list []string
	for _, m := range group {
		list = append(list, m.String())
	}
	return list
}
