// Command login measures logins over the bus and over HTTP beside bare comparisons of bcrypt
// on all cores, which no login can do without:
//
//	go run ./bench/login
//
// authd runs with SQLite and its own bus and without limits; whoever asks and whoever
// compares have processes of their own.
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

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bench/internal/load"
	"github.com/zyotra/auth/bench/internal/part"
	"github.com/zyotra/auth/bench/internal/rawhttp"
	"github.com/zyotra/auth/bus"
)

const (
	address = "ada@example.com"
	secret  = "correct horse battery"
	cost    = 10 // BCRYPT_COST, unless it is set
)

var (
	rounds = flag.Int("rounds", 3, "how often each side is measured")
	length = flag.Duration("length", 3*time.Second, "of each measurement")
)

func main() {
	part.Main(map[string]part.Func{"bare": compareBare, "bus": askBus, "http": askHTTP})
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
	d, err := daemon.Start(binary, filepath.Join(dir, "one"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: address, Password: secret}); err != nil {
		return err
	}
	return measure(d)
}

// measure has bare comparisons and each kind of login take turns.
func measure(d *daemon.Daemon) error {
	names := []string{"bare"}
	sides := []func() (load.Result, error){side("bare", askTask{Callers: runtime.GOMAXPROCS(0)})}
	for _, n := range []int{2, 8, 32} {
		names = append(names, fmt.Sprintf("bus, %d at once", n), fmt.Sprintf("HTTP, %d at once", n))
		sides = append(sides, side("bus", askTask{URL: d.NATS, Callers: n}), side("http", askTask{URL: d.HTTP, Callers: n}))
	}
	results, err := load.InTurn(*rounds, sides...)
	if err != nil {
		return err
	}
	table := load.NewTable(os.Stdout, "login", "authd", "bcrypt")
	for i, r := range results[1:] {
		table.Row(names[1+i], r, results[0])
	}
	return table.End()
}

func side(name string, task askTask) func() (load.Result, error) {
	task.Length = *length
	return func() (load.Result, error) { return part.Run[load.Result](name, task) }
}

// askTask is what a process does again and again, for Length.
type askTask struct {
	URL     string
	Callers int
	Length  time.Duration
}

// compareBare is the process that compares passwords and does nothing else.
func compareBare(in *json.Decoder, out *json.Encoder) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), cost)
	if err != nil {
		return err
	}
	return closed(in, out, func(askTask) (func() error, error) {
		return func() error { return bcrypt.CompareHashAndPassword(hash, []byte(secret)) }, nil
	})
}

// askBus is the process that logs in over the bus.
func askBus(in *json.Decoder, out *json.Encoder) error {
	return closed(in, out, func(task askTask) (func() error, error) {
		conn, err := bus.Connect(task.URL)
		return func() error {
			_, err := bus.Call(context.Background(), conn, auth.Login, auth.LoginRequest{Email: address, Password: secret})
			return err
		}, err
	})
}

// askHTTP is the process that logs in over HTTP.
func askHTTP(in *json.Decoder, out *json.Encoder) error {
	request := rawhttp.Post("/login", fmt.Sprintf(`{"email":%q,"password":%q}`, address, secret))
	return closed(in, out, func(task askTask) (func() error, error) {
		conn, err := rawhttp.Dial(task.URL)
		return func() error {
			_, err := conn.Do(request)
			return err
		}, err
	})
}

// closed has the task's callers each do what caller makes for them. Their connections end with
// the process.
func closed(in *json.Decoder, out *json.Encoder, caller func(askTask) (func() error, error)) error {
	var task askTask
	if err := in.Decode(&task); err != nil {
		return err
	}
	callers := make([]func() error, task.Callers)
	for i := range callers {
		var err error
		if callers[i], err = caller(task); err != nil {
			return err
		}
	}
	return out.Encode(load.Closed(callers, task.Length))
}
