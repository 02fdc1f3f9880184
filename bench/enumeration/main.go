// Command enumeration tries to find out who has an account. It starts authd on loopback, sends
// logins that fail for different reasons, interleaved, over HTTP and over the bus, and prints how
// long each kind took in the median and how likely its times are if they came from the same
// distribution as those of a wrong password (Mann-Whitney U, two-sided); and whether status, body
// and headers are the same:
//
//	go run ./bench/enumeration
//
// A p that is small, run after run, tells the kinds apart.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aclements/go-moremath/stats"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

const password = "correct horse battery"

func main() {
	tries := flag.Int("tries", 300, "tries of each kind")
	flag.Parse()
	if err := run(context.Background(), *tries); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, tries int) (err error) {
	dir, err := os.MkdirTemp("", "authd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := daemon.Build(dir)
	if err != nil {
		return err
	}
	free, err := daemon.Start(binary, filepath.Join(dir, "free"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, free.Stop()) }()
	if err := compare(ctx, "logins, without limits", free, tries, failing()); err != nil {
		return err
	}
	limited, err := daemon.Start(binary, filepath.Join(dir, "limited"), "--rate-limits=on",
		"--limit-login=1/15m", "--limit-login-source=1000/100ms", "--limit-register-source=1000/100ms")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limited.Stop()) }()
	return compare(ctx, "logins that have to wait", limited, tries, waiting())
}

// kind is a login that fails. The first of a list is what the others are compared with.
type kind struct{ name, email, password string }

// failing are the reasons for which a login fails. All but the last three addresses have
// accounts.
func failing() []kind {
	return []kind{
		{"wrong password", "ada@example.com", "wrong horse battery"},
		{"disabled, right password", "off@example.com", password},
		{"disabled, wrong password", "off@example.com", "wrong horse battery"},
		{"over-long password", "ada@example.com", strings.Repeat("x", 2000)},
		{"over-long, unknown", "eve@example.com", strings.Repeat("x", 2000)},
		{"unknown address", "eve@example.com", "wrong horse battery"},
		{"no address at all", "not an address", "wrong horse battery"},
	}
}

// waiting are logins that are limited already.
func waiting() []kind {
	return []kind{
		{"wrong password", "ada@example.com", "wrong horse battery"},
		{"right password", "ada@example.com", password},
		{"disabled", "off@example.com", password},
		{"unknown address", "eve@example.com", "wrong horse battery"},
		{"no address at all", "not an address", "wrong horse battery"},
	}
}

// door sends a login and returns all that the answer tells.
type door func(kind) (answer string, err error)

func compare(ctx context.Context, title string, d *daemon.Daemon, tries int, kinds []kind) error {
	conn, err := bus.Connect(d.NATS)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := people(ctx, conn, d); err != nil {
		return err
	}
	for _, side := range []struct {
		name string
		send door
	}{{"over HTTP", overHTTP(ctx, d.HTTP)}, {"over the bus", overBus(conn)}} {
		fmt.Printf("%s, %s, %d tries of each kind\n", title, side.name, tries)
		if err := table(side.send, tries, kinds); err != nil {
			return err
		}
	}
	return nil
}

// people registers whom the kinds are about.
func people(ctx context.Context, conn *nats.Conn, d *daemon.Daemon) error {
	if _, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: "ada@example.com", Password: password}); err != nil {
		return err
	}
	off, err := bus.Call(ctx, conn, auth.Register, auth.RegisterRequest{Email: "off@example.com", Password: password})
	if err != nil {
		return err
	}
	key, err := nats.NkeyOptionFromSeed(embedded.SeedFile(filepath.Join(d.Dir, "nats"), embedded.Admin))
	if err != nil {
		return err
	}
	admin, err := bus.Connect(d.NATS, key, nats.CustomInboxPrefix("_INBOX_"+embedded.Admin))
	if err != nil {
		return err
	}
	defer admin.Close()
	_, err = bus.Call(ctx, admin, auth.AdminUsersDisable, auth.AdminUsersDisableRequest{UserID: off.UserID})
	return err
}

// table sends all kinds interleaved, in a new order each time.
func table(send door, tries int, kinds []kind) error {
	took, answers := make([][]float64, len(kinds)), make([]string, len(kinds))
	for n := range tries + 5 {
		for _, i := range rand.Perm(len(kinds)) {
			began := time.Now()
			answer, err := send(kinds[i])
			if err != nil {
				return fmt.Errorf("%s: %w", kinds[i].name, err)
			}
			if n < 5 { // until connections are open and limits used up
				continue
			}
			took[i] = append(took[i], float64(time.Since(began)))
			answers[i] = answer
		}
	}
	for i, k := range kinds {
		same, p := "the same answer", 1.0
		if answers[i] != answers[0] {
			same = "ANOTHER ANSWER " + answers[i]
		}
		if i > 0 {
			test, err := stats.MannWhitneyUTest(took[0], took[i], stats.LocationDiffers)
			if err != nil {
				return err
			}
			p = test.P
		}
		slices.Sort(took[i])
		fmt.Printf("  %-26s median %9s  p %.3f  %s\n", k.name, time.Duration(took[i][len(took[i])/2]).Round(time.Microsecond), p, same)
	}
	fmt.Println("  answer:", answers[0])
	return nil
}

func overHTTP(ctx context.Context, url string) door {
	client := &http.Client{Timeout: 10 * time.Second}
	return func(k kind) (string, error) {
		body, err := json.Marshal(map[string]string{"email": k.email, "password": k.password})
		if err != nil {
			return "", err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/login", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		return fmt.Sprint(resp.Status, " ", withoutWait(string(text)), " ", len(resp.Header), " headers"), err
	}
}

func overBus(conn *nats.Conn) door {
	return func(k kind) (string, error) {
		body, err := json.Marshal(map[string]string{"email": k.email, "password": k.password})
		if err != nil {
			return "", err
		}
		reply, err := conn.Request(string(auth.Login), body, 10*time.Second)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(withoutWait(string(reply.Data)), " ", len(reply.Header), " headers"), nil
	}
}

// withoutWait leaves out how long to wait, which runs down.
func withoutWait(body string) string {
	before, _, _ := strings.Cut(body, `,"retryAfter"`)
	return before
}
