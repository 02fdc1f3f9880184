// Package persistence keeps the service's rows: users, their sessions, the keys that sign
// access tokens, and the events that tell of changes (the outbox), in Postgres or in SQLite.
//
// A Store stands for the database, or for one transaction inside Tx; the queries are the
// same. What they share is written once; what differs between the two databases stands in
// postgres.go and sqlite.go. Rows are private to the package: what goes out are the plain
// structs beside the queries, and auth's errors. Times go in from the caller, in UTC and
// cut to microseconds, which both databases keep exactly.
package persistence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// Store reads and writes the service's tables, on the database or inside one transaction.
type Store struct {
	write bun.IDB // takes every change
	read  bun.IDB // may be another pool of connections, for reads outside of a transaction
	db    *bun.DB
	close func() error
	dialect

	// OnCommit, if it is set, hears of every event of this process once its change is committed,
	// before the caller does. It must not take long.
	OnCommit func(events.Data)

	refreshes *refreshBatcher // nil where refreshes are not batched: in a transaction, and in SQLite
	woken     chan struct{}   // of Woken
	writable  *writable       // shared with the Stores of transactions
	emitted   *[]events.Data  // in a transaction: what it has emitted
}

// dialect is what the two databases do differently.
type dialect struct {
	// forUpdate keeps a row as it is until the transaction ends; "" where only one transaction
	// writes at a time anyway.
	forUpdate string
	// skipLocked locks the rows of a subselect and passes over those that others have locked;
	// "" where only one transaction writes.
	skipLocked string
	// relax is Store.Relax.
	relax func(ctx context.Context, tx bun.IDB) error
	// lock makes the transaction wait for others that lock the same name.
	lock func(ctx context.Context, tx bun.IDB, name string) error
	// insertPending stores events, and that they wait to be published.
	insertPending func(ctx context.Context, tx bun.IDB, rows []outboxRow) error
	// overriding stands before the values of an insert that brings its own ids.
	overriding string
	// reserve makes the next id that users get a higher one than last.
	reserve func(ctx context.Context, tx bun.IDB, last auth.UserID) error
	// exclusively runs fn with a Store while no other instance does.
	exclusively func(ctx context.Context, s *Store, fn func(context.Context, *Store) error) error
	// prepare makes what runs a statement that is planned once; nil where that gains nothing.
	prepare func() *prepared
	// classify returns the meaning of an error.
	classify func(error) faultKind
}

// ErrURL means that a URL does not name a database. It does not repeat the URL, which may
// hold a password.
var ErrURL = errors.New("is neither a postgres:// nor a sqlite:// URL that can be read")

// Open connects to the database of the URL: postgres://… or sqlite://path. The connection
// is tried, so a database that is away is an error here, and so is ErrURL. Close must be
// called in the end.
func Open(ctx context.Context, url string) (*Store, error) {
	switch scheme, rest, _ := strings.Cut(url, "://"); scheme {
	case "postgres", "postgresql":
		return openPostgres(ctx, url, false)
	case "sqlite":
		return openSQLite(ctx, rest)
	}
	return nil, ErrURL
}

// DB is the database for package migrations. Nobody else needs it.
func (s *Store) DB() *bun.DB { return s.db }

// Pools are the statistics of the pools of connections: of the one that writes and the one that
// reads, or of the one that does both.
func (s *Store) Pools() map[string]sql.DBStats {
	if s.read == s.write {
		return map[string]sql.DBStats{"all": s.db.Stats()}
	}
	pools := map[string]sql.DBStats{"write": s.db.Stats()}
	if reader, ok := s.read.(*bun.DB); ok {
		pools["read"] = reader.Stats()
	}
	return pools
}

// Close waits for what is being asked and closes the connections.
func (s *Store) Close() error {
	err := s.close()
	s.writable.wait()
	return err
}

// Ping returns auth.ErrUnavailable if the database does not answer.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.read.ExecContext(ctx, "SELECT 1")
	return s.fault("ping", err)
}

// Tx runs fn with a Store whose writes commit together. If fn fails nothing is written; if
// the commit fails the outcome is unknown and the caller gets that error.
func (s *Store) Tx(ctx context.Context, fn func(ctx context.Context, tx *Store) error) error {
	var emitted []events.Data
	err := s.write.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return fn(ctx, &Store{write: tx, read: tx, dialect: s.dialect, writable: s.writable, emitted: &emitted})
	})
	if s.emitted != nil { // within another one
		*s.emitted = append(*s.emitted, emitted...)
	} else if len(emitted) > 0 {
		s.tell(emitted, err)
	}
	return s.fault("transaction", err)
}

// Lock makes the transaction wait for any other that locked the same name, and others for
// it, until it ends.
func (s *Store) Lock(ctx context.Context, name string) error {
	return s.fault("lock "+name, s.dialect.lock(ctx, s.write, name))
}

// fault says what was being done, and gives errors that callers can act on their meaning:
// no row is auth.ErrNotFound, no database is auth.ErrUnavailable.
func (s *Store) fault(doing string, err error) error {
	var known *auth.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, auth.ErrNotFound)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, sql.ErrConnDone), errors.Is(err, sql.ErrTxDone), s.classify(err).isAway():
		if s.classify(err) == faultFull {
			s.writable.foundNoRoom()
		}
		return fmt.Errorf("%s: %w: %w", doing, auth.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// changed tells whether a statement met a row.
func changed(result sql.Result, err error) (bool, error) {
	n, err := count(result, err)
	return n > 0, err
}

// count tells how many rows a statement met.
func count(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// Relax lets the transaction commit before that is on disk, where the database can: if its
// machine then crashes, what was committed last may be gone. It is for what may be lost, and
// never for a transaction that emits.
func (s *Store) Relax(ctx context.Context) error {
	return s.fault("relax", s.dialect.relax(ctx, s.write))
}

// micros is a time as microseconds since 1970, which the database can reckon with; 0 for the
// zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
