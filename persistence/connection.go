package persistence

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// This file sets up each connection to Postgres: the servers that it may connect to, the session settings
// that it relies on, and when the pool discards it.

const (
	// connectTimeout bounds one attempt to reach Postgres.
	connectTimeout = 5 * time.Second
	// connectionLifetime bounds the age of a connection, so that every pool follows changes of DNS, of a
	// proxy or of the role's rights.
	connectionLifetime = 10 * time.Minute
	connectionIdleTime = 5 * time.Minute
	// hungAfter is the idle time, in Postgres's syntax, after which Postgres ends a transaction and so
	// releases the locks of a hung client.
	hungAfter = "15s"
)

// quotingSettings are the session settings that the quoting of values depends on. bun writes values into
// the statement's text: with another value of one of these settings, text that a user chose could end its
// literal. The startup message contains them, where they override the settings of the role, the database
// and the URL, and where PgBouncer keeps them for each of its clients. Postgres reports every change of
// them, so checking them needs no round trip.
var quotingSettings = map[string]string{
	"standard_conforming_strings": "on",
	"client_encoding":             "UTF8",
}

// startupSettings are further settings in the startup message, which the parsing of values and times
// depends on.
var startupSettings = map[string]string{"datestyle": "ISO, MDY", "timezone": "UTC"}

// sessionSettings are sent after the startup message, in one round trip. The first ones make Postgres
// detect that this process is gone when no packet reports it, after a failure of the machine or the
// network. With Linux's defaults, Postgres would keep the locks of such a client for two hours. The other
// settings protect the meaning of statements from settings of the role or the database. Behind PgBouncer
// in transaction mode, they may reach other connections of the same user, or not all of them;
// docs/operations/faults.md describes how to set them for the role.
const sessionSettings = "SET idle_in_transaction_session_timeout = '" + hungAfter + "'; SET tcp_user_timeout = '" + hungAfter + "';" +
	" SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2;" +
	" SET default_transaction_isolation = 'read committed'; SET bytea_output = 'hex'; SET transform_null_equals = off"

// errQuoting means that values cannot be written into statements safely.
var errQuoting = errors.New("a setting of the database session, or of a proxy in front of it, is unsafe")

// ErrReadOnly means that Postgres accepts no writes: it is a standby, or is configured as read-only.
var ErrReadOnly = errors.New("the database takes no changes: it is a standby, or default_transaction_read_only is on")

// postgresPool opens a pool of connections to the URL. Unless the URL or PGTARGETSESSIONATTRS specifies
// otherwise, it connects to a server that accepts writes; with readOnly, to any server.
func postgresPool(databaseURL string, readOnly bool) (*sql.DB, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, file // a certificate file that the URL names
	}
	if err != nil {
		return nil, ErrURL // pgx's error repeats the URL
	}
	// This mode prepares no statements, so PgBouncer cannot lose one between two transactions. See
	// prepared for the exception.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	switch {
	case readOnly:
		config.ValidateConnect = nil
	case !namesTarget(databaseURL):
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	for name := range config.RuntimeParams { // Postgres ignores the case of names, the map does not
		if lower := strings.ToLower(name); quotingSettings[lower]+startupSettings[lower] != "" {
			delete(config.RuntimeParams, name)
		}
	}
	for _, settings := range []map[string]string{quotingSettings, startupSettings} {
		for name, value := range settings {
			config.RuntimeParams[name] = value
		}
	}
	outdated := new(outdated)
	config.OnPgError = func(_ *pgconn.PgConn, err *pgconn.PgError) (keep bool) {
		if postgresFault(err) == faultReadOnly {
			outdated.since.Add(1)
		}
		return !endsConnection(err)
	}
	pool := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(outdated.prepare), stdlib.OptionResetSession(outdated.check))
	pool.SetMaxOpenConns(max(16, 4*runtime.GOMAXPROCS(0)))
	pool.SetMaxIdleConns(max(16, 4*runtime.GOMAXPROCS(0)))
	pool.SetConnMaxIdleTime(connectionIdleTime)
	pool.SetConnMaxLifetime(connectionLifetime)
	return pool, nil
}

// namesTarget reports whether the operator chose the kind of server to connect to.
func namesTarget(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	return os.Getenv("PGTARGETSESSIONATTRS") != "" || err == nil && u.Query().Has("target_session_attrs")
}

// outdated detects the connections of a pool that were opened before a server reported that it accepts no
// writes. After a failover, all earlier connections are outdated as soon as one receives that error.
type outdated struct{ since atomic.Int64 }

// madeAt is the key of a connection's value of since, in its custom data.
const madeAt = "authd.since"

// prepare sets up a new connection, and refuses it if its session settings are unsafe.
func (o *outdated) prepare(ctx context.Context, conn *pgx.Conn) error {
	conn.PgConn().CustomData()[madeAt] = o.since.Load()
	if _, err := conn.Exec(ctx, sessionSettings, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	return checkQuoting(conn.PgConn())
}

// check checks a connection before each use. The pool replaces a connection that check refuses.
func (o *outdated) check(_ context.Context, conn *pgx.Conn) error {
	if conn.PgConn().CustomData()[madeAt] != o.since.Load() || checkQuoting(conn.PgConn()) != nil {
		return driver.ErrBadConn
	}
	return nil
}

// checkQuoting returns an error that names the setting with which values cannot be quoted safely.
func checkQuoting(conn *pgconn.PgConn) error {
	for name, want := range quotingSettings {
		if got := conn.ParameterStatus(name); got != want {
			return fmt.Errorf("%w: %s is %q, and has to be %q", errQuoting, name, got, want)
		}
	}
	return nil
}
