package persistence

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// faultKind is the meaning of a database error.
type faultKind int

const (
	faultOther    faultKind = iota // an error in the statement or the schema
	faultAway                      // the database cannot execute the statement now; a later attempt may succeed
	faultReadOnly                  // like faultAway: the server accepts no writes
	faultFull                      // like faultAway: the disk, or the size limit of the file, leaves no space
	faultTaken                     // another row has the same value in a unique column
)

// isAway reports whether the database cannot execute the statement now.
func (f faultKind) isAway() bool { return f == faultAway || f == faultReadOnly || f == faultFull }

// postgresStates maps SQLSTATE codes (PostgreSQL, appendix A) to their meaning. The entry of a code
// takes precedence over the entry of its class, the first two digits. Codes without an entry are
// faultOther: 0A and 42 (statement or schema), 22 and 23 (values, which are checked before), 2D, 3B
// and 3D (our use of transactions and catalogs), XX (a bug in the server).
var postgresStates = map[string]faultKind{
	"23505": faultTaken,    // unique_violation
	"25006": faultReadOnly, // read_only_sql_transaction
	"25P03": faultAway,     // idle_in_transaction_session_timeout
	"25P04": faultAway,     // transaction_timeout
	"53100": faultFull,     // disk_full

	"08": faultAway, // connection exception; also PgBouncer without a server
	"40": faultAway, // transaction rollback: serialization failure, deadlock
	"53": faultAway, // insufficient resources
	"55": faultAway, // object not in prerequisite state: lock not available, recovery in progress
	"57": faultAway, // operator intervention: shutdown, canceled, starting up
	"58": faultAway, // system error outside of Postgres, such as a disk error
}

// postgresFault classifies an error of pgx or of Postgres.
func postgresFault(err error) faultKind {
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return faultReadOnly
	}
	if _, refused := errors.AsType[*pgconn.ConnectError](err); refused { // regardless of the reason
		return faultAway
	}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		if f, ok := postgresStates[answer.Code]; ok {
			return f
		}
		return postgresStates[answer.Code[:min(2, len(answer.Code))]]
	}
	_, network := errors.AsType[net.Error](err)
	switch {
	case network, errors.Is(err, errQuoting), errors.Is(err, driver.ErrBadConn), errors.Is(err, pgconn.ErrConnClosed),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return faultAway
	}
	return faultOther
}

// endsConnection reports whether the connection that returned err must not be used again: the
// server closes it, shuts down, or accepts no writes.
func endsConnection(err *pgconn.PgError) bool {
	return strings.EqualFold(err.Severity, "FATAL") || err.Code == "25006" ||
		strings.HasPrefix(err.Code, "08") || strings.HasPrefix(err.Code, "57P")
}
