package testauthd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/zyotra/auth/bus/embedded"
)

// MasterSecret is a SECRET_KEY for instances that share a database.
const MasterSecret = "q0bTBAFl3iYwZzG7M1nRk5xW9dVhPcJ2sUeXoL8aKtY="

// Requests and answers of the account that most tests use. Answers have the names that Mask
// gives to volatile values.
const (
	Credentials = `{"email":"ada@example.com","password":"correct horse battery"}`
	Registered  = `{"message":"User registered successfully","userId":1}`

	Tokens   = `"accessToken":"<token>","refreshToken":"<token>","tokenType":"Bearer","expiresIn":900,"sessionId":"<session>"`
	LoggedIn = `{"message":"Login successful","userId":1,` + Tokens + `}`
	Verified = `{"userId":1,"sessionId":"<session>","scopes":[],"amr":["pwd"],"authTime":"<time>","issuedAt":"<time>","expiresAt":"<time>"}`
	Account  = `{"userId":1,"email":"ada@example.com","emailVerified":false,"name":"Ada","createdAt":"<time>","updatedAt":"<time>"}`
)

// Login returns the body of a login.
func Login(address, password string) string {
	return fmt.Sprintf(`{"email":%q,"password":%q}`, address, password)
}

// JSON returns the header of a request with a JSON body.
func JSON() map[string][]string { return map[string][]string{"Content-Type": {"application/json"}} }

// SignUp makes an account and a session and returns its refresh token.
func SignUp(t testing.TB, a *Instance) string {
	t.Helper()
	a.Post(t, "/register", Credentials).Answered(t, 201, Registered)
	return a.Post(t, "/login", Credentials).Member(t, "refreshToken")
}

// Taken holds a port of this machine until the test ends and returns its address.
func Taken(t testing.TB) (host, port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Check(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	host, port, err = net.SplitHostPort(listener.Addr().String())
	Check(t, err)
	return host, port
}

// WithPostgres returns the flags of an instance on a Postgres database.
func WithPostgres(url string) []string {
	return []string{"--database-url=" + url, "--migrate", "--secret-key=" + MasterSecret}
}

// StartApart runs the handlers, with the bus, and the edge as two processes.
func StartApart(t testing.TB, flags ...string) (edge, handlers *Instance) {
	t.Helper()
	handlers = Start(t, append([]string{"serve", "--handlers"}, flags...)...)
	return StartEdge(t, handlers), handlers
}

// StartEdge runs an edge on the bus of the handlers.
func StartEdge(t testing.TB, handlers *Instance) *Instance {
	t.Helper()
	return Start(t, "serve", "--edge", "--nats-url="+handlers.NATS,
		"--nats-nkey-seed-file="+embedded.SeedFile(handlers.Dir+"/data/nats", embedded.Edge))
}

// WithJetStream returns the options of a server that keeps streams.
func WithJetStream(t testing.TB) server.Options {
	t.Helper()
	return server.Options{JetStream: true, StoreDir: t.TempDir()}
}

// ExternalNATS runs a NATS server in this process, which knows nothing of authd.
func ExternalNATS(t testing.TB, o server.Options) (url string) {
	t.Helper()
	o.Host, o.Port, o.NoLog, o.NoSigs = "127.0.0.1", -1, true, true
	ns, err := server.NewServer(&o)
	Check(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(Patience) {
		t.Fatal("the NATS server does not come up")
	}
	return "nats://" + ns.Addr().String()
}

// Chaos returns the number in the environment by which tests multiply their faults: 1 for CI, more
// for "make chaos".
func Chaos(t testing.TB) int {
	t.Helper()
	text := os.Getenv("CHAOS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CHAOS=%q is not a number from 1 on", text)
	}
	return n
}

// Moment lets a random time pass, so that a fault comes at any point of the work.
func Moment(least, most time.Duration) { time.Sleep(least + rand.N(most-least)) }

// Until polls a condition until it holds. It is for changes that no message announces.
func Until(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(Patience); !so(); {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still not: %s", what)
		}
	}
}

// All runs fn n times concurrently and returns when all have returned.
func All(n int, fn func(i int) error) error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = fn(i) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Check fails the test on an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
