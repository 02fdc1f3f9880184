package persistence_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// foreign is a database that belongs to another service.
func foreign(t *testing.T, statements ...string) (url string) {
	t.Helper()
	url = testpg.URL(t)
	s, err := persistence.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range statements {
		execute(t, s, statement)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return url
}

// all reads a table in pages of n.
func all(t *testing.T, url, table string, n int) (rows []persistence.ImportedUser, total int, maxID auth.UserID) {
	t.Helper()
	a, err := persistence.OpenLegacy(t.Context(), url, table)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	last := auth.UserID(math.MinInt64)
	for {
		page, err := a.After(t.Context(), last, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return rows, a.Total, a.MaxID
		}
		rows = append(rows, page...)
		last = page[len(page)-1].ID
	}
}

func TestAncestorReadsEveryShape(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, time.May, 6, 7, 8, 9, 123456000, time.UTC)
	row := persistence.ImportedUser{ID: 7, Email: "Ada@Example.com", Name: "Ada", Password: "$2b$", CreatedAt: at, UpdatedAt: at.Add(time.Hour)}
	bare := persistence.ImportedUser{ID: 7, Email: "Ada@Example.com", Password: "$2b$"}
	const times = "'2024-05-06 07:08:09.123456', '2024-05-06 08:08:09.123456'"
	for name, tt := range map[string]struct {
		create, values string
		want           persistence.ImportedUser
	}{
		"drizzle's default": {
			"id serial PRIMARY KEY, email varchar(255) NOT NULL UNIQUE, name text, password text NOT NULL, created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now()",
			"7, 'Ada@Example.com', 'Ada', '$2b$', " + times, row,
		},
		"camel case, another order": {
			`"createdAt" timestamptz, "updatedAt" timestamptz(6), "passwordHash" varchar(60), name varchar, email text, id bigint`,
			"'2024-05-06 09:08:09.123456+02', '2024-05-06 08:08:09.123456Z', '$2b$', 'Ada', 'Ada@Example.com', 7", row,
		},
		"no name and no times": {"id smallint, email text, password_hash char(4)", "7, 'Ada@Example.com', '$2b$'", bare},
		"hashed_password":      {"id int, email text, hashed_password text, role text", "7, 'Ada@Example.com', '$2b$', 'admin'", bare},
		"NULL wherever it can be": {
			"id int, email text, name text, password text, created_at timestamp, updated_at timestamptz",
			"7, NULL, NULL, NULL, NULL, NULL", persistence.ImportedUser{ID: 7},
		},
		"times that are none": {
			"id int, email text, password text, created_at timestamp, updated_at timestamptz",
			"7, 'Ada@Example.com', '$2b$', 'infinity', '0044-03-15 BC'", bare,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := foreign(t, always("timezone = ''Asia/Tokyo''"), "CREATE TABLE users ("+tt.create+")", "INSERT INTO users VALUES ("+tt.values+")")
			rows, total, maxID := all(t, url, "users", 10)
			if !slices.Equal(rows, []persistence.ImportedUser{tt.want}) || total != 1 || maxID != 7 {
				t.Errorf("got %+v, %d, %d\nwant %+v", rows, total, maxID, tt.want)
			}
		})
	}
}

func TestAncestorReadsPageByPage(t *testing.T) {
	t.Parallel()
	url := foreign(t, `CREATE SCHEMA "Old"`, `CREATE TABLE "Old"."Users" (id bigint, email text, password text)`,
		`INSERT INTO "Old"."Users" SELECT n * 3, 'a' || n || '@example.com', '$2b$' FROM generate_series(1, 100) n`,
		`INSERT INTO "Old"."Users" VALUES (-5, 'x', 'y'), (0, 'x', 'y'), (9223372036854775807, 'x', 'y')`,
		`CREATE VIEW seen AS SELECT * FROM "Old"."Users"`)
	for _, table := range []string{"Old.Users", "seen"} {
		rows, total, maxID := all(t, url, table, 7)
		if len(rows) != 103 || total != 103 || maxID != 300 {
			t.Fatalf("%s: %d rows of %d, up to %d", table, len(rows), total, maxID)
		}
		if !slices.IsSortedFunc(rows, func(a, b persistence.ImportedUser) int { return int(a.ID - b.ID) }) && rows[102].ID != math.MaxInt64 {
			t.Errorf("%s: not in order", table)
		}
	}
}

func TestAncestorRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	url := foreign(t,
		"CREATE TABLE no_id (email text, password text)",
		"CREATE TABLE uuids (id uuid, email text, password text)",
		"CREATE TABLE no_email (id int, password text)",
		"CREATE TABLE no_password (id int, email text)",
		"CREATE TABLE text_times (id int, email text, password text, created_at text)",
		"CREATE TABLE ours (id int, email text, password text, email_key text)",
		"CREATE TABLE doubled (id int, email text, password text)", "INSERT INTO doubled VALUES (1, 'a', 'b'), (1, 'c', 'd')",
		"CREATE TABLE without (id int, email text, password text)", "INSERT INTO without VALUES (1, 'a', 'b'), (NULL, 'c', 'd')",
	)
	for table, says := range map[string]string{
		"no_id": "no column id", "uuids": "of type uuid", "no_email": "no column email",
		"no_password": "no column password or password_hash", "text_times": "created_at is of type text",
		"ours": "this service's own", "doubled": "missing or doubled", "without": "missing or doubled",
		"missing": "no such table", "users; DROP TABLE ours": "not the name", `a"b`: "not the name", "": "not the name", "a.b.c": "not the name",
	} {
		a, err := persistence.OpenLegacy(t.Context(), url, table)
		if err == nil {
			a.Close()
		}
		if !errors.Is(err, persistence.ErrTable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", table, err)
		}
	}
}

func TestAncestorIsOnlyRead(t *testing.T) {
	t.Parallel()
	url := foreign(t, "CREATE TABLE users (id int, email text, password text)", "INSERT INTO users VALUES (1, 'a', 'b')",
		always("default_transaction_read_only = on"))
	if rows, _, _ := all(t, url, "users", 10); len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
}

// always makes a setting the one of every later connection to the database.
func always(setting string) string {
	return "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET " + setting + "', current_database()); END $$"
}
