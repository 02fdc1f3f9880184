package persistence

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

func openPostgres(ctx context.Context, url string, readOnly bool) (*Store, error) {
	pool, err := postgresPool(url, readOnly)
	if err != nil {
		return nil, err
	}
	db := bun.NewDB(pool, pgdialect.New(), bun.WithDiscardUnknownColumns())
	db = traced(db, "postgresql", postgresFault)
	if err := db.PingContext(ctx); err != nil {
		if postgresFault(err) == faultReadOnly {
			err = fmt.Errorf("%w: %w", ErrReadOnly, err)
		}
		return nil, errors.Join(err, db.Close())
	}
	unknown := new(atomic.Bool)
	return &Store{
		write: db, read: db, db: db, close: db.Close, refreshes: new(refreshBatcher), woken: make(chan struct{}, 1), writable: new(writable),
		dialect: dialect{
			forUpdate: "NO KEY UPDATE", skipLocked: "UPDATE SKIP LOCKED",
			relax: relaxPostgres, lock: lockPostgres, classify: postgresFault,
			overriding: " OVERRIDING SYSTEM VALUE", reserve: reservePostgres,
			exclusively: exclusivelyPostgres, insertPending: insertPendingPostgres,
			prepare: func() *prepared { return &prepared{DB: pool, isUnknown: unknown} },
		},
	}, nil
}

// Time returns the time of the database's clock, which all instances share. It is for Postgres only:
// SQLite has one process and uses its clock.
func (s *Store) Time(ctx context.Context) (now time.Time, err error) {
	err = s.db.NewRaw("SELECT clock_timestamp()").Scan(ctx, &now)
	return now, s.fault("ask the time", err)
}

// exclusivelyPostgres holds the lock in a transaction, which ends with its connection and works
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

// insertPendingPostgres uses one statement, since each statement is a round trip.
func insertPendingPostgres(ctx context.Context, tx bun.IDB, rows []outboxRow) error {
	added := tx.NewInsert().Model(&rows).Returning("seq, subject, type IN (?) AS urgent", bun.List(events.UrgentTypes()))
	_, err := tx.NewInsert().With("added", added).Table("outbox_pending", "added").Column("seq", "subject", "urgent").Exec(ctx)
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

// reservePostgres moves the sequence forward. It locks the table against inserts: otherwise setval
// could take back a number that the sequence assigned after it was read.
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
