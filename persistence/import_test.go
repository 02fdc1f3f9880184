package persistence_test

import (
	"errors"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

func imported(id auth.UserID, key string) persistence.ImportRow {
	return persistence.ImportRow{
		ID: id, Email: key, EmailKey: key, Password: "stored", Name: "?'\"\\ $1 " + key,
		CreatedAt: now.Add(-time.Hour), UpdatedAt: now,
	}
}

func importUsers(t *testing.T, s *persistence.Store, users ...persistence.ImportRow) map[string]auth.UserID {
	t.Helper()
	ids, err := s.ImportUsers(t.Context(), users)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestImportUsersKeepsWhatTheyBring(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		if err := s.ReserveIDs(t.Context(), 41); err != nil {
			t.Fatal(err)
		}
		ids := importUsers(t, s, imported(7, "a"), imported(0, "b"), imported(41, "c"), imported(0, "d"))
		if want := map[string]auth.UserID{"a": 7, "b": 42, "c": 41, "d": 43}; !maps.Equal(ids, want) {
			t.Errorf("ids %v, want %v", ids, want)
		}
		got, err := s.Account(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		want := auth.Account{UserID: 7, Email: "a", Name: "?'\"\\ $1 a", CreatedAt: now.Add(-time.Hour), UpdatedAt: now}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if c, err := s.Credentials(t.Context(), "d"); err != nil || c != (persistence.Credentials{UserID: 43, Password: "stored"}) {
			t.Errorf("credentials %+v, %v", c, err)
		}
	})
}

func TestImportUsersLeavesOutWhatIsTaken(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		id := newUser(t, s, "taken")
		ids := importUsers(t, s, imported(id, "a"), imported(8, "taken"), imported(0, "taken"), imported(9, "b"), imported(9, "c"), imported(10, "b"))
		if want := map[string]auth.UserID{"b": 9}; !maps.Equal(ids, want) {
			t.Errorf("ids %v, want %v", ids, want)
		}
		if n := users(t, s); n != 2 {
			t.Errorf("%d users", n)
		}
	})
}

func TestHolders(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		importUsers(t, s, imported(1, "a"), imported(2, "b"), imported(3, "c"))
		for _, tt := range []struct {
			ids  []auth.UserID
			keys []string
			want int
		}{
			{nil, nil, 0}, {[]auth.UserID{1, 9}, nil, 1}, {nil, []string{"b", "x", ""}, 1},
			{[]auth.UserID{1}, []string{"a"}, 1}, {[]auth.UserID{1, 2}, []string{"c"}, 3},
		} {
			found, err := s.UserKeys(t.Context(), tt.ids, tt.keys)
			if err != nil || len(found) != tt.want {
				t.Errorf("Holders(%v, %v) = %v, %v", tt.ids, tt.keys, found, err)
			}
		}
	})
}

func TestNewUsersGetIDsAboveReservedOnes(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for _, step := range []struct{ reserve, next auth.UserID }{{0, 1}, {1, 2}, {100, 101}, {50, 102}, {102, 103}, {1 << 40, 1<<40 + 1}} {
			if err := s.ReserveIDs(t.Context(), step.reserve); err != nil {
				t.Fatal(err)
			}
			if id := newUser(t, s, time.Duration(step.next).String()); id != step.next {
				t.Errorf("after %d: %d, want %d", step.reserve, id, step.next)
			}
		}
	})
}

// On SQLite the highest id that was ever stored counts by itself.
func TestSQLiteGivesIDsAboveImportedOnes(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.SQLite(t))
	importUsers(t, s, imported(500, "a"))
	execute(t, s, "DELETE FROM users")
	if id := newUser(t, s, "b"); id != 501 {
		t.Errorf("the next one is %d", id)
	}
}

// An id that is given out while ids are reserved is not given out again.
func TestReservingDoesNotTakeIDsBack(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var name atomic.Int64
		errs := atOnce(8, func(i int) error {
			for range 25 {
				n := name.Add(1)
				if i < 2 {
					if err := s.ReserveIDs(t.Context(), auth.UserID(n)); err != nil {
						return err
					}
				}
				key := time.Duration(n).String()
				if _, err := s.CreateUser(t.Context(), persistence.NewUser{EmailKey: key, At: now}); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if n := users(t, s); n != 200 {
			t.Errorf("%d users", n)
		}
	})
}
