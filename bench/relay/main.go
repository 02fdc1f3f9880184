// Command relay measures how fast events leave the outbox: a backlog in events a second, on
// the embedded server, which syncs every event to disk, and on one that leaves that to the
// system; and the time from a commit to the receiver at 200 changes a second. Everything
// runs in this process, over SQLite and sockets on loopback: go run ./bench/relay
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

func main() {
	backlog := flag.Int("events", 50_000, "events of the backlog")
	seconds := flag.Int("seconds", 10, "how long changes come at 200 a second")
	flag.Parse()
	if err := run(context.Background(), *backlog, *seconds); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, backlog, seconds int) error {
	dir, err := os.MkdirTemp("", "authd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	synced, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	defer synced.Shutdown()
	conn, err := bus.Connect(synced.URL(), synced.As(embedded.Relay), nats.CustomInboxPrefix("_INBOX_"+embedded.Relay))
	if err != nil {
		return err
	}
	defer conn.Close()
	app, err := bus.Connect(synced.URL())
	if err != nil {
		return err
	}
	defer app.Close()
	if err := one(ctx, "embedded, synced", filepath.Join(dir, "synced"), conn, app, backlog, seconds); err != nil {
		return err
	}

	lazy, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: filepath.Join(dir, "lazy"), NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	lazy.Start()
	defer func() { lazy.Shutdown(); lazy.WaitForShutdown() }()
	if !lazy.ReadyForConnections(10 * time.Second) {
		return errors.New("the other server does not start")
	}
	other, err := bus.Connect(lazy.ClientURL())
	if err != nil {
		return err
	}
	defer other.Close()
	return one(ctx, "without sync", filepath.Join(dir, "other"), other, other, backlog, seconds)
}

// one measures on one server: it publishes over conn, and hears over app.
func one(ctx context.Context, name, dir string, conn, app *nats.Conn, backlog, seconds int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	store, err := persistence.Open(ctx, "sqlite://"+filepath.Join(dir, "auth.db"))
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := migrations.Up(ctx, store.DB()); err != nil {
		return err
	}
	for n := 0; n < backlog; n += 500 {
		batch := make([]events.Data, 500)
		for i := range batch {
			batch[i] = events.UserRegistered{UserID: auth.UserID(n + i + 1), Email: "somebody@example.com", Name: "Somebody", CreatedAt: time.Now().UTC()}
		}
		if err := emit(ctx, store, batch...); err != nil {
			return err
		}
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	relay := &events.Relay{Outbox: store, JS: js, Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- relay.Run(ctx) }()
	defer func() { stop(); <-ended }()
	for {
		b, err := store.Backlog(ctx)
		if err != nil {
			return err
		}
		if b.Events == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	fmt.Printf("%-17s backlog of %d: %s, %.0f events/s\n", name, backlog, took.Round(time.Millisecond), float64(backlog)/took.Seconds())
	return latency(ctx, name, store, app, seconds)
}

// latency measures from each commit to its receiver.
func latency(ctx context.Context, name string, store *persistence.Store, app *nats.Conn, seconds int) error {
	sub, err := app.SubscribeSync(events.UserDeleted{}.Type())
	if err != nil {
		return err
	}
	if err := app.Flush(); err != nil {
		return err
	}
	const rate = 200
	committed := make([]time.Time, rate*seconds)
	failed := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for i := range committed {
			<-tick.C
			err := emit(ctx, store, events.UserDeleted{UserID: auth.UserID(i), DeletedAt: time.Now().UTC()})
			committed[i] = time.Now()
			if err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	arrived := make([]time.Time, len(committed))
	for range arrived {
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(m.Header.Get("ce-subject"))
		if err != nil {
			return err
		}
		arrived[i] = time.Now()
	}
	if err := <-failed; err != nil {
		return err
	}
	took := make([]time.Duration, len(arrived))
	for i := range arrived {
		took[i] = max(0, arrived[i].Sub(committed[i])) // it may arrive before the committer runs again
	}
	slices.Sort(took)
	fmt.Printf("%-17s commit to receiver at %d/s: p50 %s, p99 %s, max %s\n", name, rate,
		took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
	return nil
}

func emit(ctx context.Context, store *persistence.Store, data ...events.Data) error {
	return store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error { return tx.Emit(ctx, time.Now().UTC(), data...) })
}
