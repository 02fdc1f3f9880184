package migrations

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/internal/testpg"
)

func TestTablesOfAnotherProgramAreLeftAlone(t *testing.T) {
	for name, statement := range map[string]string{
		"users":             "CREATE TABLE users (id INTEGER PRIMARY KEY, login TEXT)",
		"the ancestor's":    "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, email_key TEXT, password TEXT)",
		"schema_migrations": "CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY, dirty BOOLEAN)",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, db *bun.DB) {
				execute(t, db, statement)
				before := tables(t, db)
				if done, err := Up(t.Context(), db); !errors.Is(err, ErrForeign) || len(done) > 0 {
					t.Errorf("Up: %v, %v", done, err)
				}
				if err := Check(t.Context(), db); !errors.Is(err, ErrForeign) {
					t.Errorf("Check: %v", err)
				}
				if after := tables(t, db); !slices.Equal(after, before) {
					t.Errorf("tables %v, before %v", after, before)
				}
			})
		})
	}
}

func TestRoleWithoutCreateIsToldAndLeavesNothing(t *testing.T) {
	t.Parallel()
	address := testpg.URL(t)
	owner := open(t, address)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	role := "authd_" + strings.TrimPrefix(u.Path, "/")
	execute(t, owner, "CREATE ROLE "+role+" LOGIN")
	execute(t, owner, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	t.Cleanup(func() {
		if _, err := owner.ExecContext(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	u.User = url.User(role)
	poor := open(t, u.String())
	if _, err := Up(t.Context(), poor); !errors.Is(err, ErrRights) || !strings.Contains(err.Error(), "GRANT CREATE ON SCHEMA public TO "+role) {
		t.Errorf("Up: %v", err)
	}
	if fresh, err := isFresh(t.Context(), owner); err != nil || !fresh {
		t.Errorf("something was made: %v", err)
	}
	execute(t, owner, "ALTER ROLE "+role+" SET search_path = missing")
	if _, err := Up(t.Context(), open(t, u.String())); !errors.Is(err, ErrRights) || !strings.Contains(err.Error(), "search_path") {
		t.Errorf("Up without a schema: %v", err)
	}
}
