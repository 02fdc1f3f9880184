package fleet_test

import (
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/e2e/testproxy"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testpg"
)

// fleet is authd as it runs in earnest: replicas on one Postgres and a NATS cluster of three,
// all of them processes of their own. Each replica reaches both through proxies.
type fleet struct {
	t        *testing.T
	postgres *testpg.Server
	nats     *testnats.Cluster
	bus      roleBus
	replicas []*replica
}

// startFleet starts two whole replicas, one of handlers alone and an edge.
func startFleet(t *testing.T, flags ...string) *fleet {
	t.Helper()
	f := &fleet{t: t}
	f.startPostgres()
	f.nats, f.bus = clusterOfRoles(t)
	for _, parts := range allParts {
		r := f.newReplica(parts, flags)
		r.start(t)
		f.replicas = append(f.replicas, r)
	}
	return f
}

// allParts are the parts that each replica of a fleet runs.
var allParts = [][]string{{"serve"}, {"serve"}, {"serve", "--handlers"}, {"serve", "--edge"}}

func (f *fleet) startPostgres() {
	f.t.Helper()
	pg, err := testpg.Start(f.t.Context(), testpg.Config{})
	check(f.t, err)
	f.t.Cleanup(pg.Close)
	f.postgres = pg
}

// replica is one authd. It listens elsewhere after each start, as a container does.
type replica struct {
	name     string
	args     []string
	program  func(testing.TB) *exec.Cmd // without arguments
	isEdge   bool                       // it listens for HTTP
	postgres *testproxy.Proxy           // nil for an edge alone
	nats     []*testproxy.Proxy
	process  *testauthd.Instance
	address  atomic.Pointer[string] // of its HTTP, "" while it is not there
}

func (f *fleet) newReplica(parts, flags []string) *replica {
	f.t.Helper()
	r := &replica{name: string(rune('a' + len(f.replicas))), program: released, isEdge: parts[len(parts)-1] != "--handlers"}
	r.address.Store(new(string))
	var urls []string
	for _, s := range f.nats.Servers {
		proxy := testproxy.Start(f.t, strings.TrimPrefix(s.URL(), "nats://"))
		r.nats, urls = append(r.nats, proxy), append(urls, "nats://"+proxy.Addr())
	}
	behind := f.bus
	behind.url = strings.Join(urls, ",")
	r.args = slices.Concat(parts, behind.flags(), flags)
	if parts[len(parts)-1] == "--edge" {
		return r
	}
	database, err := url.Parse(f.postgres.URL)
	check(f.t, err)
	r.postgres = testproxy.Start(f.t, database.Host)
	database.Host = r.postgres.Addr()
	r.args = append(r.args, testauthd.WithPostgres(database.String())...)
	return r
}

// released is this program.
func released(t testing.TB) *exec.Cmd { return testauthd.Command(t, testauthd.Owned) }

func (r *replica) start(t *testing.T) {
	t.Helper()
	cmd := r.program(t)
	cmd.Args = append(cmd.Args, append(r.args, testauthd.ListenAnywhere()...)...)
	r.process = testauthd.Execute(t, t.TempDir(), cmd)
	r.process.Ready(t)
	r.address.Store(&r.process.HTTP)
}

// stop ends it in good order. Nobody takes its address from the callers: a load balancer has
// not heard of it either.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	r.process.Stop(t)
}

func (r *replica) kill(t *testing.T) {
	t.Helper()
	check(t, r.process.Signal(syscall.SIGKILL))
	<-r.process.Exited
}

// silenceNATS lets nothing through to NATS, or lets it again.
func (r *replica) silenceNATS(is bool) {
	for _, s := range r.nats {
		s.Silence(is)
	}
}

// isReady asks /readyz, as a load balancer does: without patience.
func (r *replica) isReady() bool {
	resp, err := impatient.Get(*r.address.Load() + "/readyz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}

var impatient = http.Client{Timeout: 3 * time.Second}

// edges are the addresses that callers know.
func (f *fleet) edges() (list []*replica) {
	for _, r := range f.replicas {
		if r.isEdge {
			list = append(list, r)
		}
	}
	return list
}

// ready waits until all edges say that they are.
func (f *fleet) ready() {
	f.t.Helper()
	for _, r := range f.edges() {
		testauthd.Until(f.t, "replica "+r.name+" is ready", r.isReady)
	}
}

// app is a client of the cluster, as other services are.
func (f *fleet) app() *nats.Conn {
	f.t.Helper()
	var options []nats.Option
	if f.bus.seed != "" {
		key, err := nats.NkeyOptionFromSeed(filepath.Join(f.bus.seed, embedded.App+".nk"))
		check(f.t, err)
		options = append(options, key)
	}
	conn, err := bus.Connect(f.bus.url, options...)
	check(f.t, err)
	f.t.Cleanup(conn.Close)
	return conn
}

// roleBus is an external bus with roles.
type roleBus struct {
	url  string
	seed string // directory of the NKey seeds; "" if the bus needs no credentials
}

// flags returns the flags of a command that has the credentials of every role.
func (b roleBus) flags() []string {
	if b.seed == "" {
		return []string{"--nats-url=" + b.url}
	}
	return []string{"--nats-url=" + b.url, "--nats-nkey-seed-file=" + b.seed}
}

// as connects in a role.
func (b roleBus) as(t *testing.T, role string) *nats.Conn {
	t.Helper()
	options := []nats.Option{nats.CustomInboxPrefix("_INBOX_" + role)}
	if b.seed != "" {
		key, err := nats.NkeyOptionFromSeed(filepath.Join(b.seed, role+".nk"))
		check(t, err)
		options = append(options, key)
	}
	return testauthd.Connect(t, b.url, options...)
}

// clusterOfRoles is three servers as "authd nats-config" writes them down. They do not tell clients of
// each other, who would go round the proxies.
func clusterOfRoles(t *testing.T) (*testnats.Cluster, roleBus) {
	t.Helper()
	dir := t.TempDir()
	config := testauthd.Run(t, dir, "nats-config", "--dir=keys", "--servers="+strings.Join(testnats.Hosts, ","))
	config = strings.Replace(config, "\ncluster {", "\ncluster {\n  no_advertise: true", 1)
	c := testnats.StartCluster(t, testnats.Config{Text: testnats.Moved(config)})
	return c, roleBus{url: c.URLs(), seed: filepath.Join(dir, "keys")}
}

// tally is what callers went through since it was last emptied.
type tally struct {
	mu sync.Mutex
	reckoning
	waiting map[int]time.Time // requests that have no answer yet, and when they began
	begun   int
}

// reckoning is one line of the table.
type reckoning struct {
	requests int
	missed   int           // first tries without an answer
	failed   int           // of those, also without one at the retry
	longest  time.Duration // from asking to the answer, with as many tries as that took
	last     time.Time     // when a try last had no answer
	stale    time.Duration // how long after its end a session was good, at most
	given    int           // sessions given up: no answer while the spent token was good
}

// begin notes a request, which is answered in the end.
func (c *tally) begin(at time.Time) (request int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[int]time.Time{}
	}
	c.begun++
	c.waiting[c.begun] = at
	return c.begun
}

// allBegunAfter tells whether no request waits that began before.
func (c *tally) allBegunAfter(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, began := range c.waiting {
		if began.Before(at) {
			return false
		}
	}
	return true
}

func (c *tally) answered(request, tries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := time.Since(c.waiting[request])
	delete(c.waiting, request)
	c.requests++
	c.longest = max(c.longest, took)
	if tries > 1 {
		c.missed++
	}
	if tries > 2 {
		c.failed++
	}
}

func (c *tally) unanswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
}

func (c *tally) wasStale(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = max(c.stale, by)
}

func (c *tally) gaveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given++
}

// empty returns the line and begins a new one.
func (c *tally) empty() reckoning {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reckoning
	c.reckoning = reckoning{}
	return r
}
