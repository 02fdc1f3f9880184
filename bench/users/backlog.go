package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
)

// backlog measures logins and refreshes at a steady rate, alone and while clean-up and the relay
// work on what was left to them, and how long those take.
func (s *service) backlog(ctx context.Context, users int) error {
	left := min(*most, users)
	if err := s.leave(ctx, left); err != nil {
		return err
	}
	alone, err := s.steadily(ctx, users, time.After(20*time.Second))
	if err != nil {
		return err
	}
	done := make(chan time.Time)
	var worked error
	go func() {
		worked = s.work(ctx, left)
		close(done)
	}()
	beside, err := s.steadily(ctx, users, done)
	<-done
	if err := errors.Join(err, worked); err != nil {
		return err
	}
	fmt.Printf("\n%d/s each, alone and beside clean-up and relay:\n", *rate)
	for i, name := range []string{"login", "refresh"} {
		a, b := alone[i], beside[i]
		fmt.Printf("  %-7s  p50 %7s and %7s (%.2f)  p99 %7s and %7s (%.2f)  of %d and %d\n", name,
			at(a, 50).Round(10*time.Microsecond), at(b, 50).Round(10*time.Microsecond), float64(at(b, 50))/float64(at(a, 50)),
			at(a, 99).Round(10*time.Microsecond), at(b, 99).Round(10*time.Microsecond), float64(at(b, 99))/float64(at(a, 99)), len(a), len(b))
	}
	return nil
}

// leave stores sessions that are over, as many events that may be forgotten, and as many that
// nobody has published.
func (s *service) leave(ctx context.Context, rows int) error {
	replace := strings.NewReplacer(":rows", fmt.Sprint(rows), ":now", "timestamptz '"+s.began.Format(time.RFC3339)+"'", ":agent", agents)
	for _, statement := range []string{
		`INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent,
				used_at, used_ip, used_agent, expires_at, deadline_at, carrier, sweep_at)
			SELECT 'over' || lpad(i::text, 32, '0'), i, 1, 'pwd', t, '10.0.0.1', :agent, t, '10.0.0.1', :agent, t, t, 'body', t
			FROM (SELECT i, :now - interval '20 days' + i * interval '1 second' AS t FROM generate_series(1, :rows) AS i) AS o`,
		`INSERT INTO outbox (id, type, subject, time, data)
			SELECT gen_random_uuid(), 'user.updated', i::text, t, '{"userId":' || i || ',"name":"Somebody"}'
			FROM (SELECT i, CASE WHEN i <= :rows THEN :now - interval '8 days' ELSE :now END + i * interval '1 millisecond' AS t
				FROM generate_series(1, 2 * :rows) AS i) AS o`,
		`INSERT INTO outbox_pending (seq) SELECT seq FROM outbox WHERE type = 'user.updated' AND time >= :now`,
	} {
		if _, err := s.stats.db.ExecContext(ctx, replace.Replace(statement)); err != nil {
			return err
		}
	}
	_, err := s.stats.db.ExecContext(ctx, "CHECKPOINT")
	return err
}

// work cleans up and publishes until nothing is left.
func (s *service) work(ctx context.Context, rows int) error {
	var group sync.WaitGroup
	var cleaned, published error
	group.Go(func() {
		began := time.Now()
		cleanup := &handlers.Cleanup{Store: s.store, Log: slog.New(slog.DiscardHandler)}
		var sessions, events int
		sessions, events, cleaned = cleanup.Once(ctx)
		report("clean-up", sessions+events, time.Since(began))
	})
	group.Go(func() {
		began := time.Now()
		published = s.publish(ctx)
		report("relay", rows, time.Since(began))
	})
	group.Wait()
	return errors.Join(cleaned, published)
}

func report(what string, rows int, took time.Duration) {
	fmt.Printf("%s: %d rows in %s, %.0f/s\n", what, rows, took.Round(time.Millisecond), float64(rows)/took.Seconds())
}

// publish runs a relay, with an embedded server as its stream, until nothing waits.
func (s *service) publish(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "authd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	conn, err := bus.Connect(server.URL(), server.As(embedded.Relay), nats.CustomInboxPrefix("_INBOX_"+embedded.Relay))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	relay := &events.Relay{Outbox: s.store, JS: js, Replicas: 1, Log: slog.New(slog.DiscardHandler)}
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	defer func() { stop(); <-ended }()
	for {
		b, err := s.store.Backlog(ctx)
		if err != nil || b.Events < *rate { // that many a second come meanwhile
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// steadily logs in and refreshes at the rate until something comes from done, whether or not
// earlier requests have been answered. It returns what each took, sorted.
func (s *service) steadily(ctx context.Context, users int, done <-chan time.Time) (took [2][]time.Duration, err error) {
	var mu sync.Mutex
	var group sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	for {
		select {
		case <-done:
			group.Wait()
			for _, list := range took {
				slices.Sort(list)
			}
			return took, err
		case <-tick.C:
		}
		i := s.next()
		for kind, ask := range []func() error{
			func() error { return s.login(ctx, pick(i, users)) },
			func() error { return s.refresh(ctx, pick(i, users*sessionsEach)) },
		} {
			group.Go(func() {
				began := time.Now()
				failed := ask()
				mu.Lock()
				defer mu.Unlock()
				took[kind] = append(took[kind], time.Since(began))
				err = errors.Join(err, failed)
			})
		}
	}
}
