package persistence

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
)

// Inspect is Open for whoever only looks. What it opens on SQLite cannot change anything: a file
// that is not there is not made, and the error is os.ErrNotExist. On Postgres it connects to a
// standby too, and nothing keeps the caller from changes: a read-only session would, behind
// PgBouncer, become that of others.
func Inspect(ctx context.Context, url string) (*Store, error) {
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		return inspectSQLite(ctx, path)
	}
	if scheme, _, _ := strings.Cut(url, "://"); scheme == "postgres" || scheme == "postgresql" {
		return openPostgres(ctx, url, true)
	}
	return nil, ErrURL
}

func inspectSQLite(ctx context.Context, path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=rw&_pragma=busy_timeout(5000)&_pragma=query_only(1)"
	db, err := openPoolAt(ctx, dsn, 1)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Store{write: db, read: db, db: db, close: db.Close, writable: new(writable), dialect: dialect{classify: sqliteFault}}, nil
}

// ServerStatus is how a database is, beside what is in it. What does not apply to a kind of database
// is zero.
type ServerStatus struct {
	Version string        // as in "Postgres 17.2"
	Latency time.Duration // of a round trip
	Ahead   time.Duration // of its clock before ours, as exact as Latency
	TLS     bool          // between it, or what stands before it, and us

	MostConnections, Connections int // that others than superusers may have, and that there are

	// Unsafe are settings by which a crash loses what was committed, as in "fsync is off".
	Unsafe []string
	// ReadOnly means that it is a standby, or set so that it takes no changes.
	ReadOnly bool
	// Journal is how SQLite keeps its log, as in "wal".
	Journal string
}

// ServerStatus looks how the database is.
func (s *Store) ServerStatus(ctx context.Context) (ServerStatus, error) {
	if s.db.Dialect().Name().String() == "sqlite" {
		return s.conditionSQLite(ctx)
	}
	return s.conditionPostgres(ctx)
}

func (s *Store) conditionSQLite(ctx context.Context) (c ServerStatus, err error) {
	err = errors.Join(
		s.db.QueryRowContext(ctx, "SELECT 'SQLite ' || sqlite_version()").Scan(&c.Version),
		s.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&c.Journal),
	)
	return c, s.fault("look at the database", err)
}

// postgresCondition is one statement, so that it is one round trip.
const postgresCondition = `SELECT
	'Postgres ' || split_part(current_setting('server_version'), ' ', 1),
	clock_timestamp(),
	current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
	(SELECT COALESCE(sum(numbackends), 0) FROM pg_stat_database),
	current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
	pg_is_in_recovery()`

func (s *Store) conditionPostgres(ctx context.Context) (c ServerStatus, err error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return c, s.fault("look at the database", err)
	}
	defer conn.Close()
	if c.TLS, err = isEncrypted(conn); err != nil {
		return c, err
	}
	var now time.Time
	var fsync, fullPages, commit string
	begun := time.Now()
	err = conn.QueryRowContext(ctx, postgresCondition).
		Scan(&c.Version, &now, &c.MostConnections, &c.Connections, &fsync, &fullPages, &commit, &c.ReadOnly)
	if err != nil {
		return c, s.fault("look at the database", err)
	}
	c.Latency = time.Since(begun)
	c.Ahead = now.Sub(begun.Add(c.Latency / 2))
	for name, value := range map[string]string{"fsync": fsync, "full_page_writes": fullPages, "synchronous_commit": commit} {
		if value == "off" {
			c.Unsafe = append(c.Unsafe, name+" is off")
		}
	}
	return c, nil
}

func isEncrypted(conn bun.Conn) (is bool, err error) {
	err = conn.Raw(func(driver any) error {
		_, is = driver.(*stdlib.Conn).Conn().PgConn().Conn().(*tls.Conn)
		return nil
	})
	return is, err
}

// QuickCheck lets SQLite look for damage and returns the first that it finds; "" if there is none.
// It reads the whole file, which takes until ctx ends if that is long. Postgres has no such thing.
func (s *Store) QuickCheck(ctx context.Context) (damage string, err error) {
	err = s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&damage)
	if errors.Is(err, sql.ErrNoRows) || damage == "ok" {
		damage = ""
	}
	return damage, s.fault("check the file", err)
}
