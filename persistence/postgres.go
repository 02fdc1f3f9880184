package persistence

import (
	"context"
	"database/sql/driver"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// connectTimeout bounds one attempt to reach Postgres.
const connectTimeout = 5 * time.Second

func openPostgres(ctx context.Context, url string) (*Store, error) {
	config, err := pgx.ParseConfig(url)
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, file // of a certificate that the URL names
	}
	if err != nil {
		return nil, ErrURL // pgx's error repeats the URL
	}
	// bun writes the values into the statement itself, so there is nothing to prepare, and
	// nothing that PgBouncer would lose between two transactions. See prepared for the exception.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	pool := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(letGo))
	pool.SetMaxOpenConns(max(16, 4*runtime.GOMAXPROCS(0)))
	pool.SetMaxIdleConns(max(16, 4*runtime.GOMAXPROCS(0)))
	pool.SetConnMaxIdleTime(5 * time.Minute)

	db := bun.NewDB(pool, pgdialect.New(), bun.WithDiscardUnknownColumns())
	db = traced(db, "postgresql", isPostgresAway)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	unknown := new(atomic.Bool)
	return &Store{
		write: db, read: db, db: db, close: db.Close, together: new(together), woken: make(chan struct{}, 1),
		dialect: dialect{
			forUpdate: "NO KEY UPDATE", skipLocked: "UPDATE SKIP LOCKED",
			relax: relaxPostgres, lock: lockPostgres, isAway: isPostgresAway, isTaken: isPostgresTaken,
			overriding: " OVERRIDING SYSTEM VALUE", reserve: reservePostgres,
			exclusively: exclusivelyPostgres, insertPending: insertPendingPostgres,
			prepare: func() *prepared { return &prepared{DB: pool, isUnknown: unknown} },
		},
	}, nil
}

// Time is the database's clock, which all instances share. It is for Postgres alone: SQLite has
// that of its one process.
func (s *Store) Time(ctx context.Context) (now time.Time, err error) {
	err = s.db.NewRaw("SELECT clock_timestamp()").Scan(ctx, &now)
	return now, s.fault("ask the time", err)
}

// hungAfter is how long a transaction may say nothing, in the database's words. Whoever hangs in
// it is cut off, and the next one gets what it has locked.
const hungAfter = "15s"

// letGo makes the database notice that we are gone, with nobody to say so: the machine died, or
// the network between us did. Left to itself it would keep what our transactions hold for two
// hours, by Linux's keep-alive. Behind PgBouncer in transaction mode this may reach other
// connections of the same user, or not all of them; docs/operations/faults.md tells how to set it
// for the user.
func letGo(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SET idle_in_transaction_session_timeout = '"+hungAfter+"'; SET tcp_user_timeout = '"+hungAfter+"';"+
		" SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2", pgx.QueryExecModeSimpleProtocol)
	return err
}

// exclusivelyPostgres locks by a transaction, which ends with its connection and works
// behind PgBouncer.
func exclusivelyPostgres(ctx context.Context, s *Store, fn func(context.Context, *Store) error) error {
	return s.Tx(ctx, func(ctx context.Context, tx *Store) error {
		if _, err := tx.write.ExecContext(ctx, "SET LOCAL idle_in_transaction_session_timeout = '"+hungAfter+"'"); err != nil {
			return err
		}
		if err := tx.Lock(ctx, "outbox"); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// insertPendingPostgres is one statement, as each is a round trip.
func insertPendingPostgres(ctx context.Context, tx bun.IDB, rows []outboxRow) error {
	told := tx.NewInsert().Model(&rows).Returning("seq, subject, type")
	_, err := tx.NewRaw("WITH told AS (?) INSERT INTO outbox_pending (seq, subject, urgent) SELECT seq, subject, type IN (?) FROM told",
		told, bun.List(events.UrgentTypes())).Exec(ctx)
	return err
}

func relaxPostgres(ctx context.Context, tx bun.IDB) error {
	_, err := tx.ExecContext(ctx, "SET LOCAL synchronous_commit = off")
	return err
}

func lockPostgres(ctx context.Context, tx bun.IDB, name string) error {
	h := fnv.New64a()
	h.Write([]byte("zyotra/auth/" + name))
	_, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", int64(h.Sum64())).Exec(ctx)
	return err
}

// reservePostgres moves the sequence forward. Nobody inserts meanwhile: setval would take back
// a number that the sequence gave out since it was read.
func reservePostgres(ctx context.Context, tx bun.IDB, last auth.UserID) error {
	const sequence = "pg_get_serial_sequence('users', 'id')::regclass"
	var given auth.UserID
	err := tx.NewRaw("SELECT COALESCE(pg_sequence_last_value("+sequence+"), 0)").Scan(ctx, &given)
	if err != nil || given >= last {
		return err
	}
	if _, err := tx.ExecContext(ctx, "LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	_, err = tx.NewRaw("SELECT setval("+sequence+", greatest(pg_sequence_last_value("+sequence+"), ?))", last).Exec(ctx)
	return err
}

// isPostgresAway knows failures of the connection, and the server's own words for it:
// class 08 connection exception, 53 out of resources, 57P shut down or starting.
func isPostgresAway(err error) bool {
	var refused *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &refused) || errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return false
	}
	return strings.HasPrefix(answer.Code, "08") || strings.HasPrefix(answer.Code, "53") || strings.HasPrefix(answer.Code, "57P")
}

// isPostgresTaken knows unique_violation.
func isPostgresTaken(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "23505"
}
