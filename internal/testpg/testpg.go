// Package testpg gives tests a real Postgres, whatever the machine has.
//
// URL is all most tests need: a fresh, empty database. Its server comes from the first of
//
//   - the environment: TEST_POSTGRES_URL, which cmd/withpg sets so that one server serves
//     the tests of all packages,
//   - programs in PATH, /usr/lib/postgresql or where pg_config says,
//   - apt-get, when root on Debian,
//   - Docker.
//
// Where there is none of them the test fails and says why; it never skips. A server
// started here ends with the process that started it, however that one ends, so a package
// needs no TestMain. Tests that stop and restart a server have their own by Start.
//
// It runs on Unix systems only and must not be used outside of tests.
package testpg

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Env names the variable that holds the URL of a server to use.
const Env = "TEST_POSTGRES_URL"

// shared is the process's one server. It stays referenced until the process ends, as the
// server would end with the pipe that a forgotten Server holds.
var shared = sync.OnceValues(func() (*Server, error) { return Find(context.Background()) })

// Find returns the server the environment names, or starts one.
func Find(ctx context.Context) (*Server, error) {
	if u := os.Getenv(Env); u != "" {
		return &Server{URL: u}, nil
	}
	return Start(ctx, Config{})
}

// URL returns the URL of a new, empty database, which is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatalf("%s: %v", Env, err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	// template0: unlike the default it has no connections, which would be in the way.
	if err := execute(s.URL, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := execute(s.URL, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

func execute(url, statement string) error {
	// Long, since the machine may be busy with every other package's tests.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	if _, err := db.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
