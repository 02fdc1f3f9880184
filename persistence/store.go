// Package persistence stores the service's rows in Postgres or in SQLite: users, their sessions, the
// keys that sign access tokens, and the events that report changes (the outbox).
//
// A Store represents the database or, inside Tx, one transaction; the queries are the same. Both
// databases share most code; postgres.go and sqlite.go hold the differences. Row structs are private
// to the package: it returns the plain structs declared next to the queries, and auth's errors. The
// caller passes times in UTC, truncated to microseconds, which both databases store exactly.
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
	write bun.IDB // executes every change
	read  bun.IDB // may be another pool of connections, for reads outside of a transaction
	db    *bun.DB
	close func() error
	dialect

	// OnCommit, if it is set, receives every event of this process once its change is committed,
	// before Tx returns. It must not take long.
	OnCommit func(events.Data)

	refreshes *refreshBatcher // nil where refreshes are not batched: in a transaction, and in SQLite
	woken     chan struct{}   // returned by Woken
	writable  *writable       // shared with the Stores of transactions
	emitted   *[]events.Data  // events that the transaction has emitted; nil outside of one
}

// dialect holds the differences between the two databases.
type dialect struct {
	// forUpdate locks a row against changes until the transaction ends; "" where only one transaction
	// writes at a time.
	forUpdate string
	// skipLocked locks the rows of a subselect and skips rows that other transactions have locked;
	// "" where only one transaction writes at a time.
	skipLocked string
	// relax is Store.Relax.
	relax func(ctx context.Context, tx bun.IDB) error
	// lock makes the transaction wait for other transactions that hold the lock of the same name.
	lock func(ctx context.Context, tx bun.IDB, name string) error
	// insertPending stores events and marks them as pending.
	insertPending func(ctx context.Context, tx bun.IDB, rows []outboxRow) error
	// overriding precedes the values of an insert that specifies ids.
	overriding string
	// reserve makes the next assigned user id higher than last.
	reserve func(ctx context.Context, tx bun.IDB, last auth.UserID) error
	// exclusively runs fn with a Store while no other instance runs its fn.
	exclusively func(ctx context.Context, s *Store, fn func(context.Context, *Store) error) error
	// prepare returns a runner for a statement that is planned once; nil where that gains nothing.
	prepare func() *prepared
	// classify returns the meaning of an error.
	classify func(error) faultKind
}

// ErrURL means that a URL does not name a database. It does not repeat the URL, which may contain a
// password.
var ErrURL = errors.New("is neither a postgres:// nor a sqlite:// URL that can be read")

// Open connects to the database of the URL: postgres://… or sqlite://path. It tests the connection and
// returns an error if the database is unreachable, or ErrURL. The caller must call Close.
func Open(ctx context.Context, url string) (*Store, error) {
	switch scheme, rest, _ := strings.Cut(url, "://"); scheme {
	case "postgres", "postgresql":
		return openPostgres(ctx, url, false)
	case "sqlite":
		return openSQLite(ctx, rest)
	}
	return nil, ErrURL
}

// DB returns the database for package migrations. No other package needs it.
func (s *Store) DB() *bun.DB { return s.db }

// Pools returns the statistics of the connection pools: "write" and "read", or "all" if one pool
// serves both.
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

// Close waits for the queries in flight and closes the connections.
func (s *Store) Close() error {
	err := s.close()
	s.writable.wait()
	return err
}

// Ping returns auth.ErrUnavailable if the database does not respond.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.read.ExecContext(ctx, "SELECT 1")
	return s.fault("ping", err)
}

// Tx runs fn with a Store whose writes commit together. If fn fails, nothing is written. If the commit
// fails, the outcome is unknown, and Tx returns the commit's error.
func (s *Store) Tx(ctx context.Context, fn func(ctx context.Context, tx *Store) error) error {
	var emitted []events.Data
	err := s.write.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		return fn(ctx, &Store{write: tx, read: tx, dialect: s.dialect, writable: s.writable, emitted: &emitted})
	})
	if s.emitted != nil { // within another transaction
		*s.emitted = append(*s.emitted, emitted...)
	} else if len(emitted) > 0 {
		s.tell(emitted, err)
	}
	return s.fault("transaction", err)
}

// Lock waits until no other transaction holds the lock of the name, and holds it until the
// transaction ends.
func (s *Store) Lock(ctx context.Context, name string) error {
	return s.fault("lock "+name, s.dialect.lock(ctx, s.write, name))
}

// fault adds the operation to an error and maps the errors that callers act on: no row becomes
// auth.ErrNotFound, an unavailable database becomes auth.ErrUnavailable.
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

// changed reports whether a statement affected a row.
func changed(result sql.Result, err error) (bool, error) {
	n, err := count(result, err)
	return n > 0, err
}

// count returns how many rows a statement affected.
func count(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// Relax lets the transaction commit before the commit is on disk, if the database supports it. After a
// crash of the database's machine, the last commits may be lost. It is for data that may be lost, and
// never for a transaction that emits events.
func (s *Store) Relax(ctx context.Context) error {
	return s.fault("relax", s.dialect.relax(ctx, s.write))
}

// micros returns a time as microseconds since 1970, with which the database can calculate. It returns
// 0 for the zero time.
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
