// Command forward measures GET /verify, which a gateway asks for every request of its own,
// beside a Fiber handler that does nothing but answer with the same headers and as many bytes:
//
//	go run ./bench/forward
//
// authd, the other server and whoever asks have a process each. Connections are kept, and the
// client does less than any server would: it writes the same bytes and counts those it gets.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/load"
	"github.com/zyotra/auth/bench/internal/part"
	"github.com/zyotra/auth/bench/internal/rawhttp"
	"github.com/zyotra/auth/bench/internal/sessions"
	"github.com/zyotra/auth/bus"
)

var (
	rounds = flag.Int("rounds", 7, "how often each side is measured")
	length = flag.Duration("length", time.Second, "of each measurement")
	many   = flag.Int("sessions", 1000, "sessions whose tokens are mixed")
)

func main() {
	part.Main(map[string]part.Func{"empty": serveEmpty, "ask": ask})
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
	database := "sqlite://" + filepath.Join(dir, "auth.db")
	refresh, err := sessions.Make(ctx, database, *many)
	if err != nil {
		return err
	}
	d, err := daemon.Start(binary, dir, "--database-url="+database, "--refresh-token-secret="+sessions.Secret)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	tokens, err := accessTokens(ctx, d.NATS, refresh)
	if err != nil {
		return err
	}
	same, err := answerOf(d.HTTP, tokens[0])
	if err != nil {
		return err
	}
	empty, err := part.Start("empty", same)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, empty.Stop()) }()
	return measure(d.HTTP, empty.Address, tokens)
}

func accessTokens(ctx context.Context, url string, refresh []string) ([]string, error) {
	conn, err := bus.Connect(url)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	tokens := make([]string, len(refresh))
	for i, r := range refresh {
		next, err := bus.Call(ctx, conn, auth.Refresh, auth.RefreshRequest{RefreshToken: r})
		if err != nil {
			return nil, err
		}
		tokens[i] = next.AccessToken
	}
	return tokens, nil
}

func measure(ours, empty string, tokens []string) error {
	table := load.NewTable(os.Stdout, "GET /verify", "authd", "empty")
	compare := func(name string, task askTask) error {
		side := func(url string) func() (load.Result, error) {
			return func() (load.Result, error) {
				t := task
				t.URL, t.Length = url, *length
				return part.Run[load.Result]("ask", t)
			}
		}
		results, err := load.InTurn(*rounds, side(ours), side(empty))
		if err != nil {
			return err
		}
		table.Row(name, results[0], results[1])
		return nil
	}
	for _, n := range []int{1, 16, 64} {
		if err := compare(fmt.Sprintf("%d connections, one token", n), askTask{Callers: n, Tokens: tokens[:1]}); err != nil {
			return err
		}
	}
	err := compare(fmt.Sprintf("16 connections, tokens of %d sessions", len(tokens)), askTask{Callers: 16, Tokens: tokens})
	return errors.Join(err, table.End())
}

// answer is what both servers say.
type answer struct {
	Header [][2]string
	Body   string
}

// made are the headers that every Fiber server writes by itself.
var made = []string{"Date", "Content-Length"}

// answerOf asks for what the other server is to say too.
func answerOf(url, token string) (answer, error) {
	req, err := http.NewRequest(http.MethodGet, url+"/verify", nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return answer{}, errors.Join(err, errors.New(resp.Status))
	}
	a := answer{Body: string(body)}
	for name, values := range resp.Header {
		if !slices.Contains(made, name) {
			a.Header = append(a.Header, [2]string{name, values[0]})
		}
	}
	return a, nil
}

// askTask is what a process asks, for Length.
type askTask struct {
	URL     string
	Callers int
	Tokens  []string
	Length  time.Duration
}

// ask is the process that asks, over a connection for each caller.
func ask(in *json.Decoder, out *json.Encoder) error {
	var task askTask
	if err := in.Decode(&task); err != nil {
		return err
	}
	requests := make([][]byte, len(task.Tokens))
	for i, token := range task.Tokens {
		requests[i] = rawhttp.Get("/verify", "Authorization: Bearer "+token)
	}
	callers := make([]func() error, task.Callers)
	for i := range callers {
		conn, err := rawhttp.Dial(task.URL)
		if err != nil {
			return err
		}
		defer conn.Close()
		next := i * len(requests) / len(callers)
		callers[i] = func() error {
			next = (next + 1) % len(requests)
			_, err := conn.Do(requests[next])
			return err
		}
	}
	return out.Encode(load.Closed(callers, task.Length))
}

// serveEmpty is the process that answers always the same, from a server that is set up as the
// edge's is.
func serveEmpty(in *json.Decoder, out *json.Encoder) error {
	var same answer
	if err := in.Decode(&same); err != nil {
		return err
	}
	app := fiber.New(fiber.Config{
		DisableStartupMessage: true, Immutable: true, StrictRouting: true, CaseSensitive: true,
		ReadBufferSize: 16 << 10, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute,
	})
	app.Get("/verify", func(c *fiber.Ctx) error {
		for _, h := range same.Header {
			c.Set(h[0], h[1])
		}
		return c.SendString(same.Body)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = app.Listener(listener) }() // whoever asks sees that it fails
	return errors.Join(part.Serve(in, out, "http://"+listener.Addr().String()), app.Shutdown())
}
