package persistence

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
)

// prepared runs a statement that Postgres plans once for each connection, with the values separate from
// the text. Planning a statement that affects a single row takes longer than the rest of its execution.
// With a nil prepared, the values are in the text and Postgres plans each execution.
type prepared struct {
	*sql.DB
	isUnknown *atomic.Bool // a pooler does not keep prepared statements for this process
	values    []any
}

// prepareAlone is prepare for a statement that is a complete transaction. Within a larger transaction it
// returns nil: a prepared statement that the pooler does not know would abort the transaction.
func (s *Store) prepareAlone() *prepared {
	if s.emitted != nil {
		return nil
	}
	return s.prepare()
}

// value returns the placeholder for v in the text; with a nil prepared, v.
func (p *prepared) value(v any) any {
	if p == nil {
		return v
	}
	p.values = append(p.values, v)
	return bun.Safe("$" + strconv.Itoa(len(p.values)))
}

// run makes p the connection that sends the query.
func (p *prepared) run(q *bun.UpdateQuery) *bun.UpdateQuery {
	if p == nil {
		return q
	}
	return q.Conn(p)
}

// QueryContext sends the statement. A pooler may use another server connection for each transaction and
// not know the statements prepared on the previous one (PgBouncer before 1.21, or with
// max_prepared_statements = 0). Postgres reports that before it executes the statement; QueryContext then
// sends it unprepared, and prepares no further statements.
func (p *prepared) QueryContext(ctx context.Context, text string, _ ...any) (*sql.Rows, error) {
	if p.isUnknown.Load() {
		return p.send(ctx, pgx.QueryExecModeExec, text)
	}
	rows, err := p.send(ctx, pgx.QueryExecModeCacheStatement, text)
	if isNotPrepared(err) {
		p.isUnknown.Store(true)
		return p.send(ctx, pgx.QueryExecModeExec, text)
	}
	return rows, err
}

func (p *prepared) send(ctx context.Context, mode pgx.QueryExecMode, text string) (*sql.Rows, error) {
	return p.DB.QueryContext(ctx, text, append([]any{mode}, p.values...)...)
}

// isNotPrepared reports whether err is invalid_sql_statement_name or duplicate_prepared_statement.
func isNotPrepared(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (answer.Code == "26000" || answer.Code == "42P05")
}
