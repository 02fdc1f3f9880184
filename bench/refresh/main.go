// Command refresh measures refreshes over the bus and over HTTP beside the same statement
// under pgbench, on the same Postgres, in the same table:
//
//	go run ./bench/refresh
//
// The Postgres is one of its own and waits for its disk at each commit, unless -durable=false.
// pgbench prepares its statement; authd, its own bus in it, runs without limits.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/load"
	"github.com/zyotra/auth/bench/internal/part"
	"github.com/zyotra/auth/bench/internal/rawhttp"
	"github.com/zyotra/auth/bench/internal/sessions"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/testpg"
)

var (
	rounds  = flag.Int("rounds", 5, "how often each side is measured")
	seconds = flag.Int("seconds", 3, "of each measurement")
	clients = flag.Int("clients", 16, "refreshes at once, each of a session of its own")
	durable = flag.Bool("durable", true, "wait for the disk at each commit")
)

//go:embed refresh.pgbench
var script []byte

func main() {
	part.Main(map[string]part.Func{"bus": askBus, "http": askHTTP})
	flag.Parse()
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	pgbench, err := testpg.Program(ctx, "pgbench")
	if err != nil {
		return err
	}
	postgres, err := testpg.Start(ctx, testpg.Config{Durable: *durable})
	if err != nil {
		return err
	}
	defer postgres.Close()
	binary, dir, clean, err := daemon.Build()
	if err != nil {
		return err
	}
	defer clean()
	tokens, err := sessions.Make(ctx, postgres.URL, 1000) // so that the table has some pages
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "script"), script, 0o600); err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	d, err := daemon.Start(binary, filepath.Join(dir, "one"), "--database-url="+postgres.URL,
		"--secret-key="+base64.StdEncoding.EncodeToString(key), "--refresh-token-secret="+sessions.Secret)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	results, err := load.InTurn(*rounds,
		refreshes("bus", d.NATS, tokens[:*clients]),
		refreshes("http", d.HTTP, tokens[*clients:2**clients]),
		func() (load.Result, error) { return statements(ctx, pgbench, dir, postgres.URL) },
	)
	if err != nil {
		return err
	}
	table := load.NewTable(os.Stdout, "refresh", "authd", "pgbench")
	table.Row(fmt.Sprintf("bus, %d at once", *clients), results[0], results[2])
	table.Row(fmt.Sprintf("HTTP, %d at once", *clients), results[1], results[2])
	return table.End()
}

// statements has pgbench run the script and reads what each took from its log, in microseconds
// in the third column.
func statements(ctx context.Context, pgbench, dir, url string) (r load.Result, err error) {
	cmd := exec.CommandContext(ctx, pgbench, "--no-vacuum", "--protocol=prepared", fmt.Sprintf("--client=%d", *clients),
		fmt.Sprintf("--jobs=%d", min(*clients, runtime.GOMAXPROCS(0))), fmt.Sprintf("--time=%d", *seconds),
		"--define=new=1", "--define=ip=127.0.0.1", "--define=agent=pgbench", "--log", "--log-prefix=took", "--file=script", url)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("aborted")) {
		return r, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	_, rate, _ := strings.Cut(string(out), "\ntps = ")
	if _, err := fmt.Sscan(rate, &r.PerSecond); err != nil {
		return r, fmt.Errorf("pgbench tells no rate: %w\n%s", err, out)
	}
	took, err := readLogs(dir)
	r.Took(took)
	return r, err
}

// readLogs reads what pgbench has logged, a file for each of its threads, and removes it.
func readLogs(dir string) (took []time.Duration, err error) {
	logs, err := filepath.Glob(filepath.Join(dir, "took.*"))
	if err != nil {
		return nil, err
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			var client, number, micros int64
			if _, err := fmt.Sscan(line, &client, &number, &micros); err != nil {
				return nil, fmt.Errorf("pgbench's log: %w", err)
			}
			took = append(took, time.Duration(micros)*time.Microsecond)
		}
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// refreshes has a process refresh the sessions of the tokens, which are then the current ones.
func refreshes(name, url string, tokens []string) func() (load.Result, error) {
	return func() (load.Result, error) {
		done, err := part.Run[answer](name, askTask{URL: url, Tokens: tokens, Length: time.Duration(*seconds) * time.Second})
		if err == nil {
			copy(tokens, done.Tokens)
		}
		return done.Result, err
	}
}

// askTask is what a process does: a caller for each token, for Length.
type askTask struct {
	URL    string
	Tokens []string
	Length time.Duration
}

// answer is how fast it was done, and the tokens that are the current ones then.
type answer struct {
	load.Result
	Tokens []string
}

// askBus is the process that refreshes over the bus.
func askBus(in *json.Decoder, out *json.Encoder) error {
	return closed(in, out, func(url string) (func(string) (string, error), error) {
		conn, err := bus.Connect(url)
		return func(token string) (string, error) {
			next, err := bus.Call(context.Background(), conn, auth.Refresh, auth.RefreshRequest{RefreshToken: token})
			return next.RefreshToken, err
		}, err
	})
}

// askHTTP is the process that refreshes over HTTP.
func askHTTP(in *json.Decoder, out *json.Encoder) error {
	return closed(in, out, func(url string) (func(string) (string, error), error) {
		conn, err := rawhttp.Dial(url)
		return func(token string) (string, error) {
			body, err := conn.Do(rawhttp.Post("/refresh", `{"refreshToken":"`+token+`"}`))
			if err != nil {
				return "", err
			}
			var next struct{ RefreshToken string }
			err = json.Unmarshal(body, &next)
			return next.RefreshToken, err
		}, err
	})
}

// closed has a caller for each token exchange it again and again, by what connect makes.
// Connections end with the process.
func closed(in *json.Decoder, out *json.Encoder, connect func(url string) (func(token string) (string, error), error)) error {
	var task askTask
	if err := in.Decode(&task); err != nil {
		return err
	}
	callers := make([]func() error, len(task.Tokens))
	for i := range callers {
		exchange, err := connect(task.URL)
		if err != nil {
			return err
		}
		callers[i] = func() error {
			next, err := exchange(task.Tokens[i])
			if err == nil {
				task.Tokens[i] = next
			}
			return err
		}
	}
	return out.Encode(answer{load.Closed(callers, task.Length), task.Tokens})
}
