package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// migrateCommand is "authd migrate".
type migrateCommand struct {
	Up     migrateUp     `cmd:"" default:"1" help:"Apply what is missing. This is what migrate does when nothing else is said."`
	Down   migrateDown   `cmd:"" help:"Undo what the last \"up\" applied. Tables are dropped with all they hold."`
	Status migrateStatus `cmd:"" help:"Show what is applied. Exits with 1 if something is missing."`
}

type (
	migrateUp     struct{ databaseSettings }
	migrateStatus struct{ databaseSettings }
	migrateDown   struct {
		databaseSettings
		Yes bool `help:"Do not ask."`
	}
)

func (m migrateUp) Run(ctx context.Context, out io.Writer) error {
	return m.withDatabase(ctx, func(db *bun.DB) error {
		done, err := migrations.Up(ctx, db)
		for _, step := range done {
			fmt.Fprintln(out, "applied", step)
		}
		if err == nil && len(done) == 0 {
			fmt.Fprintln(out, "nothing to do: the schema is up to date")
		}
		if err != nil {
			return err
		}
		list, err := migrations.Refold(ctx, db)
		if err != nil {
			return err
		}
		printCollisions(out, list)
		return nil
	})
}

func (m migrateDown) Run(ctx context.Context, out io.Writer) error {
	if !m.Yes && !confirmed(out, "This drops tables with all they hold. Go on? [y/N] ") {
		return errors.New("not done; --yes does not ask")
	}
	return m.withDatabase(ctx, func(db *bun.DB) error {
		undone, err := migrations.Down(ctx, db)
		for _, step := range undone {
			fmt.Fprintln(out, "undone", step)
		}
		if err == nil && len(undone) == 0 {
			fmt.Fprintln(out, "nothing to do: no migration is applied")
		}
		return err
	})
}

func (m migrateStatus) Run(ctx context.Context, out io.Writer) error {
	return m.withDatabase(ctx, func(db *bun.DB) error {
		steps, err := migrations.Status(ctx, db)
		if err != nil {
			return err
		}
		for _, s := range steps {
			fmt.Fprintf(out, "%-24s %s\n", s.Name, state(s))
		}
		return migrations.Check(ctx, db)
	})
}

// printCollisions lists the accounts that no login finds, since another account has their address.
func printCollisions(out io.Writer, list []migrations.Collision) {
	for _, c := range list {
		fmt.Fprintf(out, "account %d has the same address as account %d, but for letter case: no login finds it until account %[2]d has another address or is deleted, and \"authd migrate up\" runs again\n", c.UserID, c.Holder)
	}
}

// collisionsShown is the maximum number of collisions that a line of the log or of the doctor names.
const collisionsShown = 20

// collisionIDs returns the ids of the accounts of collisions, each with the id of the account that has
// its address. It lists collisionsShown accounts and the number of the others.
func collisionIDs(list []migrations.Collision) string {
	var pairs []string
	for _, c := range list[:min(len(list), collisionsShown)] {
		pairs = append(pairs, fmt.Sprintf("%d (address of %d)", c.UserID, c.Holder))
	}
	if more := len(list) - len(pairs); more > 0 {
		pairs = append(pairs, fmt.Sprintf("%d more", more))
	}
	return strings.Join(pairs, ", ")
}

func state(s migrations.Step) string {
	switch {
	case s.AppliedAt.IsZero():
		return "missing"
	case !s.Known:
		return "applied by a newer version"
	}
	return "applied " + s.AppliedAt.Format(time.RFC3339)
}

// confirmed prints a question, and reports whether the answer on standard input is y or yes.
func confirmed(out io.Writer, question string) bool {
	fmt.Fprint(out, question)
	var answer string
	fmt.Fscanln(os.Stdin, &answer) // no answer is no
	return answer == "y" || answer == "yes"
}

// withDatabase runs fn on the database of the settings. On SQLite, it returns an error if another authd
// uses the directory or the file.
func (s databaseSettings) withDatabase(ctx context.Context, fn func(*bun.DB) error) (err error) {
	url, err := s.url()
	if err != nil {
		return err
	}
	if !isPostgres(url) {
		dir, err := openDataDir(s.DataDir)
		if err != nil {
			return err
		}
		defer dir.close()
		lock, err := lockDatabase(strings.TrimPrefix(url, "sqlite://"))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	store, err := openStore(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return fn(store.DB())
}

// openStore connects to the database. Its errors name the setting DATABASE_URL.
func openStore(ctx context.Context, url string) (*persistence.Store, error) {
	store, err := persistence.Open(ctx, url)
	if errors.Is(err, persistence.ErrURL) {
		return nil, wrongDatabaseURL
	}
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	return store, nil
}
