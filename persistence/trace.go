package persistence

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// traced returns db with a hook that records each statement as a span of the request that needs it, if
// tracing is on. The hook does not record statements of background jobs, which run every second.
func traced(db *bun.DB, system string, classify func(error) faultKind) *bun.DB {
	if !trace.On() {
		return db
	}
	return db.WithQueryHook(queryTracer{system, classify})
}

type queryTracer struct {
	system   string // db.system.name
	classify func(error) faultKind
}

// spanKey is the key of a query's span in its stash.
type spanKey struct{}

// BeforeQuery starts a span that has the statement without its values. The returned context does not
// carry the span: bun would make the span of BEGIN the parent of the whole transaction.
func (q queryTracer) BeforeQuery(ctx context.Context, e *bun.QueryEvent) context.Context {
	operation, table := strings.ToUpper(e.Operation()), ""
	if named, ok := e.IQuery.(interface{ GetTableName() string }); ok {
		table = named.GetTableName()
	}
	_, span := trace.Step(ctx, trace.Client, strings.TrimSpace(operation+" "+table))
	if span == (trace.Span{}) {
		return ctx
	}
	span.Text("db.system.name", q.system)
	span.Text("db.operation.name", operation)
	if table != "" {
		span.Text("db.collection.name", table)
	}
	span.Text("db.query.text", statement(e))
	e.Stash = map[any]any{spanKey{}: span}
	return ctx
}

// AfterQuery ends the span.
func (q queryTracer) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	span, _ := e.Stash[spanKey{}].(trace.Span)
	switch {
	case e.Err == nil, errors.Is(e.Err, sql.ErrNoRows):
		span.End(nil)
	case q.classify(e.Err).isAway():
		span.End(auth.ErrUnavailable)
	default:
		span.End(e.Err)
	}
}

// statement returns the text of a query with "?" in place of each value.
func statement(e *bun.QueryEvent) string {
	if e.IQuery == nil {
		return e.QueryTemplate
	}
	text, err := e.IQuery.AppendQuery(schema.NewNopQueryGen(), nil)
	if err != nil { // bun could not run the query either
		return ""
	}
	return string(text)
}
