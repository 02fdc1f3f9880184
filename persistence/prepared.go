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

// prepared runs a statement that Postgres plans once for each connection, with its values
// beside the text. For one that meets a single row, planning takes longer than all the rest.
// nil leaves the values in the text, and the planning to each time.
type prepared struct {
	*sql.DB
	isUnknown *atomic.Bool // that what is prepared is not kept for us
	values    []any
}

// prepareAlone is prepare, for a statement that is its own transaction: within one, what a
// pooler does not know would be too late to do otherwise.
func (s *Store) prepareAlone() *prepared {
	if s.emitted != nil {
		return nil
	}
	return s.prepare()
}

// value returns what stands for v in the text.
func (p *prepared) value(v any) any {
	if p == nil {
		return v
	}
	p.values = append(p.values, v)
	return bun.Safe("$" + strconv.Itoa(len(p.values)))
}

// run has the query be sent by it.
func (p *prepared) run(q *bun.UpdateQuery) *bun.UpdateQuery {
	if p == nil {
		return q
	}
	return q.Conn(p)
}

// QueryContext sends the statement. A pooler in between may give each transaction another
// connection and not know what was prepared on the one before (PgBouncer before 1.21, or with
// max_prepared_statements = 0). The database says so before anything is done, and from then on
// nothing is prepared any more.
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

// isNotPrepared knows invalid_sql_statement_name and duplicate_prepared_statement.
func isNotPrepared(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (answer.Code == "26000" || answer.Code == "42P05")
}
