// Command events measures how far behind the reply of a request its event arrives, at a
// subscriber that just listens and at one that must miss none (events.Subscribe). It starts
// authd on loopback, on SQLite with the embedded server and on Postgres with a NATS server of its
// own, and sends changes of names, which hash nothing, at a steady rate, and registrations at
// seven tenths of what this machine can hash:
//
//	go run ./bench/events
//
// The limit is a bare message at the same rate, from the client that sends it to the one that
// listens, and until the stream has confirmed it. Requests are sent when they are due, whether or
// not earlier ones have been answered.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/plot"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testpg"
)

var (
	seconds = flag.Int("seconds", 10, "length of each measurement")
	rate    = flag.Int("rate", 200, "changes a second")
	svg     = flag.String("svg", "", "file for a plot of the 99th percentiles")
)

const (
	secret = "correct horse battery"
	// aim is how far behind the reply an event may be, in the 99th percentile.
	aim = 20 * time.Millisecond
	// people is how many users change their names by turns.
	people = 32
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
	hashes := bareHashes()
	fmt.Printf("bare bcrypt, cost 10, %d cores: %.1f hashes/s\n", runtime.GOMAXPROCS(0), hashes)
	chart := &plot.Chart{Title: "An event behind the reply of its request, p99", Y: "ms", Limit: float64(aim.Milliseconds())}
	if err := alone(ctx, binary, dir, hashes, chart); err != nil {
		return err
	}
	if err := apart(ctx, binary, dir, hashes, chart); err != nil {
		return err
	}
	if *svg == "" {
		return nil
	}
	return chart.Write(*svg)
}

// alone measures one process with everything in it.
func alone(ctx context.Context, binary, dir string, hashes float64, chart *plot.Chart) (err error) {
	d, err := daemon.Start(binary, filepath.Join(dir, "alone"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	as := func(role string) (*nats.Conn, error) {
		option, err := nats.NkeyOptionFromSeed(embedded.SeedFile(filepath.Join(d.Dir, "nats"), role))
		if err != nil {
			return nil, err
		}
		return bus.Connect(d.NATS, option, nats.CustomInboxPrefix("_INBOX_"+role))
	}
	return measure(ctx, "SQLite, embedded NATS", d, as, hashes, chart)
}

// apart measures a process with Postgres and NATS beside it.
func apart(ctx context.Context, binary, dir string, hashes float64, chart *plot.Chart) (err error) {
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
	var key [32]byte
	rand.Read(key[:])
	d, err := daemon.Start(binary, filepath.Join(dir, "apart"), "--migrate", "--database-url="+postgres.URL,
		"--nats-url="+server.URL, "--nats-open=on", "--secret-key="+base64.StdEncoding.EncodeToString(key[:]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	as := func(string) (*nats.Conn, error) { return bus.Connect(server.URL) } // where everybody may do everything
	return measure(ctx, "Postgres, NATS server", d, as, hashes, chart)
}

// bareHashes is how many passwords all cores can hash in a second.
func bareHashes() float64 {
	var done atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for time.Since(began) < 3*time.Second {
				if _, err := bcrypt.GenerateFromPassword([]byte(secret), 10); err != nil {
					log.Fatal(err)
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// measure prints the figures of a deployment. as connects to its bus in a role.
func measure(ctx context.Context, name string, d *daemon.Daemon, as func(role string) (*nats.Conn, error), hashes float64, chart *plot.Chart) error {
	fmt.Printf("\n%s\n", name)
	asked, err := newAsker(ctx, d)
	if err != nil {
		return err
	}
	plain, durable, stop, err := listen(ctx, as)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := as(embedded.Relay)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	bare := steadily(float64(*rate), func(i int) (string, error) {
		key := fmt.Sprint("bare ", i)
		body, err := json.Marshal(named{key})
		if err != nil {
			return "", err
		}
		plain.sent(key)
		_, err = js.Publish(ctx, bareSubject, body)
		return key, err
	})
	if bare.err != nil {
		return bare.err
	}
	limit := plain.behind(plain.from)
	fmt.Printf("  %-15s %4.0f/s  confirmed p50 %7s p99 %7s  at the listener p50 %7s p99 %7s\n", "a bare message", float64(*rate),
		at(bare.took, 50), at(bare.took, 99), at(limit, 50), at(limit, 99))
	for _, kind := range []struct {
		name, event string
		rate        float64
		ask         func(i int) (string, error)
	}{
		{"PATCH /me", "updated", float64(*rate), asked.rename},
		{"POST /register", "registered", hashes * 0.7, asked.register},
	} {
		replies := steadily(kind.rate, kind.ask)
		if replies.err != nil {
			return fmt.Errorf("%s: %w", kind.name, replies.err)
		}
		heard, kept := plain.behind(replies.at), durable.behind(replies.at)
		fmt.Printf("  %-15s %4.0f/s  reply p50 %7s p99 %7s  event behind it, listener p50 %7s p99 %7s, durable p50 %7s p99 %7s (aim %s), %.1f of the bare one's\n",
			kind.name, kind.rate, at(replies.took, 50), at(replies.took, 99), at(heard, 50), at(heard, 99), at(kept, 50), at(kept, 99), aim,
			float64(at(kept, 99))/float64(at(bare.took, 99)))
		database, _, _ := strings.Cut(name, ",")
		chart.Bars = append(chart.Bars, plot.Bar{Name: kind.event + ", " + database, Value: at(kept, 99).Seconds() * 1000})
	}
	return nil
}

// bareSubject is one of the stream, which no subscriber of ours handles.
const bareSubject = "user.enabled"

// named is what of a request and an event tells that they belong together.
type named struct {
	Name string `json:"name"`
}

// listen hears events as a listener and as a durable subscriber.
func listen(ctx context.Context, as func(role string) (*nats.Conn, error)) (plain, durable *arrivals, stop func(), err error) {
	plain, durable = newArrivals(), newArrivals()
	conn, err := as(embedded.Subscriber)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, subject := range []string{events.UserUpdated{}.Type(), events.UserRegistered{}.Type(), bareSubject} {
		if _, err := conn.Subscribe(subject, func(m *nats.Msg) { plain.take(m.Data) }); err != nil {
			return nil, nil, nil, err
		}
	}
	s, err := events.Subscribe(ctx, conn, events.Consumer{Name: "bench", Log: slog.New(slog.DiscardHandler)},
		events.On(func(_ context.Context, e events.Event, _ events.UserUpdated) error { durable.take(e.Data); return nil }),
		events.On(func(_ context.Context, e events.Event, _ events.UserRegistered) error {
			durable.take(e.Data)
			return nil
		}))
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return plain, durable, func() { cancel(); <-ended; conn.Close() }, nil
}

// arrivals are the times at which events arrived, by their names.
type arrivals struct {
	mu   sync.Mutex
	at   map[string]time.Time
	from map[string]time.Time // of sent
}

func newArrivals() *arrivals {
	return &arrivals{at: map[string]time.Time{}, from: map[string]time.Time{}}
}

func (a *arrivals) take(data []byte) {
	now := time.Now()
	var event named
	if json.Unmarshal(data, &event) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[event.Name] = now
}

// sent notes when something was sent that nothing answers.
func (a *arrivals) sent(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from[key] = time.Now()
}

// behind waits until all have arrived, and returns how much later than a time that was, sorted.
// One that arrived before is not behind.
func (a *arrivals) behind(times map[string]time.Time) []time.Duration {
	for until := time.Now().Add(time.Minute); time.Now().Before(until) && !a.has(times); {
		time.Sleep(time.Millisecond)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []time.Duration
	for key, from := range times {
		arrived, ok := a.at[key]
		if !ok {
			log.Fatalf("%s has not arrived", key)
		}
		list = append(list, max(0, arrived.Sub(from)))
	}
	slices.Sort(list)
	return list
}

func (a *arrivals) has(times map[string]time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range times {
		if _, ok := a.at[key]; !ok {
			return false
		}
	}
	return true
}

// replies are the times of answers by the names of what was asked.
type replies struct {
	at   map[string]time.Time
	took []time.Duration // sorted
	err  error
}

// steadily asks at a rate, whether or not earlier requests have been answered.
func steadily(perSecond float64, ask func(i int) (string, error)) replies {
	r := replies{at: map[string]time.Time{}}
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for i := range int(perSecond * float64(*seconds)) {
		time.Sleep(time.Until(began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))))
		group.Go(func() {
			sent := time.Now()
			key, err := ask(i)
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			r.at[key], r.took, r.err = now, append(r.took, now.Sub(sent)), errors.Join(r.err, err)
		})
	}
	group.Wait()
	slices.Sort(r.took)
	return r
}

// at is a percentile of sorted durations.
func at(took []time.Duration, percent int) time.Duration {
	return took[min(len(took)-1, len(took)*percent/100)].Round(10 * time.Microsecond)
}

// asker sends the requests.
type asker struct {
	url    string
	client *http.Client
	tokens []string
}

// newAsker registers people and logs them in.
func newAsker(ctx context.Context, d *daemon.Daemon) (*asker, error) {
	a := &asker{url: d.HTTP, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}}
	for i := range people {
		email := fmt.Sprintf("person%d@example.com", i)
		if err := a.send(ctx, http.MethodPost, "/register", "", auth.RegisterRequest{Email: email, Password: secret}, nil); err != nil {
			return nil, err
		}
		var reply struct{ AccessToken string }
		if err := a.send(ctx, http.MethodPost, "/login", "", auth.LoginRequest{Email: email, Password: secret}, &reply); err != nil {
			return nil, err
		}
		a.tokens = append(a.tokens, reply.AccessToken)
	}
	return a, nil
}

func (a *asker) rename(i int) (string, error) {
	name := fmt.Sprint("name ", i)
	return name, a.send(context.Background(), http.MethodPatch, "/me", a.tokens[i%people], named{name}, nil)
}

func (a *asker) register(i int) (string, error) {
	name := fmt.Sprint("new ", i)
	return name, a.send(context.Background(), http.MethodPost, "/register", "",
		auth.RegisterRequest{Email: fmt.Sprintf("new%d@example.com", i), Password: secret, Name: name}, nil)
}

// send sends a request and reads its answer into reply, unless that is nil.
func (a *asker) send(ctx context.Context, method, path, token string, body, reply any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(answer, reply)
}
