// Command fair measures whether people can log in while others attack. It starts authd on loopback,
// with its usual limits, and sends logins with the right password from networks of their own, at
// a steady rate, first alone and then beside attackers: connections in closed loops that try invented
// addresses from invented sources. A proxy's header says where each request comes from:
//
//	go run ./bench/fair
//
// The aim: while one network attacks, 95 of 100 logins from others succeed, and 95 of 100 take less
// than 2 s.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zyotra/auth/bench/internal/daemon"
)

const password = "correct horse battery"

var (
	seconds     = flag.Int("seconds", 20, "length of each measurement")
	every       = flag.Duration("every", 200*time.Millisecond, "interval of honest logins")
	connections = flag.Int("connections", 60, "connections of the attackers together")
	people      = flag.Int("people", 40, "accounts that honest logins are to")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

// attack describes the sources of the attackers' requests.
type attack struct {
	name   string
	source func() string // of the next request; nil for no attack
	// known has honest logins come from where each person has logged in before. Otherwise they come from
	// a network that has not been seen.
	known bool
}

// attacks lists the attacks that honest logins are measured beside.
func attacks() []attack {
	return []attack{
		{name: "no attack"},
		{name: "one IPv6 /56", source: func() string {
			return fmt.Sprintf("2001:db8:1:%x:%x:%x::1", rand.IntN(256), rand.IntN(1<<16), rand.IntN(1<<16))
		}},
		{name: "eight IPv4 /24", source: networks(8)},
		{name: "a thousand IPv4 /24", source: networks(1000)},
		{name: "a thousand, known sources", source: networks(1000), known: true},
	}
}

// networks returns addresses of n networks.
func networks(n int) func() string {
	return func() string {
		i := rand.IntN(n)
		return fmt.Sprintf("20.%d.%d.%d", i>>8, i&255, rand.IntN(254)+1)
	}
}

func run(ctx context.Context) (err error) {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	d, err := daemon.Start(binary, filepath.Join(dir, "one"), "--rate-limits=on", "--trusted-proxies=127.0.0.1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	fmt.Printf("%d cores, load average %s; %d connections attack, an honest login every %s\n", runtime.NumCPU(), loadAverage(), *connections, *every)
	for i := range *people {
		a, err := send(ctx, http.DefaultClient, d.HTTP+"/register", home(i), person(i))
		if err == nil && a.status == http.StatusCreated {
			a, err = send(ctx, http.DefaultClient, d.HTTP+"/login", home(i), person(i))
		}
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("register and log in: %v, %w", a, err)
		}
	}
	for _, beside := range attacks() {
		measure(ctx, d, beside)
	}
	return nil
}

// person returns the login request of an account's owner.
func person(i int) string { return credentials(fmt.Sprintf("person%d@example.com", i), password) }

// home is the address from which the owner of an account has logged in before.
func home(i int) string { return fmt.Sprintf("10.%d.%d.1", i>>8, i&255) }

// unseen returns an address of a network from which no request has come.
func unseen() string {
	return fmt.Sprintf("30.%d.%d.%d", rand.IntN(256), rand.IntN(256), rand.IntN(254)+1)
}

func credentials(email, password string) string {
	return fmt.Sprintf(`{"email":%q,"password":%q}`, email, password)
}

// measure prints the answers to honest logins beside an attack, and to the attack.
func measure(ctx context.Context, d *daemon.Daemon, beside attack) {
	attacking, stop := context.WithCancel(ctx)
	var attackers sync.WaitGroup
	refused := &tally{}
	if beside.source != nil {
		for range *connections {
			attackers.Go(func() { attackUntil(attacking, d.HTTP+"/login", beside.source, refused) })
		}
		time.Sleep(2 * time.Second) // until the queue is full
	}
	honest := &tally{}
	began := time.Now()
	var group sync.WaitGroup
	for i := range int(time.Duration(*seconds) * time.Second / *every) {
		due := began.Add(time.Duration(i) * *every)
		time.Sleep(time.Until(due))
		source := unseen()
		if beside.known {
			source = home(i % *people)
		}
		group.Go(func() {
			client := newClient()
			defer client.CloseIdleConnections()
			honest.add(send(ctx, client, d.HTTP+"/login", source, person(i%*people)))
		})
	}
	group.Wait()
	took := time.Since(began)
	stop()
	attackers.Wait()
	fmt.Printf("  %-26s honest: %s\n", beside.name, honest)
	if beside.source != nil {
		fmt.Printf("  %-26s attack: %.0f/s, %s\n", "", float64(refused.n())/(took+2*time.Second).Seconds(), refused)
	}
}

// attackUntil tries invented addresses in a closed loop until ctx ends.
func attackUntil(ctx context.Context, url string, source func() string, into *tally) {
	client := newClient()
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		a, err := send(ctx, client, url, source(), credentials(fmt.Sprintf("%x@example.com", rand.Int64()), "wrong horse battery"))
		if ctx.Err() == nil {
			into.add(a, err)
		}
	}
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 20 * time.Second}
}

// answer is the outcome of a request.
type answer struct {
	status int
	took   time.Duration
}

func send(ctx context.Context, client *http.Client, url, source, body string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", source)
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return answer{took: time.Since(began)}, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return answer{took: time.Since(began)}, err
	}
	return answer{resp.StatusCode, time.Since(began)}, nil
}

// tally counts answers. The zero value has none.
type tally struct {
	mu   sync.Mutex
	took map[int][]time.Duration // by status; 0 is no answer
}

func (t *tally) add(a answer, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		a.status = 0
	}
	if t.took == nil {
		t.took = map[int][]time.Duration{}
	}
	t.took[a.status] = append(t.took[a.status], a.took)
}

func (t *tally) n() (n int) {
	for _, took := range t.took {
		n += len(took)
	}
	return n
}

// String lists the share of each status and how long it took.
func (t *tally) String() string {
	var text []string
	for _, status := range slices.Sorted(maps.Keys(t.took)) {
		took := t.took[status]
		slices.Sort(took)
		at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(time.Millisecond) }
		text = append(text, fmt.Sprintf("%d: %.1f %% (%d), p50 %s, p95 %s, max %s", status, 100*float64(len(took))/float64(t.n()), len(took), at(50), at(95), at(100)))
	}
	return strings.Join(text, "; ")
}

// loadAverage is that of the last minute, "unknown" where the system does not say.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}
