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

// Legacy reads the table of users of the service that this one follows, in Postgres. It
// writes nothing there.
type Legacy struct {
	Total int         // accounts that were there when it was opened
	MaxID auth.UserID // the highest of their ids that JSON keeps exactly

	store   *Store
	table   bun.Ident
	columns string // what is selected
}

// ImportedUser is an account as another service keeps it. Nothing in it is checked.
type ImportedUser struct {
	ID        auth.UserID
	Email     string
	Name      string
	Password  string
	CreatedAt time.Time // zero if it is not known
	UpdatedAt time.Time // zero if it is not known
}

// MaxUserID is the highest id that every reader of JSON keeps exactly (RFC 8259 §6).
const MaxUserID auth.UserID = 1<<53 - 1

// ErrTable means that a table is not one that users can be read from.
var ErrTable = errors.New("cannot read users")

// tableName is a name, with a schema before it or not.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$`)

// OpenLegacy connects to the database of the URL and finds out how the table is made. It
// returns ErrURL, or ErrTable saying what is wrong with the table. Close must be called in
// the end.
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

// After returns the next accounts, at most n of them, whose ids are above the given one, in
// the order of their ids.
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

// column is one of a table: its name and its type, as Postgres writes them.
type column struct{ Name, Type string }

// describe finds the columns and counts the accounts.
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

// quoted is a table's name as to_regclass reads it.
func quoted(table bun.Ident) string {
	return `"` + strings.ReplaceAll(string(table), ".", `"."`) + `"`
}

// selection writes what is to be selected from the columns of a table.
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
		name = "''" // not everybody keeps names
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

// text reads a column, without NULLs. The column's name is one of ours, not the table's.
func text(columns []column, names ...string) (string, error) {
	c, found := find(columns, names...)
	if !found {
		return "", fmt.Errorf("it has no column %s", strings.Join(names, " or "))
	}
	return fmt.Sprintf("COALESCE(%q::text, '')", c.Name), nil
}

// moment reads a column of times. Those without a zone are UTC, as the ancestor wrote them;
// infinite ones and those whose year is not of four digits are none.
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
