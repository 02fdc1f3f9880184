// Command replicas measures what requests cost in CPU time, in the service, in Postgres and in
// NATS, with one, two and four replicas. It starts a Postgres that syncs to disk, a NATS server
// and the replicas on loopback, each replica with one core's share of Go's threads, with limits on:
//
//	go run ./bench/replicas
//
// A machine with few cores cannot show that four replicas do four times as much. It can show that
// a request costs no more with four than with one, so that nothing they do to agree (turns at the
// outbox, offers of spare cores, news of sessions that ended) grows with their number: the ratio
// is that of requests per second of CPU time to one replica's. Each has as many requests at once
// as the one had: with fewer, it would take fewer off its socket at a time, which costs more. From
// what a request costs follows what a core of each part can do.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/plot"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

var (
	seconds    = flag.Int("seconds", 8, "length of each measurement")
	counts     = flag.String("replicas", "1,2,4", "numbers of replicas")
	requesters = flag.Int("requesters", 8, "requests at once for each replica, in closed loops")
	svg        = flag.String("svg", "", "file for a plot of the ratios")
)

// aim is how much of one replica's requests per second of CPU time several have at least.
const aim = 0.9

func main() {
	flag.Parse()
	os.Setenv("GOMAXPROCS", "1") // of the replicas; this program has begun already
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	replicas, err := parseCounts(*counts)
	if err != nil {
		return err
	}
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	postgres, err := testpg.Start(ctx, testpg.Config{Durable: true})
	if err != nil {
		return err
	}
	defer postgres.Close()
	server, err := daemon.StartNATS(filepath.Join(dir, "nats"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	c := &cluster{binary: binary, dir: dir, postgres: postgres.URL, nats: server}
	var key [32]byte
	rand.Read(key[:])
	c.key = base64.StdEncoding.EncodeToString(key[:])
	var all []figures
	for _, n := range replicas {
		f, err := c.measure(ctx, n)
		if err != nil {
			return fmt.Errorf("%d replicas: %w", n, err)
		}
		all = append(all, f)
		f.print(n, all[0])
	}
	all[0].printModel()
	if *svg == "" {
		return nil
	}
	return chart(replicas, all).Write(*svg)
}

func parseCounts(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || n > 64 {
			return nil, fmt.Errorf("-replicas %s: numbers from 1 to 64", text)
		}
		list = append(list, n)
	}
	return list, nil
}

// cluster is what the replicas share.
type cluster struct {
	binary, dir, postgres, key string
	nats                       *daemon.NATS
}

// start runs replicas.
func (c *cluster) start(n int) (replicas []*daemon.Daemon, err error) {
	for i := range n {
		d, err := daemon.Start(c.binary, filepath.Join(c.dir, fmt.Sprintf("of%d", n), fmt.Sprint(i)), "--migrate",
			"--database-url="+c.postgres, "--nats-url="+c.nats.URL, "--nats-open=on", "--secret-key="+c.key, "--bcrypt-cost=10",
			"--rate-limits=on", "--limit-refresh-session=1000/100ms")
		if err != nil {
			return nil, errors.Join(err, stop(replicas))
		}
		replicas = append(replicas, d)
	}
	return replicas, nil
}

func stop(replicas []*daemon.Daemon) (err error) {
	for _, d := range replicas {
		err = errors.Join(err, d.Stop())
	}
	return err
}

// used is CPU time.
type used struct{ service, postgres, nats time.Duration }

func (u used) all() time.Duration { return u.service + u.postgres + u.nats }

func (u used) minus(o used) used {
	return used{u.service - o.service, u.postgres - o.postgres, u.nats - o.nats}
}

func (u used) by(n float64) used {
	per := func(d time.Duration) time.Duration { return time.Duration(float64(d) / n) }
	return used{per(u.service), per(u.postgres), per(u.nats)}
}

// meter reads the CPU time of the parts.
func (c *cluster) meter(ctx context.Context, store *persistence.Store, replicas []*daemon.Daemon) (func() used, error) {
	var backend int
	if err := store.DB().NewRaw("SELECT pg_backend_pid()").Scan(ctx, &backend); err != nil {
		return nil, err
	}
	postmaster := daemon.Parent(backend)
	if postmaster == 0 {
		return nil, errors.New("/proc does not tell whose process Postgres is")
	}
	return func() (u used) {
		for _, d := range replicas {
			u.service += daemon.CPU(d.PID)
		}
		u.postgres, u.nats = daemon.CPUWithChildren(postmaster), daemon.CPU(c.nats.PID)
		return u
	}, nil
}

// figure is what one kind of request costs.
type figure struct {
	name      string
	perSecond float64
	cost      used // of one
}

// figures are those of a number of replicas.
type figures struct {
	idle  used // in a second
	kinds []figure
}

func (c *cluster) measure(ctx context.Context, n int) (f figures, err error) {
	replicas, err := c.start(n)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, stop(replicas)) }()
	store, err := persistence.Open(ctx, c.postgres)
	if err != nil {
		return f, err
	}
	defer store.Close()
	meter, err := c.meter(ctx, store, replicas)
	if err != nil {
		return f, err
	}
	l, err := newLoad(ctx, c.nats.URL, store, n)
	if err != nil {
		return f, err
	}
	defer l.conn.Close()
	time.Sleep(2 * time.Second) // what starting left
	before := meter()
	time.Sleep(time.Duration(*seconds) * time.Second)
	f.idle = meter().minus(before).by(float64(*seconds))
	for _, k := range l.kinds() {
		one, err := l.loop(ctx, k, meter)
		if err != nil {
			return f, fmt.Errorf("%s: %w", k.name, err)
		}
		f.kinds = append(f.kinds, one)
	}
	return f, nil
}

// loop asks in closed loops, and waits until the events of that are published: they are part of
// the cost.
func (l *load) loop(ctx context.Context, k kind, meter func() used) (figure, error) {
	var done atomic.Int64
	errs := make([]error, len(l.emails))
	var group sync.WaitGroup
	before, began := meter(), time.Now()
	for i := range errs {
		group.Go(func() {
			for errs[i] == nil && time.Since(began) < time.Duration(*seconds)*time.Second {
				if errs[i] = k.ask(i); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	for i, err := range errs {
		if errors.Is(err, errUsedUp) {
			errs[i] = nil
		}
	}
	if err := errors.Join(errs...); err != nil {
		return figure{}, err
	}
	for {
		b, err := l.store.Backlog(ctx)
		if err != nil {
			return figure{}, err
		}
		if b.Events == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	n := float64(done.Load())
	return figure{k.name, n / took.Seconds(), meter().minus(before).by(n)}, nil
}

func (f figures) print(n int, one figures) {
	fmt.Printf("\n%d replicas; idle, CPU a second: service %s, Postgres %s, NATS %s\n", n,
		micros(f.idle.service), micros(f.idle.postgres), micros(f.idle.nats))
	for i, k := range f.kinds {
		fmt.Printf("  %-8s %6.0f/s  CPU a request: service %8s, Postgres %8s, NATS %8s  per CPU second %6.0f, %.2f of one replica's (aim %.1f)\n",
			k.name, k.perSecond, micros(k.cost.service), micros(k.cost.postgres), micros(k.cost.nats),
			1/k.cost.all().Seconds(), ratio(k, one.kinds[i]), aim)
	}
}

func micros(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

// ratio is that of requests per second of CPU time.
func ratio(k, one figure) float64 { return one.cost.all().Seconds() / k.cost.all().Seconds() }

// printModel tells what a core of each part can do.
func (f figures) printModel() {
	fmt.Println("\nWhat a core can do, in requests a second, if it does nothing else:")
	for _, k := range f.kinds {
		fmt.Printf("  %-8s service %8.0f  Postgres %8.0f  NATS %8.0f\n", k.name, perCore(k.cost.service), perCore(k.cost.postgres), perCore(k.cost.nats))
	}
}

// perCore is 0 where a request costs nothing that could be measured.
func perCore(d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return 1 / d.Seconds()
}

func chart(replicas []int, all []figures) plot.Chart {
	c := plot.Chart{Title: "Requests per second of CPU time", X: "replicas", Y: "of one replica's", Limit: aim}
	for i, k := range all[0].kinds {
		l := plot.Line{Name: k.name}
		for j, f := range all {
			l.X, l.Y = append(l.X, float64(replicas[j])), append(l.Y, ratio(f.kinds[i], k))
		}
		c.Lines = append(c.Lines, l)
	}
	return c
}
