package persistence_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// now has six decimals, which a database that cuts would lose.
var now = time.Date(2026, time.March, 1, 12, 0, 0, 123456000, time.UTC)

// each runs f on an empty store of every supported database.
func each(t *testing.T, f func(t *testing.T, s *persistence.Store)) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"sqlite": testdb.SQLite, "postgres": testdb.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, url(t)))
		})
	}
}

// open opens the database with its schema.
func open(t testing.TB, url string) *persistence.Store {
	t.Helper()
	s, err := persistence.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := migrations.Up(t.Context(), s.DB()); err != nil {
		t.Fatal(err)
	}
	return s
}

func newUser(t testing.TB, s *persistence.Store, key string) auth.UserID {
	t.Helper()
	id, err := s.CreateUser(t.Context(), persistence.NewUser{Email: key, EmailKey: key, Password: "stored", At: now})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newSession stores a live session of a new user, named after both.
func newSession(t testing.TB, s *persistence.Store, id string) persistence.Session {
	t.Helper()
	n := persistence.Session{
		ID: id, UserID: newUser(t, s, id+"@example.com"), Generation: 1, AMR: []string{"pwd", "otp"},
		CreatedAt: now, Created: auth.ClientInfo{IP: "192.0.2.1", UserAgent: "curl"},
		UsedAt: now, Used: auth.ClientInfo{IP: "192.0.2.1", UserAgent: "curl"},
		ExpiresAt: now.Add(time.Hour), DeadlineAt: now.Add(24 * time.Hour),
	}
	if err := s.CreateSession(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

func execute(t *testing.T, s *persistence.Store, statement string, args ...any) {
	t.Helper()
	if _, err := s.DB().ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func users(t *testing.T, s *persistence.Store) int {
	t.Helper()
	n, err := s.DB().NewSelect().Table("users").Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// atOnce runs f n times at once and returns what they return.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func TestOpenRefusesWithoutTellingThePassword(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"nobody listens":    "postgres://ada:hunter2@127.0.0.1:1/auth",
		"no port":           "postgres://ada:hunter2@127.0.0.1:port/auth",
		"not a URL":         "postgresql://ada:hunter2@%zz/auth",
		"unknown option":    "postgres://ada:hunter2@127.0.0.1:1/auth?sslmode=hunter2",
		"other database":    "mysql://ada:hunter2@127.0.0.1/auth",
		"no scheme":         "ada:hunter2@127.0.0.1/auth",
		"nothing":           "",
		"SQLite, no path":   "sqlite://",
		"SQLite, no folder": "sqlite://" + filepath.Join(t.TempDir(), "missing", "auth.db"),
		"SQLite, a folder":  "sqlite://" + t.TempDir(),
	} {
		s, err := persistence.Open(t.Context(), url)
		if err == nil {
			t.Errorf("%s: opened", name)
			s.Close()
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestOpenRefusesADatabaseThatIsNotThere(t *testing.T) {
	t.Parallel()
	s, err := persistence.Open(t.Context(), strings.Replace(testpg.URL(t), "/test_", "/missing_", 1))
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
}

func TestTxCommitsTogether(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var id auth.UserID
		err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) (err error) {
			if id, err = tx.CreateUser(ctx, persistence.NewUser{EmailKey: "a", At: now}); err != nil {
				return err
			}
			if _, err := tx.Account(ctx, id); err != nil {
				t.Errorf("inside: %v", err)
			}
			if _, err := s.Account(ctx, id); !errors.Is(err, auth.ErrNotFound) {
				t.Errorf("outside, before the end: %v", err)
			}
			return tx.CreateSession(ctx, persistence.Session{ID: "s", UserID: id, CreatedAt: now, UsedAt: now, ExpiresAt: now, DeadlineAt: now})
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Account(t.Context(), id); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		if _, err := s.Session(t.Context(), "s"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestTxRollsBackOnError(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		broken := errors.New("broken")
		for _, want := range []error{broken, auth.ErrConflict} {
			err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
				if _, err := tx.CreateUser(ctx, persistence.NewUser{EmailKey: "a", At: now}); err != nil {
					t.Error(err)
				}
				return want
			})
			if !errors.Is(err, want) || users(t, s) != 0 {
				t.Errorf("Tx = %v, %d users", err, users(t, s))
			}
		}
	})
}

func TestTxRollsBackOnPanic(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		func() {
			defer func() {
				if recover() != "broken" {
					t.Error("the panic did not come through")
				}
			}()
			err := s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
				if _, err := tx.CreateUser(ctx, persistence.NewUser{EmailKey: "a", At: now}); err != nil {
					t.Error(err)
				}
				panic("broken")
			})
			t.Errorf("Tx returned %v", err)
		}()
		if n := users(t, s); n != 0 {
			t.Errorf("%d users", n)
		}
		newUser(t, s, "a") // and the connection is free again
	})
}

func TestTxRollsBackWhenItsContextEnds(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
			_, err := tx.CreateUser(ctx, persistence.NewUser{EmailKey: "a", At: now})
			cancel()
			return err
		})
		if !errors.Is(err, auth.ErrUnavailable) || users(t, s) != 0 {
			t.Errorf("Tx = %v, %d users", err, users(t, s))
		}
	})
}

func TestLockLetsOneInAtATime(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		var inside atomic.Int32
		errs := atOnce(8, func(int) error {
			return s.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
				if err := tx.Lock(ctx, "one"); err != nil {
					return err
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d inside", n)
				}
				defer inside.Add(-1)
				return tx.Ping(ctx) // time for another to come in
			})
		})
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
	})
}

// ask asks everything there is to ask.
func ask(ctx context.Context, s *persistence.Store) map[string]error {
	errs := map[string]error{"Ping": s.Ping(ctx), "Writable": s.Writable(ctx)}
	_, errs["CreateUser"] = s.CreateUser(ctx, persistence.NewUser{EmailKey: "a", At: now})
	_, errs["Account"] = s.Account(ctx, 1)
	_, errs["Credentials"] = s.Credentials(ctx, "a")
	_, errs["ReplacePassword"] = s.ReplacePassword(ctx, 1, "a", "b")
	_, errs["Session"] = s.Session(ctx, "s")
	_, errs["AdvanceSession"] = s.AdvanceSession(ctx, persistence.Step{SessionID: "s", At: now, ExpiresAt: now})
	_, errs["EndSession"] = s.EndSession(ctx, "s", auth.ReasonLogout, now)
	_, errs["SigningKeys"] = s.SigningKeys(ctx)
	errs["ActivateSigningKey"] = s.ActivateSigningKey(ctx, "k", now)
	errs["ResealSigningKey"] = s.ResealSigningKey(ctx, "k", nil)
	errs["RetireSigningKey"] = s.RetireSigningKey(ctx, "k", now)
	errs["DeleteSigningKey"] = s.DeleteSigningKey(ctx, "k")
	_, errs["Peppers"] = s.Peppers(ctx)
	errs["KeepPepper"] = s.KeepPepper(ctx, persistence.Pepper{ID: "p", Sealed: []byte{}, CreatedAt: now})
	errs["Tx"] = s.Tx(ctx, func(context.Context, *persistence.Store) error { return nil })
	return errs
}

func TestEndedContextIsUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for name, err := range ask(ctx, s) {
			if !errors.Is(err, auth.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestSigningKeysComeBackNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, s *persistence.Store) {
		for i, id := range []string{"b", "c", "a"} {
			key := persistence.SigningKey{
				ID: id, Public: []byte{0, byte(i), 0xff, '\''}, Sealed: []byte{byte(i), 0, '\\', '?'},
				CreatedAt: now, ActiveFrom: now.Add(time.Duration(i%2) * time.Microsecond),
			}
			if err := s.CreateSigningKey(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := s.SigningKeys(t.Context())
		if err != nil || len(keys) != 3 {
			t.Fatal(keys, err)
		}
		if keys[0].ID != "c" || keys[1].ID != "a" || keys[2].ID != "b" {
			t.Errorf("order: %s %s %s", keys[0].ID, keys[1].ID, keys[2].ID)
		}
		c := keys[0]
		if !bytes.Equal(c.Public, []byte{0, 1, 0xff, '\''}) || !bytes.Equal(c.Sealed, []byte{1, 0, '\\', '?'}) ||
			c.CreatedAt != now || c.ActiveFrom != now.Add(time.Microsecond) {
			t.Errorf("%+v", c)
		}
	})
}
