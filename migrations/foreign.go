package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// Errors for a database that cannot be migrated.
var (
	ErrForeign = errors.New("the database holds tables of another program")
	ErrRights  = errors.New("the role may not change the schema")
)

// wayOut is the advice for a database that holds tables of another program.
const wayOut = `give authd a database of its own, or a schema: CREATE SCHEMA authd, and ALTER ROLE … SET search_path = authd`

// checkOwn returns ErrForeign if the table schema_migrations or users belongs to another program. It
// changes nothing.
func checkOwn(ctx context.Context, db *bun.DB) error {
	noted, err := columns(ctx, db, table, "id", "name", "group_id", "migrated_at")
	if err != nil {
		return err
	}
	users, err := columns(ctx, db, "users", "id", "email", "email_key", "password")
	if err != nil {
		return err
	}
	switch {
	case noted.exists && noted.found < 4:
		return fmt.Errorf("%w: %s; %s", ErrForeign, table, wayOut)
	case users.exists && (users.found < 4 || !noted.exists):
		return fmt.Errorf("%w: users; %s", ErrForeign, wayOut)
	}
	return nil
}

// presence holds whether a table exists and how many of the named columns it has.
type presence struct {
	exists bool
	found  int
}

func columns(ctx context.Context, db *bun.DB, table string, names ...string) (p presence, err error) {
	query := "SELECT count(*), coalesce(sum(CASE WHEN column_name IN (?) THEN 1 ELSE 0 END), 0) FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ?"
	if db.Dialect().Name() == dialect.SQLite {
		query = "SELECT count(*), coalesce(sum(CASE WHEN name IN (?) THEN 1 ELSE 0 END), 0) FROM pragma_table_info(?)"
	}
	var all int
	err = db.QueryRowContext(ctx, query, bun.List(names), table).Scan(&all, &p.found)
	if err != nil {
		return p, fmt.Errorf("look for the columns of %s: %w", table, err)
	}
	p.exists = all > 0
	return p, nil
}

// CheckRights returns ErrRights, with advice, if the role may not create tables in the current schema.
func CheckRights(ctx context.Context, db *bun.DB) error {
	if db.Dialect().Name() == dialect.SQLite {
		return nil
	}
	var schema, role sql.NullString
	var may sql.NullBool
	err := db.QueryRowContext(ctx, "SELECT current_schema(), current_user, has_schema_privilege(current_schema(), 'CREATE')").Scan(&schema, &role, &may)
	switch {
	case err != nil:
		return fmt.Errorf("look at the role's rights: %w", err)
	case !schema.Valid:
		return fmt.Errorf("%w: no schema in its search_path exists; CREATE SCHEMA makes one", ErrRights)
	case !may.Bool:
		return fmt.Errorf("%w: GRANT CREATE ON SCHEMA %s TO %s, or run authd migrate as the owner", ErrRights, schema.String, role.String)
	}
	return nil
}
