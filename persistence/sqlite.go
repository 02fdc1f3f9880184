package persistence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// openSQLite opens the file; a new file is readable by its owner only. One connection writes, so
// transactions wait for each other in this process and not in SQLite, and a pool reads. With the
// write-ahead log, readers and the writer do not block each other.
func openSQLite(ctx context.Context, path string) (*Store, error) {
	if path == "" {
		return nil, errors.New("sqlite:// needs a path")
	}
	// SQLite gives the log and the index the mode of the file.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	writer, err := openPool(ctx, path, "_txlock=immediate&_pragma=synchronous(FULL)", 1)
	if err != nil {
		return nil, err
	}
	reader, err := openPool(ctx, path, "_pragma=query_only(1)", max(4, runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	return &Store{
		write: writer, read: reader, db: writer, woken: make(chan struct{}, 1), writable: new(writable),
		close: func() error { return errors.Join(reader.Close(), writer.Close()) },
		dialect: dialect{
			relax: relaxSQLite, lock: lockSQLite, reserve: reserveSQLite, exclusively: exclusivelySQLite,
			insertPending: insertPendingSQLite, prepare: func() *prepared { return nil },
			classify: sqliteFault,
		},
	}, nil
}

func openPool(ctx context.Context, path, options string, connections int) (*bun.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)&" + options
	db, err := openPoolAt(ctx, dsn, connections)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func openPoolAt(ctx context.Context, dsn string, connections int) (*bun.DB, error) {
	pool, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	db := bun.NewDB(pool, sqlitedialect.New(), bun.WithDiscardUnknownColumns())
	db = traced(db, "sqlite", sqliteFault)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// exclusivelySQLite runs fn without a lock: there is one process, and a transaction would block all
// other writes.
func exclusivelySQLite(ctx context.Context, s *Store, fn func(context.Context, *Store) error) error {
	return fn(ctx, s)
}

// insertPendingSQLite uses two statements, since SQLite does not support an insert within another one.
func insertPendingSQLite(ctx context.Context, tx bun.IDB, rows []outboxRow) error {
	if _, err := tx.NewInsert().Model(&rows).Returning("seq").Exec(ctx); err != nil {
		return err
	}
	pending := make([]pendingRow, len(rows))
	for i, r := range rows {
		pending[i] = pendingRow{Seq: r.Seq, Subject: r.Subject, Urgent: slices.Contains(events.UrgentTypes(), r.Type)}
	}
	_, err := tx.NewInsert().Model(&pending).Exec(ctx)
	return err
}

// relaxSQLite does nothing: SQLite cannot change its synchronous mode within a transaction.
func relaxSQLite(context.Context, bun.IDB) error { return nil }

// lockSQLite does nothing: there is one writer.
func lockSQLite(context.Context, bun.IDB, string) error { return nil }

// reserveSQLite moves the AUTOINCREMENT counter forward.
func reserveSQLite(ctx context.Context, tx bun.IDB, last auth.UserID) error {
	_, err := tx.NewRaw("INSERT INTO sqlite_sequence (name, seq) SELECT 'users', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'users')").Exec(ctx)
	if err != nil {
		return err
	}
	_, err = tx.NewRaw("UPDATE sqlite_sequence SET seq = ? WHERE name = 'users' AND seq < ?", last, last).Exec(ctx)
	return err
}

// sqliteFault classifies an error of SQLite.
func sqliteFault(err error) faultKind {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return faultOther
	}
	if e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE {
		return faultTaken
	}
	switch e.Code() & 0xff { // the rest is the extended code
	case sqlite3.SQLITE_FULL:
		return faultFull
	case sqlite3.SQLITE_READONLY:
		return faultReadOnly
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM:
		return faultAway
	}
	return faultOther
}
