// Command storm measures what a storm of logins does to everything else, and how much of the
// machine's hashing becomes logins. It starts authd on loopback, in one process and as edge and
// handlers apart, on SQLite and, where TEST_POSTGRES_URL names one, on Postgres; for each it
// sends checks at a steady rate, first alone and then beside logins in closed loops:
//
//	go run ./internal/testpg/cmd/withpg -- go run ./bench/storm
//
// Checks are sent when they are due, whether or not earlier ones have been answered.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testpg"
)

const (
	address = "ada@example.com"
	secret  = "correct horse battery"
)

var (
	seconds = flag.Int("seconds", 10, "length of each measurement")
	rate    = flag.Int("rate", 200, "checks a second")
	storm   = flag.Int("logins", 32, "logins at once")
	flood   = flag.Int("flood", 60, "seconds of ten times as many logins as can be hashed; 0 leaves that out")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	bare := bareHashes()
	fmt.Printf("bare bcrypt, cost 10, %d cores: %.1f hashes/s\n", runtime.GOMAXPROCS(0), bare)

	if err := measure(ctx, "one process, SQLite", bare, func() (*deployment, error) { return together(binary, filepath.Join(dir, "one")) }); err != nil {
		return err
	}
	if err := measure(ctx, "edge and handlers apart, SQLite", bare, func() (*deployment, error) { return apart(binary, filepath.Join(dir, "two")) }); err != nil {
		return err
	}
	url := os.Getenv(testpg.Env)
	if url == "" {
		return nil
	}
	key := make([]byte, 32)
	rand.Read(key)
	return measure(ctx, "one process, Postgres", bare, func() (*deployment, error) {
		return together(binary, filepath.Join(dir, "postgres"), "--migrate", "--database-url="+url, "--secret-key="+base64.StdEncoding.EncodeToString(key))
	})
}

// bareHashes compares passwords on all cores and tells how many a second.
func bareHashes() float64 {
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), 10)
	if err != nil {
		log.Fatal(err)
	}
	var done atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for time.Since(began) < time.Duration(*seconds)*time.Second {
				if bcrypt.CompareHashAndPassword(hash, []byte(secret)) != nil {
					log.Fatal("bcrypt")
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// deployment is a running service.
type deployment struct {
	parts []*daemon.Daemon
	http  string
	conn  *nats.Conn
}

func together(binary, dir string, args ...string) (*deployment, error) {
	d, err := daemon.Start(binary, dir, args...)
	if err != nil {
		return nil, err
	}
	conn, err := bus.Connect(d.NATS)
	return &deployment{[]*daemon.Daemon{d}, d.HTTP, conn}, err
}

func apart(binary, dir string) (*deployment, error) {
	handlers, err := daemon.Start(binary, filepath.Join(dir, "handlers"), "--handlers")
	if err != nil {
		return nil, err
	}
	edge, err := daemon.Start(binary, filepath.Join(dir, "edge"), "--edge", "--nats-url="+handlers.NATS,
		"--nats-nkey-seed-file="+embedded.SeedFile(filepath.Join(handlers.Dir, "nats"), embedded.Edge))
	if err != nil {
		return nil, errors.Join(err, handlers.Stop())
	}
	conn, err := bus.Connect(handlers.NATS)
	return &deployment{[]*daemon.Daemon{edge, handlers}, edge.HTTP, conn}, err
}

func (d *deployment) stop() (err error) {
	d.conn.Close()
	for _, p := range d.parts {
		err = errors.Join(err, p.Stop())
	}
	return err
}

// measure prints one deployment's figures.
func measure(ctx context.Context, name string, bare float64, deploy func() (*deployment, error)) (err error) {
	d, err := deploy()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if _, err := bus.Call(ctx, d.conn, auth.Register, auth.RegisterRequest{Email: address, Password: secret}); err != nil {
		return err
	}
	fmt.Printf("\n%s\n", name)
	logins, failed := d.storm(ctx, func() { time.Sleep(time.Duration(*seconds) * time.Second) })
	fmt.Printf("  %d logins at once: %.1f/s, %.2f of bare bcrypt, %d failed\n", *storm, logins, logins/bare, failed)
	for _, c := range d.checks(ctx) {
		if err := c.ask(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		idle := steady(c.ask)
		var beside latencies
		logins, failed := d.storm(ctx, func() { beside = steady(c.ask) })
		fmt.Printf("  %-12s %d/s: alone p50 %7s p99 %7s; beside %.1f logins/s p50 %7s p99 %7s (%.1f times); failed %d, %d and %d\n",
			c.name, *rate, idle.at(50), idle.at(99), logins, beside.at(50), beside.at(99),
			float64(beside.at(99))/float64(idle.at(99)), idle.failed, beside.failed, failed)
	}
	if *flood > 0 {
		return d.flood(ctx, bare)
	}
	return nil
}

// check is a request that ought to stay fast.
type check struct {
	name string
	ask  func() error
}

func (d *deployment) checks(ctx context.Context) []check {
	session, err := bus.Call(ctx, d.conn, auth.Login, auth.LoginRequest{Email: address, Password: secret})
	if err != nil {
		log.Fatal(err)
	}
	sessions := make(chan string, 64)
	for range cap(sessions) {
		other, err := bus.Call(ctx, d.conn, auth.Login, auth.LoginRequest{Email: address, Password: secret})
		if err != nil {
			log.Fatal(err)
		}
		sessions <- other.RefreshToken
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	return []check{
		{"auth.verify", func() error {
			_, err := bus.Call(ctx, d.conn, auth.Verify, auth.VerifyRequest{Token: session.AccessToken})
			return err
		}},
		{"GET /verify", func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.http+"/verify", nil)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+session.AccessToken)
			return answered(client.Do(req))
		}},
		{"auth.refresh", func() error {
			session := <-sessions
			next, err := bus.Call(ctx, d.conn, auth.Refresh, auth.RefreshRequest{RefreshToken: session})
			if err == nil {
				session = next.RefreshToken
			}
			sessions <- session
			return err
		}},
	}
}

func answered(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// latencies are sorted.
type latencies struct {
	took   []time.Duration
	failed int
}

func (l latencies) at(percent int) time.Duration {
	return l.took[min(len(l.took)-1, len(l.took)*percent/100)].Round(10 * time.Microsecond)
}

// steady asks at the rate, whether or not earlier requests have been answered.
func steady(ask func() error) latencies {
	n := *seconds * *rate
	took, errs := make([]time.Duration, n), make([]error, n)
	var group sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(*rate))
		time.Sleep(time.Until(due))
		group.Go(func() {
			sent := time.Now()
			errs[i] = ask()
			took[i] = time.Since(sent)
		})
	}
	group.Wait()
	slices.Sort(took)
	return latencies{took, len(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))}
}

// storm logs in in closed loops while fn runs, and tells how many logins a second there were.
func (d *deployment) storm(ctx context.Context, fn func()) (perSecond float64, failed int64) {
	var done, errs atomic.Int64
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range *storm {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := bus.Call(ctx, d.conn, auth.Login, auth.LoginRequest{Email: address, Password: secret}); err != nil {
					errs.Add(1)
					continue
				}
				done.Add(1)
			}
		})
	}
	began, before := time.Now(), done.Load()
	fn()
	perSecond = float64(done.Load()-before) / time.Since(began).Seconds()
	close(stop)
	group.Wait()
	return perSecond, errs.Load()
}

// flood offers ten times as many logins as can be hashed, whether or not earlier ones have
// been answered.
func (d *deployment) flood(ctx context.Context, bare float64) error {
	login := func() error {
		_, err := bus.Call(ctx, d.conn, auth.Login, auth.LoginRequest{Email: address, Password: secret})
		return err
	}
	before := d.resident()
	n := int(bare * 10 * float64(*flood))
	accepted, refused := make([]time.Duration, 0, n), make([]time.Duration, 0, n)
	var other atomic.Int64
	var peak int64
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(float64(i) / (bare * 10) * float64(time.Second)))
		time.Sleep(time.Until(due))
		if i%1000 == 0 {
			peak = max(peak, d.resident())
		}
		group.Go(func() {
			err := login()
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				accepted = append(accepted, took)
			case errors.Is(err, auth.ErrOverloaded):
				refused = append(refused, took)
			default:
				other.Add(1)
			}
		})
	}
	flooded := time.Since(began)
	group.Wait()
	peak = max(peak, d.resident())
	var calm time.Duration
	for began := time.Now(); ; {
		again := time.Now()
		if err := login(); err == nil && time.Since(again) < 3*time.Second/time.Duration(bare/float64(runtime.GOMAXPROCS(0))) {
			calm = time.Since(began)
			break
		}
		if time.Since(began) > time.Minute {
			return errors.New("not calm a minute after the flood")
		}
	}
	slices.Sort(accepted)
	slices.Sort(refused)
	in, out := latencies{took: accepted}, latencies{took: refused}
	fmt.Printf("  %.0f logins/s offered for %ds: %.1f/s accepted (%.2f of bare), p50 %s, max %s; %d refused, p50 %s, p99 %s, max %s; %d failed otherwise\n",
		bare*10, *flood, float64(len(accepted))/flooded.Seconds(), float64(len(accepted))/flooded.Seconds()/bare, in.at(50), in.at(100),
		len(refused), out.at(50), out.at(99), out.at(100), other.Load())
	fmt.Printf("  resident memory %d MiB before, %d MiB at most; a login takes its usual time %s after\n", before>>20, peak>>20, calm.Round(10*time.Millisecond))
	return nil
}

// resident is the memory of all parts, in bytes.
func (d *deployment) resident() (sum int64) {
	for _, p := range d.parts {
		sum += p.Resident()
	}
	return sum
}
