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

// Inspect is Open for a caller that only reads. With SQLite, the Store cannot change anything, and
// Inspect does not create a missing file but returns os.ErrNotExist. With Postgres, it also connects to
// a standby, and the caller must not write: the Store does not prevent it, since behind PgBouncer other
// clients would get the read-only session.
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

// ServerStatus is the state of a database server, apart from its data. Fields that do not apply to a
// kind of database are zero.
type ServerStatus struct {
	Version string        // for example "Postgres 17.2"
	Latency time.Duration // of a round trip
	Ahead   time.Duration // by which its clock is ahead of ours, as accurate as Latency
	TLS     bool          // the connection to it, or to a proxy in front of it, is encrypted

	MostConnections, Connections int // limit for roles other than superusers, and current number

	// Unsafe lists settings with which a crash may lose committed data, for example "fsync is off".
	Unsafe []string
	// ReadOnly means that the server is a standby.
	ReadOnly bool
	// Journal is SQLite's journal mode, for example "wal".
	Journal string
}

// ServerStatus returns the state of the database server.
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

// postgresCondition is one statement, so it costs one round trip.
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

// QuickCheck runs SQLite's check for damage and returns the first damage that it finds; "" if there is
// none. It reads the whole file, and stops when ctx ends. Postgres has no such check.
func (s *Store) QuickCheck(ctx context.Context) (damage string, err error) {
	err = s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&damage)
	if errors.Is(err, sql.ErrNoRows) || damage == "ok" {
		damage = ""
	}
	return damage, s.fault("check the file", err)
}
