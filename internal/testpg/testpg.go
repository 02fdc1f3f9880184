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
	"errors"
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
	return s.newDatabase(t, "template0") // unlike the default it has no connections, which would be in the way
}

// originals holds the names of the originals that this process knows to be on the server.
var originals = struct {
	sync.Mutex
	there map[string]bool
}{there: map[string]bool{}}

// Copy returns the URL of a new database with the content of an original, which is dropped when the
// test ends. The original is named after what it holds and stays on the server, for all tests that
// ask for it: fill makes it where there is none yet.
func Copy(t testing.TB, original string, fill func(url string) error) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.provide(original, fill); err != nil {
		t.Fatal(err)
	}
	return s.newDatabase(t, original)
}

// provide makes an original unless the server has it. It is filled under another name, so that no test
// copies a part of one.
func (s *Server) provide(original string, fill func(url string) error) error {
	originals.Lock()
	defer originals.Unlock()
	if originals.there[original] {
		return nil
	}
	err := s.create(original, fill)
	originals.there[original] = err == nil
	return err
}

func (s *Server) create(original string, fill func(url string) error) error {
	if there, err := s.has(original); err != nil || there {
		return err
	}
	name := newName()
	if err := s.copy("template0", name); err != nil {
		return err
	}
	filled, err := s.url(name)
	if err == nil {
		err = fill(filled)
	}
	if err == nil {
		err = s.execute("ALTER DATABASE " + name + " RENAME TO " + original)
	}
	if err == nil {
		return nil
	}
	dropped := s.execute("DROP DATABASE " + name + " WITH (FORCE)")
	if there, _ := s.has(original); there {
		return dropped // another process was quicker
	}
	return errors.Join(err, dropped)
}

func (s *Server) has(database string) (there bool, err error) {
	err = s.administer(func(ctx context.Context, db *pgx.Conn) error {
		return db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&there)
	})
	return there, err
}

// copy creates a database from a template. Copying its files takes a fifth of the time of logging
// its pages, which is the default since version 15 and was not there before.
func (s *Server) copy(template, name string) error {
	return s.administer(func(ctx context.Context, db *pgx.Conn) error {
		statement := "CREATE DATABASE " + name + " TEMPLATE " + template
		var version int
		if _, err := fmt.Sscan(db.PgConn().ParameterStatus("server_version"), &version); err == nil && version >= 15 {
			statement += " STRATEGY file_copy"
		}
		return send(ctx, db, statement)
	})
}

func newName() string { return "test_" + strings.ToLower(rand.Text()) }

func (s *Server) url(database string) (string, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return "", fmt.Errorf("%s: %w", Env, err)
	}
	u.Path = "/" + database
	return u.String(), nil
}

// newDatabase returns the URL of a copy of a template, which is dropped when the test ends.
func (s *Server) newDatabase(t testing.TB, template string) string {
	t.Helper()
	name := newName()
	u, err := s.url(name)
	if err == nil {
		err = s.copy(template, name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.execute("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return u
}

func (s *Server) execute(statement string) error {
	return s.administer(func(ctx context.Context, db *pgx.Conn) error { return send(ctx, db, statement) })
}

// send runs a statement and names it in the error.
func send(ctx context.Context, db *pgx.Conn, statement string) error {
	if _, err := db.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// administer calls fn with a connection to the server's own database. The connection is kept for the
// next call: a new one costs Postgres more than most statements.
func (s *Server) administer(fn func(context.Context, *pgx.Conn) error) (err error) {
	s.admin.Lock()
	defer s.admin.Unlock()
	// Long, since the machine may be busy with every other package's tests.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.admin.conn == nil || s.admin.conn.IsClosed() {
		if s.admin.conn, err = pgx.Connect(ctx, s.URL); err != nil {
			return err
		}
	}
	return fn(ctx, s.admin.conn)
}
