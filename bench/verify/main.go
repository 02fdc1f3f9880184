// Command verify measures auth.verify over TCP beside an endpoint of the same services
// protocol that does nothing but answer as many bytes: what verifying costs beyond the bus.
//
//	go run ./bench/verify
//
// Everything has a process of its own: a NATS server with its own defaults, authd, the echo,
// and whoever asks, over one connection. The echo is tried with one endpoint and with as many
// as authd has for the subject; what is faster counts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/errgroup"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/load"
	"github.com/zyotra/auth/bench/internal/part"
	"github.com/zyotra/auth/bench/internal/sessions"
	"github.com/zyotra/auth/bus"
)

var (
	rounds = flag.Int("rounds", 5, "how often each side is measured")
	length = flag.Duration("length", 700*time.Millisecond, "of each measurement")
	many   = flag.Int("sessions", 1000, "sessions whose tokens are mixed")
)

func main() {
	part.Main(map[string]part.Func{"nats": serveNATS, "echo": serveEcho, "ask": ask})
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	refresh, err := sessions.Make(ctx, "sqlite://"+filepath.Join(dir, "auth.db"), *many)
	if err != nil {
		return err
	}
	bus, err := part.Start("nats", filepath.Join(dir, "nats"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Stop()) }()
	d, err := daemon.Start(binary, dir, "--handlers", "--nats-open=on", "--nats-url="+bus.Address,
		"--database-url=sqlite://"+filepath.Join(dir, "auth.db"), "--refresh-token-secret="+sessions.Secret)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	b, err := newBench(ctx, bus.Address, refresh)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	return b.measure(ctx)
}

// bench is all that runs, and what is asked with.
type bench struct {
	url     string
	conn    *nats.Conn
	refresh []string // a current one of each session
	tokens  []string // an access token of each session
	reply   string   // to auth.verify
	echoes  []*part.Process
}

// The subjects of the echo, by its number of endpoints.
const (
	echoOne     = "echo.one"
	echoWorkers = "echo.workers"
)

func newBench(ctx context.Context, url string, refresh []string) (*bench, error) {
	conn, err := bus.Connect(url)
	if err != nil {
		return nil, err
	}
	b := &bench{url: url, conn: conn, refresh: refresh}
	if err := b.renew(ctx); err != nil {
		return nil, err
	}
	reply, err := conn.Request(string(auth.Verify), payload(b.tokens[0]), bus.Timeout)
	if err != nil {
		return nil, err
	}
	b.reply = string(reply.Data)
	for subject, n := range map[string]int{echoOne: 1, echoWorkers: max(8, 2*runtime.GOMAXPROCS(0))} {
		echo, err := part.Start("echo", echoTask{URL: url, Subject: subject, Endpoints: n, Reply: b.reply})
		if err != nil {
			return nil, errors.Join(err, b.stop())
		}
		b.echoes = append(b.echoes, echo)
	}
	return b, nil
}

func (b *bench) stop() (err error) {
	b.conn.Close()
	for _, e := range b.echoes {
		err = errors.Join(err, e.Stop())
	}
	return err
}

// renew has all sessions refreshed, so that there is a token of each that nobody has seen.
func (b *bench) renew(ctx context.Context) error {
	b.tokens = make([]string, len(b.refresh))
	var group errgroup.Group
	group.SetLimit(16)
	for i := range b.refresh {
		group.Go(func() error {
			next, err := bus.Call(ctx, b.conn, auth.Refresh, auth.RefreshRequest{RefreshToken: b.refresh[i]})
			b.refresh[i], b.tokens[i] = next.RefreshToken, next.AccessToken
			return err
		})
	}
	return group.Wait()
}

func (b *bench) measure(ctx context.Context) error {
	fmt.Printf("requests of %d bytes, replies of %d\n", len(payload(b.tokens[0])), len(b.reply))
	table := load.NewTable(os.Stdout, "auth.verify", "authd", "echo")
	for _, n := range []int{1, 16, 64} {
		if err := b.compare(table, fmt.Sprintf("%d at once, one token", n), askTask{Callers: n, Tokens: b.tokens[:1]}, nil); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("16 at once, tokens of %d sessions", len(b.tokens))
	if err := b.compare(table, name, askTask{Callers: 16, Tokens: b.tokens}, nil); err != nil {
		return err
	}
	err := b.compare(table, "16 at once, each token for the first time", askTask{Callers: 16, Once: true}, func() error { return b.renew(ctx) })
	return errors.Join(err, table.End())
}

// compare measures one task at authd and at both echoes. Before each measurement of authd, and
// where each token is used once of the others too, the tokens are those that fresh makes.
func (b *bench) compare(table *load.Table, name string, task askTask, fresh func() error) error {
	side := func(subject string) func() (load.Result, error) {
		return func() (load.Result, error) {
			t := task
			t.URL, t.Subject, t.Length = b.url, subject, *length
			if fresh != nil {
				if subject == string(auth.Verify) {
					if err := fresh(); err != nil {
						return load.Result{}, err
					}
				}
				t.Tokens = b.tokens
			}
			return part.Run[load.Result]("ask", t)
		}
	}
	results, err := load.InTurn(*rounds, side(string(auth.Verify)), side(echoOne), side(echoWorkers))
	if err != nil {
		return err
	}
	limit := results[1]
	if results[2].PerSecond > limit.PerSecond {
		limit = results[2]
	}
	table.Row(name, results[0], limit)
	return nil
}

func payload(token string) []byte { return []byte(`{"token":"` + token + `"}`) }

// askTask is what a process asks.
type askTask struct {
	URL, Subject string
	Callers      int
	Tokens       []string
	Once         bool          // each token once, or
	Length       time.Duration // again and again for so long
}

// ask is the process that asks. It reads no more of a reply than whether it is an error.
func ask(in *json.Decoder, out *json.Encoder) error {
	var task askTask
	if err := in.Decode(&task); err != nil {
		return err
	}
	conn, err := bus.Connect(task.URL)
	if err != nil {
		return err
	}
	defer conn.Close()
	requests := make([]func() error, len(task.Tokens))
	for i, token := range task.Tokens {
		data := payload(token)
		requests[i] = func() error {
			reply, err := conn.Request(task.Subject, data, bus.Timeout)
			if err == nil && reply.Header != nil {
				err = errors.New(reply.Header.Get(micro.ErrorHeader))
			}
			return err
		}
	}
	if task.Once {
		return out.Encode(load.Once(task.Callers, requests))
	}
	callers := make([]func() error, task.Callers)
	for i := range callers {
		next := i * len(requests) / len(callers)
		callers[i] = func() error {
			next = (next + 1) % len(requests)
			return requests[next]()
		}
	}
	return out.Encode(load.Closed(callers, task.Length))
}

// echoTask is how a process answers.
type echoTask struct {
	URL, Subject, Reply string
	Endpoints           int
}

// serveEcho is the process that answers always the same.
func serveEcho(in *json.Decoder, out *json.Encoder) error {
	var task echoTask
	if err := in.Decode(&task); err != nil {
		return err
	}
	conn, err := bus.Connect(task.URL)
	if err != nil {
		return err
	}
	defer conn.Close()
	service, err := micro.AddService(conn, micro.Config{Name: "echo", Version: "1.0.0"})
	if err != nil {
		return err
	}
	reply := []byte(task.Reply)
	for range task.Endpoints {
		err := service.AddEndpoint("echo", micro.HandlerFunc(func(r micro.Request) {
			_ = r.Respond(reply) // whoever asks sees that none comes
		}), micro.WithEndpointSubject(task.Subject))
		if err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	return part.Serve(in, out, task.Subject)
}

// serveNATS is the process of the bus. Its task is the directory for streams.
func serveNATS(in *json.Decoder, out *json.Encoder) error {
	var dir string
	if err := in.Decode(&dir); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("does not start")
	}
	err = part.Serve(in, out, s.ClientURL())
	s.Shutdown()
	s.WaitForShutdown()
	return err
}
