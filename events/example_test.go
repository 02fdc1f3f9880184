package events_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
	_ "modernc.org/sqlite"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
)

// A receiver may be told the same thing twice. This one keeps the ids of what it has done in
// the transaction that does it, and passes over those it knows.
func ExampleSubscribe() {
	ctx, stop := context.WithCancel(context.Background())
	bus, end := exampleBus()
	defer end()

	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // in memory, each connection has a database of its own
	if _, err := db.Exec(`CREATE TABLE seen (id TEXT PRIMARY KEY); CREATE TABLE newsletter (user_id INTEGER, email TEXT)`); err != nil {
		log.Fatal(err)
	}

	enlist := func(ctx context.Context, e events.Event, d events.UserRegistered) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err // and the event comes again
		}
		defer tx.Rollback()
		result, err := tx.ExecContext(ctx, `INSERT INTO seen (id) VALUES (?) ON CONFLICT DO NOTHING`, e.ID)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // done before
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO newsletter VALUES (?, ?)`, d.UserID, d.Email); err != nil {
			return err
		}
		fmt.Println("enlisted", d.Email)
		return tx.Commit()
	}
	deleted := func(context.Context, events.Event, events.UserDeleted) error {
		stop()
		return nil
	}

	conn, err := nats.Connect(bus.URL(), bus.As(embedded.Subscriber)) // elsewhere: nats.NkeyOptionFromSeed("subscriber.nk"), nats.CustomInboxPrefix("_INBOX_subscriber")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	s, err := events.Subscribe(ctx, conn, events.Consumer{Name: "newsletter"}, events.On(enlist), events.On(deleted))
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: enlisted ada@example.com
}

// exampleBus is a bus on which somebody registered and was deleted.
func exampleBus() (*embedded.Server, func()) {
	dir, err := os.MkdirTemp("", "events")
	if err != nil {
		log.Fatal(err)
	}
	s, stop, err := publishing(dir, "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	s.outbox.emit(events.UserRegistered{UserID: 1, Email: "ada@example.com"}, events.UserDeleted{UserID: 1})
	return s.Server, func() { stop(); os.RemoveAll(dir) }
}
