package persistence_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// administer runs statements one after the other on a connection of their own, which may write
// whatever the server's defaults are.
func administer(t *testing.T, databaseURL string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL+"&options="+startOptions("default_transaction_read_only=off"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// startOptions writes settings for the URL's member options.
func startOptions(settings ...string) string {
	escape := strings.NewReplacer(" ", "%20", "=", "%3D")
	return escape.Replace("-c " + strings.Join(settings, " -c "))
}

// backends opens n connections of the pool at once and returns the processes of Postgres that
// serve them.
func backends(t *testing.T, s *persistence.Store, n int) map[int]bool {
	t.Helper()
	pids := map[int]bool{}
	for range n {
		conn, err := s.DB().Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var pid int
		if err := conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids[pid] = true
	}
	return pids
}

// A server that stops taking changes is what remains of the former primary after a failover.
func TestServerThatTakesNoChangesIsUnavailableAndLeftAtOnce(t *testing.T) {
	t.Parallel()
	server, err := testpg.Start(t.Context(), testpg.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := open(t, server.URL)
	newUser(t, s, "b")
	former := backends(t, s, 5)

	readOnly := func(value string) {
		administer(t, server.URL, "ALTER SYSTEM SET default_transaction_read_only = "+value, "SELECT pg_reload_conf()")
		for now := ""; now != value; { // the server tells its sessions a moment later
			if err := s.DB().QueryRowContext(t.Context(), "SHOW default_transaction_read_only").Scan(&now); err != nil {
				break // it takes no connection of ours any more
			}
		}
	}
	readOnly("on")
	// Reads go on until a write finds out; then no connection is made any more.
	if _, err := s.CreateUser(t.Context(), persistence.NewUser{EmailKey: "a", At: now}); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("first write: %v", err)
	}
	for name, err := range ask(t.Context(), s) {
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := persistence.Open(t.Context(), server.URL); !errors.Is(err, persistence.ErrReadOnly) {
		t.Errorf("open: %v", err)
	}
	looked, err := persistence.Inspect(t.Context(), server.URL)
	if err != nil {
		t.Errorf("inspect: %v", err)
	} else if err := looked.Close(); err != nil {
		t.Error(err)
	}
	for _, any := range []string{server.URL + "&target_session_attrs=any", server.URL + "&target_session_attrs=read-only"} {
		if s, err := persistence.Open(t.Context(), any); err != nil {
			t.Errorf("%s: %v", any, err)
		} else if err := s.Close(); err != nil {
			t.Error(err)
		}
	}

	readOnly("off")
	newUser(t, s, "c")
	for pid := range backends(t, s, 5) {
		if former[pid] {
			t.Errorf("connection %d is from before", pid)
		}
	}
}

// The name closes its literal where backslashes escape, and then sets the address too.
const escaping = `\', email = 'stolen' WHERE true --`

func TestQuotingDoesNotDependOnTheDatabasesSettings(t *testing.T) {
	t.Parallel()
	databaseURL := testpg.URL(t)
	first := open(t, databaseURL)
	administer(t, databaseURL, `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database());
		EXECUTE format('ALTER DATABASE %I SET client_encoding = ''SJIS''', current_database());
		EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database());
		EXECUTE format('ALTER DATABASE %I SET datestyle = ''SQL, DMY''', current_database());
		EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database());
	END $$`)
	newUser(t, first, "victim")
	for name, more := range map[string]string{
		"database": "",
		"URL":      "&Standard_Conforming_Strings=off&client_encoding=SJIS",
		"options":  "&options=" + startOptions("standard_conforming_strings=off", "client_encoding=SJIS"),
	} {
		s := open(t, databaseURL+more)
		rename(t, s, newUser(t, s, name))
		if err := s.CreateSigningKey(t.Context(), persistence.SigningKey{ID: name, Public: []byte{0xff, '\\'}, Sealed: []byte{}, CreatedAt: now, ActiveFrom: now}); err != nil {
			t.Error(err)
		}
		keys, err := s.SigningKeys(t.Context())
		if err != nil || string(keys[0].Public) != "\xff\\" || keys[0].CreatedAt != now {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
		var level string
		if err := s.DB().QueryRowContext(t.Context(), "SHOW transaction_isolation").Scan(&level); err != nil || level != "read committed" {
			t.Errorf("%s: isolation %q, %v", name, level, err)
		}
	}
}

func TestConnectionWhoseQuotingChangedIsDiscarded(t *testing.T) {
	t.Parallel()
	s := open(t, testdb.Postgres(t))
	newUser(t, s, "victim")
	id := newUser(t, s, "a")
	for _, setting := range []string{"standard_conforming_strings = off", "client_encoding = 'SJIS'"} {
		execute(t, s, "SET "+setting)
		rename(t, s, id)
	}
}

// rename gives the account a name that escapes and wants nothing but that to change.
func rename(t *testing.T, s *persistence.Store, id auth.UserID) {
	t.Helper()
	name := escaping
	for range 3 { // whichever connection it is
		if _, err := s.UpdateUser(t.Context(), id, persistence.Change{Name: &name}, now); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := s.Account(t.Context(), id); err != nil || a.Name != escaping {
		t.Errorf("stored %q, %v", a.Name, err)
	}
	var stolen int
	if err := s.DB().QueryRowContext(t.Context(), "SELECT count(*) FROM users WHERE email = 'stolen'").Scan(&stolen); err != nil || stolen != 0 {
		t.Errorf("%d users changed, %v", stolen, err)
	}
}
