package persistence

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// Legacy reads the users table of the predecessor of this service, in Postgres. It writes nothing
// there.
type Legacy struct {
	Total int         // number of accounts when OpenLegacy read the table
	MaxID auth.UserID // the highest of their ids that is at most MaxUserID

	store   *Store
	table   bun.Ident
	columns string // select list
}

// ImportedUser is an account as another service stores it. None of its values are validated.
type ImportedUser struct {
	ID        auth.UserID
	Email     string
	Name      string
	Password  string
	CreatedAt time.Time // zero if unknown
	UpdatedAt time.Time // zero if unknown
}

// MaxUserID is the highest id that every JSON reader represents exactly (RFC 8259 §6).
const MaxUserID auth.UserID = 1<<53 - 1

// ErrTable means that users cannot be read from a table.
var ErrTable = errors.New("cannot read users")

// tableName matches the name of a table, with or without a schema.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$`)

// OpenLegacy connects to the database of the URL and reads the columns of the table. It returns ErrURL,
// or ErrTable with the reason why the table cannot be read. The caller must call Close.
func OpenLegacy(ctx context.Context, url, table string) (*Legacy, error) {
	if !tableName.MatchString(table) {
		return nil, fmt.Errorf("%w: %q is not the name of a table", ErrTable, table)
	}
	store, err := openPostgres(ctx, url, true)
	if err != nil {
		return nil, err
	}
	a := &Legacy{store: store, table: bun.Ident(table)}
	if err := a.describe(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return a, nil
}

// Close closes the connections.
func (a *Legacy) Close() error { return a.store.Close() }

// After returns the next accounts whose ids are above id, at most n, in the order of their ids.
func (a *Legacy) After(ctx context.Context, id auth.UserID, n int) ([]ImportedUser, error) {
	var rows []struct {
		ID        auth.UserID
		Email     string
		Name      string
		Password  string
		CreatedAt *time.Time
		UpdatedAt *time.Time
	}
	err := a.store.read.NewRaw("SELECT "+a.columns+" FROM ? WHERE id > ? ORDER BY id LIMIT ?", a.table, id, n).Scan(ctx, &rows)
	if err != nil {
		return nil, a.store.fault("read users", err)
	}
	found := make([]ImportedUser, len(rows))
	for i, r := range rows {
		found[i] = ImportedUser{
			ID: r.ID, Email: r.Email, Name: r.Name, Password: r.Password,
			CreatedAt: orZero(r.CreatedAt), UpdatedAt: orZero(r.UpdatedAt),
		}
	}
	return found, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// column is the name and the type of a table's column, as Postgres writes them.
type column struct{ Name, Type string }

// describe reads the columns and counts the accounts.
func (a *Legacy) describe(ctx context.Context) error {
	var columns []column
	err := a.store.read.NewRaw(`SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
		WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped`, quoted(a.table)).Scan(ctx, &columns)
	if err != nil {
		return a.store.fault("look at the table", err)
	}
	if a.columns, err = selection(columns); err != nil {
		return fmt.Errorf("%w from %s: %w", ErrTable, a.table, err)
	}
	var distinct int
	err = a.store.read.NewRaw("SELECT count(*), count(DISTINCT id), COALESCE(max(id) FILTER (WHERE id <= ?), 0) FROM ?",
		MaxUserID, a.table).Scan(ctx, &a.Total, &distinct, &a.MaxID)
	if err != nil {
		return a.store.fault("count users", err)
	}
	if distinct != a.Total {
		return fmt.Errorf("%w from %s: ids are missing or doubled", ErrTable, a.table)
	}
	return nil
}

// quoted returns a table's name as to_regclass reads it.
func quoted(table bun.Ident) string {
	return `"` + strings.ReplaceAll(string(table), ".", `"."`) + `"`
}

// selection returns the select list for a table with the given columns.
func selection(columns []column) (string, error) {
	if columns == nil {
		return "", errors.New("there is no such table")
	}
	if _, ours := find(columns, "email_key"); ours {
		return "", errors.New("it is this service's own table, not its ancestor's")
	}
	id, found := find(columns, "id")
	if !found {
		return "", errors.New("it has no column id")
	}
	if !slices.Contains([]string{"smallint", "integer", "bigint"}, id.Type) {
		return "", fmt.Errorf("its column id is of type %s, but ids are whole numbers here", id.Type)
	}
	email, err := text(columns, "email")
	if err != nil {
		return "", err
	}
	password, err := text(columns, "password", "password_hash", "hashed_password", "passwordHash", "hashedPassword")
	if err != nil {
		return "", err
	}
	name, err := text(columns, "name")
	if err != nil {
		name = "''" // the column is optional
	}
	created, err := moment(columns, "created_at", "createdAt")
	if err != nil {
		return "", err
	}
	updated, err := moment(columns, "updated_at", "updatedAt")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("id, %s AS email, %s AS name, %s AS password, %s AS created_at, %s AS updated_at",
		email, name, password, created, updated), nil
}

// find returns the first of the names that is a column.
func find(columns []column, names ...string) (column, bool) {
	for _, name := range names {
		for _, c := range columns {
			if c.Name == name {
				return c, true
			}
		}
	}
	return column{}, false
}

// text returns an expression that reads a column as text, with "" for NULL. The name in the expression
// is one of names, which this package chooses.
func text(columns []column, names ...string) (string, error) {
	c, found := find(columns, names...)
	if !found {
		return "", fmt.Errorf("it has no column %s", strings.Join(names, " or "))
	}
	return fmt.Sprintf("COALESCE(%q::text, '')", c.Name), nil
}

// moment returns an expression that reads a column of times. Times without a zone are UTC, as the
// predecessor wrote them. Infinite times and times before year 1 or after year 9999 become NULL.
func moment(columns []column, names ...string) (string, error) {
	c, found := find(columns, names...)
	value := fmt.Sprintf("%q", c.Name)
	switch {
	case !found:
		return "NULL::timestamptz", nil
	case c.Type == "timestamp without time zone":
		value += " AT TIME ZONE 'UTC'"
	case c.Type != "timestamp with time zone":
		return "", fmt.Errorf("its column %s is of type %s, not timestamp", c.Name, c.Type)
	}
	return fmt.Sprintf("CASE WHEN %[1]s >= '0001-01-02Z' AND %[1]s < '9999-12-31Z' THEN %[1]s END", value), nil
}
