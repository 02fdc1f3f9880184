// Command users measures what logins and refreshes ask of Postgres while the number of users
// grows, and what clean-up and the relay do to them. It starts a Postgres of its own that
// syncs to disk, fills it with users that have two sessions each, and runs the service's own
// use-cases in this process, with the cheapest hash, over a connection on loopback:
//
//	go run ./bench/users -users 10000,100000,1000000,10000000
//
// Logins and refreshes are those of users and sessions chosen over the whole table. Each line
// says what a request takes as the service waits for it, what Postgres was busy for by its own
// count (planning and executing, pg_stat_statements), and what it read and wrote; the ratio is
// that of the busy time to the first line's.
//
// Ten million users take some 20 GB and half an hour; the directory is that of testpg.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zyotra/auth/bench/internal/plot"
	"github.com/zyotra/auth/internal/testpg"
)

var (
	sizes   = flag.String("users", "10000,100000,1000000", "numbers of users, rising")
	n       = flag.Int("n", 3000, "logins and refreshes of each measurement")
	rate    = flag.Int("rate", 50, "logins a second, and as many refreshes, beside clean-up and relay")
	most    = flag.Int("backlog", 200_000, "most sessions to clean up and events to publish; 0 leaves that out")
	buffers = flag.String("shared-buffers", "1GB", "Postgres's shared_buffers")
	svg     = flag.String("svg", "", "file for a plot of the ratios")
)

// aim is how many times its first value the busy time may be in the end.
const aim = 1.3

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	steps, err := parseSizes(*sizes)
	if err != nil {
		return err
	}
	postgres, err := testpg.Start(ctx, testpg.Config{Durable: true, Settings: []string{
		"shared_buffers=" + *buffers, "effective_cache_size=4GB", "random_page_cost=1.1",
		"max_wal_size=4GB", "checkpoint_timeout=15min",
		"shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_planning=on",
	}})
	if err != nil {
		return err
	}
	defer postgres.Close()
	s, err := open(ctx, postgres.URL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()

	var results []result
	filled := 0
	for _, users := range steps {
		if err := s.fill(ctx, filled, users); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		filled = users
		r, err := s.measure(ctx, users)
		if err != nil {
			return err
		}
		results = append(results, r)
		r.print(results[0])
	}
	if err := s.printSizes(ctx, filled); err != nil {
		return err
	}
	if *most > 0 {
		if err := s.backlog(ctx, filled); err != nil {
			return err
		}
	}
	if *svg == "" {
		return nil
	}
	return chart(results).Write(*svg)
}

func parseSizes(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		size, err := strconv.Atoi(part)
		if err != nil || size < 1000 || len(list) > 0 && size <= list[len(list)-1] {
			return nil, fmt.Errorf("-users %s: they rise from 1000", text)
		}
		list = append(list, size)
	}
	return list, nil
}

// cost is what requests of a kind took, each on the average but for the percentiles.
type cost struct {
	p50, p99   time.Duration // as the service waited
	busy       time.Duration // Postgres, by its own count
	statements float64
	pages      float64 // looked at, of 8 KiB
	wal        float64 // bytes
}

// result is what one number of users cost.
type result struct {
	users          int
	login, refresh cost
}

// measure logs in and refreshes, each over the whole table and never twice the same.
func (s *service) measure(ctx context.Context, users int) (r result, err error) {
	r.users = users
	if r.login, err = s.cost(ctx, func(i int) error { return s.login(ctx, pick(i, users)) }); err != nil {
		return r, fmt.Errorf("log in: %w", err)
	}
	if r.refresh, err = s.cost(ctx, func(i int) error { return s.refresh(ctx, pick(i, users*sessionsEach)) }); err != nil {
		return r, fmt.Errorf("refresh: %w", err)
	}
	return r, nil
}

// pick chooses a row for a number, of those that are numbered from 1: all over the table, and
// another one for each number until they are used up.
func pick(i, rows int) int {
	const prime = 982_451_653
	return i*prime%rows + 1
}

// cost runs ask n times, a third of them before it counts.
func (s *service) cost(ctx context.Context, ask func(i int) error) (c cost, err error) {
	for range *n / 3 {
		if err := ask(s.next()); err != nil {
			return c, err
		}
	}
	if err := s.stats.reset(ctx); err != nil {
		return c, err
	}
	took := make([]time.Duration, *n)
	for i := range took {
		began := time.Now()
		if err := ask(s.next()); err != nil {
			return c, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	if c, err = s.stats.read(ctx, float64(*n)); err != nil {
		return c, err
	}
	c.p50, c.p99 = at(took, 50), at(took, 99)
	return c, nil
}

// at is a percentile of sorted durations.
func at(took []time.Duration, percent int) time.Duration {
	return took[min(len(took)-1, len(took)*percent/100)]
}

func (r result) print(first result) {
	r.login.print(r.users, "login", first.login)
	r.refresh.print(r.users, "refresh", first.refresh)
}

func (c cost) print(users int, name string, first cost) {
	fmt.Printf("%9d users  %-7s  p50 %7s  p99 %7s  Postgres busy %7s, %.2f of the first (aim %.1f)  %4.1f statements  %5.1f pages  %6.0f bytes of WAL\n",
		users, name, c.p50.Round(10*time.Microsecond), c.p99.Round(10*time.Microsecond), c.busy.Round(time.Microsecond),
		ratio(c, first), aim, c.statements, c.pages, c.wal)
}

func ratio(c, first cost) float64 { return float64(c.busy) / float64(first.busy) }

func chart(results []result) plot.Chart {
	login, refresh := plot.Line{Name: "login"}, plot.Line{Name: "refresh"}
	for _, r := range results {
		login.X, refresh.X = append(login.X, float64(r.users)), append(refresh.X, float64(r.users))
		login.Y = append(login.Y, ratio(r.login, results[0].login))
		refresh.Y = append(refresh.Y, ratio(r.refresh, results[0].refresh))
	}
	return plot.Chart{
		Title: "Postgres's time per request", X: "users, with two sessions each", Y: "times that of the fewest",
		LogX: true, Limit: aim, Lines: []plot.Line{login, refresh},
	}
}
