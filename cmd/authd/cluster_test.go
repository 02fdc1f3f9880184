package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testpg"
)

// skew is how far the clock of one replica is off, where it is.
const skew = 30 * time.Second

// The same program with another time. There is no setting for that.
func ownedAhead()  { systemTime = func() time.Time { return time.Now().Add(skew) }; owned() }
func ownedBehind() { systemTime = func() time.Time { return time.Now().Add(-skew) }; owned() }

// fleet is authd as it runs in earnest: replicas on one Postgres and a NATS cluster of three,
// all of them processes of their own. Each replica reaches both through proxies.
type fleet struct {
	t        *testing.T
	postgres *testpg.Server
	nats     []*clusterServer
	replicas []*replica
}

// startFleet starts two whole replicas, one of handlers alone and an edge.
func startFleet(t *testing.T, flags ...string) *fleet {
	t.Helper()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	f := &fleet{t: t, postgres: pg, nats: startNATSCluster(t)}
	for _, parts := range [][]string{{"serve"}, {"serve"}, {"serve", "--handlers"}, {"serve", "--edge"}} {
		r := f.newReplica(parts, flags)
		r.start(t)
		f.replicas = append(f.replicas, r)
	}
	return f
}

// replica is one authd. It listens elsewhere after each start, as a container does.
type replica struct {
	name     string
	args     []string
	program  func() *exec.Cmd // without arguments
	isEdge   bool             // it listens for HTTP
	postgres *silencer        // nil for an edge alone
	nats     []*silencer
	process  *instance
	address  atomic.Pointer[string] // of its HTTP, "" while it is not there
}

func (f *fleet) newReplica(parts, flags []string) *replica {
	f.t.Helper()
	r := &replica{name: string(rune('a' + len(f.replicas))), program: released, isEdge: parts[len(parts)-1] != "--handlers"}
	r.address.Store(new(string))
	var urls []string
	for _, s := range f.nats {
		proxy := startSilencer(f.t, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
		r.nats, urls = append(r.nats, proxy), append(urls, "nats://"+proxy.listener.Addr().String())
	}
	r.args = append(append(parts, "--nats-url="+strings.Join(urls, ",")), flags...)
	if parts[len(parts)-1] == "--edge" {
		return r
	}
	database, err := url.Parse(f.postgres.URL)
	check(f.t, err)
	r.postgres = startSilencer(f.t, database.Host)
	database.Host = r.postgres.listener.Addr().String()
	r.args = append(r.args, withPostgres(database.String())...)
	return r
}

// released is this program.
func released() *exec.Cmd { return exec.Command("owned-authd") }

func (r *replica) start(t *testing.T) {
	t.Helper()
	cmd := r.program()
	cmd.Args = append(cmd.Args, append(r.args, listenAnywhere...)...)
	r.process = execute(t, t.TempDir(), cmd)
	r.process.ready(t)
	r.address.Store(&r.process.http)
}

// stop ends it in good order. Nobody takes its address from the callers: a load balancer has
// not heard of it either.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	r.process.stop(t)
}

func (r *replica) kill(t *testing.T) {
	t.Helper()
	check(t, r.process.signal(syscall.SIGKILL))
	<-r.process.exited
}

// silence lets nothing through to NATS, or lets it again.
func (r *replica) silenceNATS(is bool) {
	for _, s := range r.nats {
		s.silence(is)
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
		until(f.t, "replica "+r.name+" is ready", r.isReady)
	}
}

// natsURL is where callers find the cluster, without a proxy.
func (f *fleet) natsURL() string {
	var urls []string
	for _, s := range f.nats {
		urls = append(urls, "nats://127.0.0.1:"+strconv.Itoa(s.port))
	}
	return strings.Join(urls, ",")
}

// connect is a client of the cluster, as other services are.
func (f *fleet) connect(options ...nats.Option) *nats.Conn {
	f.t.Helper()
	conn, err := bus.Connect(f.natsURL(), options...)
	check(f.t, err)
	f.t.Cleanup(conn.Close)
	return conn
}

// leader is the server that leads the stream of the events.
func (f *fleet) leader(conn *nats.Conn) *clusterServer {
	f.t.Helper()
	js, err := jetstream.New(conn)
	check(f.t, err)
	var found *clusterServer
	until(f.t, "the stream has a leader and two followers", func() bool {
		s, err := js.Stream(f.t.Context(), events.Stream)
		if err != nil || s.CachedInfo().Cluster == nil || len(s.CachedInfo().Cluster.Replicas) != 2 {
			return false
		}
		for _, n := range f.nats {
			if n.name == s.CachedInfo().Cluster.Leader {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// clusterServer is a NATS server of a cluster, in a process of its own.
type clusterServer struct {
	name, dir   string
	port, route int
	routes      string // of all
	process     *instance
}

func startNATSCluster(t *testing.T) []*clusterServer {
	t.Helper()
	ports := freePorts(t, 6)
	servers := make([]*clusterServer, 3)
	var routes []string
	for i := range servers {
		servers[i] = &clusterServer{name: fmt.Sprint("n", i+1), dir: t.TempDir(), port: ports[2*i], route: ports[2*i+1]}
		routes = append(routes, fmt.Sprint("nats://127.0.0.1:", servers[i].route))
	}
	for _, s := range servers {
		s.routes = strings.Join(routes, ",")
		s.launch(t)
	}
	for _, s := range servers {
		s.process.line(t, "ready")
	}
	return servers
}

func (s *clusterServer) launch(t *testing.T) {
	t.Helper()
	s.process = execute(t, s.dir, exec.Command("owned-nats-cluster", s.name, s.dir, strconv.Itoa(s.port), strconv.Itoa(s.route), s.routes))
}

func (s *clusterServer) kill(t *testing.T) {
	t.Helper()
	check(t, s.process.signal(syscall.SIGKILL))
	<-s.process.exited
}

// ownedNATSCluster is a NATS server of a cluster that ends with the test process:
// owned-nats-cluster name dir port cluster-port routes. It does not tell clients of the others, who
// would go round their proxies.
func ownedNATSCluster() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(99)
	}()
	port, err := strconv.Atoi(os.Args[3])
	route, err2 := strconv.Atoi(os.Args[4])
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	o := &server.Options{
		ServerName: os.Args[1], StoreDir: os.Args[2], Host: "127.0.0.1", Port: port, JetStream: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: route, NoAdvertise: true},
		Routes:  server.RoutesFromStr(os.Args[5]),
	}
	o.PingInterval, o.MaxPingsOut = natsPing, natsPingsOut
	ns, err := server.NewServer(o)
	if err != nil {
		panic(err)
	}
	ns.Start()
	for !ns.JetStreamIsCurrent() || !ns.ReadyForConnections(patience) {
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "ready")
	ns.WaitForShutdown()
}

// How soon a NATS server notices that a client is behind a network that says nothing.
const (
	natsPing     = 3 * time.Second
	natsPingsOut = 2
)

// freePorts are ports that nobody listens on, none of them twice.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// tally is what callers went through since it was last emptied.
type tally struct {
	mu sync.Mutex
	reckoning
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

func (c *tally) answered(tries int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
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
