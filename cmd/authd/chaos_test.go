package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// chaos is the number in the environment by which the faults of these tests are multiplied:
// 1 for CI, more for "make chaos".
func chaos(t *testing.T) int {
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

// moment lets a random time pass: when a fault comes is not for us to choose.
func moment(least, most time.Duration) { time.Sleep(least + rand.N(most-least)) }

// ownedNATS is a NATS server with JetStream that ends with the test process: owned-nats port dir.
func ownedNATS() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(99)
	}()
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: os.Args[2], NoLog: true})
	if err != nil {
		panic(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		panic("not ready")
	}
	fmt.Fprintln(os.Stderr, ns.ClientURL())
	ns.WaitForShutdown()
}

// cluster is an external NATS of one server, in a process of its own.
type cluster struct {
	url, store string
	server     *instance
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{store: t.TempDir()}
	c.start(t, "-1")
	return c
}

func (c *cluster) start(t *testing.T, port string) {
	t.Helper()
	c.server = execute(t, t.TempDir(), exec.Command("owned-nats", port, c.store))
	c.url = strings.TrimSpace(c.server.line(t, "nats://"))
}

// restart starts it again where it was.
func (c *cluster) restart(t *testing.T) {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(c.url, "nats://"))
	check(t, err)
	c.start(t, port)
}

// end ends it, in good order or by SIGKILL.
func (c *cluster) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	check(t, c.server.signal(s))
	c.server.wait(t, patience)
}

// connect is a client that never gives up.
func (c *cluster) connect(t *testing.T) *nats.Conn {
	t.Helper()
	return connect(t, c.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

// people are clients that register, log in, change their accounts and delete them, during faults
// too.
type people struct {
	conn atomic.Pointer[nats.Conn]
	end  func() error // returns when no client acts any more

	mu      sync.Mutex
	served  int           // requests that were carried out
	slowest time.Duration // of those
	ended   []string      // sessions whose end was confirmed
	whole   int           // lives that came to their end
}

// populate lets people live over conn until they are told to end.
func populate(t *testing.T, conn *nats.Conn) *people {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &people{}
	p.conn.Store(conn)
	patient := context.WithoutCancel(ctx) // what was begun is waited for
	over := make(chan error, 1)
	go func() {
		over <- all(4, func(w int) error {
			for n := 0; ctx.Err() == nil; n++ {
				who := fmt.Sprintf("u%d.%d", w, n)
				if p.live(patient, who) != nil {
					time.Sleep(20 * time.Millisecond) // it is away
					continue
				}
				p.mu.Lock()
				p.whole++
				p.mu.Unlock()
			}
			return nil
		})
	}()
	p.end = sync.OnceValue(func() error { stop(); return <-over })
	t.Cleanup(func() { _ = p.end() })
	return p
}

// live is a life, as far as it comes.
func (p *people) live(ctx context.Context, who string) error {
	const password, next = "correct horse battery", "battery staple horse"
	email := `"email":"` + who + `@example.com"`
	if _, err := p.request(ctx, "auth.register", "", `{`+email+`,"password":"`+password+`"}`); err != nil {
		return err
	}
	login := func(password string) (access, session string, err error) {
		reply, err := p.request(ctx, "auth.login", "", `{`+email+`,"password":"`+password+`"}`)
		if err != nil {
			return "", "", err
		}
		var tokens struct{ AccessToken, SessionID string }
		err = json.Unmarshal(reply, &tokens)
		return tokens.AccessToken, tokens.SessionID, err
	}
	first, firstID, err := login(password)
	if err != nil {
		return err
	}
	for n := range 2 {
		if _, err := p.request(ctx, "auth.account.update", first, fmt.Sprintf(`{"name":"%s the %d."}`, who, n)); err != nil {
			return err
		}
	}
	if _, err := p.request(ctx, "auth.logout", first, ""); err != nil {
		return err
	}
	p.over(firstID)
	if rand.N(2) == 0 { // half of them stay
		return nil
	}
	_, firstID, err = login(password)
	if err != nil {
		return err
	}
	second, secondID, err := login(password)
	if err != nil {
		return err
	}
	reply, err := p.request(ctx, "auth.password.change", second, `{"currentPassword":"`+password+`","newPassword":"`+next+`"}`)
	if err != nil {
		return err
	}
	p.over(firstID)
	p.over(secondID)
	var third struct{ AccessToken, SessionID string }
	if err := json.Unmarshal(reply, &third); err != nil {
		return err
	}
	if _, err := p.request(ctx, "auth.account.delete", third.AccessToken, `{"password":"`+next+`"}`); err != nil {
		return err
	}
	p.over(third.SessionID)
	return nil
}

// patience is how long a client waits for a reply, and the service works on it: several times what the
// slowest reply took, so that a lost reply costs little on a fast machine. The service itself gives
// up after bus.Timeout.
func (p *people) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.served == 0 {
		return bus.Timeout
	}
	return min(max(4*p.slowest, time.Second), bus.Timeout)
}

// acts waits until a request is carried out, and then for a random time. So faults meet a service at
// work, however slow the machine is.
func (p *people) acts(t *testing.T) {
	t.Helper()
	served := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.served
	}
	before := served()
	until(t, "a request is carried out", func() bool { return served() > before })
	moment(0, 700*time.Millisecond)
}

func (p *people) over(session string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, session)
}

// request asks and waits for a reply that is no refusal.
func (p *people) request(ctx context.Context, subject, access, body string) ([]byte, error) {
	patience, began := p.patience(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{"Timeout-Ms": {strconv.FormatInt(patience.Milliseconds(), 10)}}}
	if access != "" {
		m.Header.Set("Authorization", "Bearer "+access)
	}
	reply, err := p.conn.Load().RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, err
	}
	if refused := reply.Header.Get("Nats-Service-Error"); refused != "" {
		return nil, errors.New(refused)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served, p.slowest = p.served+1, max(p.slowest, time.Since(began))
	return reply.Data, nil
}

// settled ends the people when some lives have come to their end, waits until all is published and
// compares it with the tables.
func (p *people) settled(t *testing.T, url string, asReader *nats.Conn) *persistence.Store {
	t.Helper()
	until(t, "a life has come to its end", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.whole > 0
	})
	check(t, p.end())
	store, err := persistence.Open(t.Context(), url)
	check(t, err)
	t.Cleanup(func() { check(t, store.Close()) })
	quiet(t, store)
	published(t, store)
	list := recorded(t, asReader)
	truth(t, store, list)
	kinds := map[string]int{}
	for _, e := range list {
		kinds[e.Type]++
	}
	t.Logf("%d events, %d lives lived to the end: %v", len(list), p.whole, kinds)
	if kinds["session.revoked"] == 0 {
		t.Error("too few to mean anything")
	}
	return store
}

// quiet waits until what nobody waits for any more has ended too.
func quiet(t *testing.T, store *persistence.Store) {
	t.Helper()
	var last int64
	since := time.Now()
	until(t, "nothing changes any more", func() bool {
		var seq int64
		check(t, store.DB().NewRaw("SELECT COALESCE(max(seq), 0) FROM outbox").Scan(t.Context(), &seq))
		if seq != last {
			last, since = seq, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// The process is killed at random moments while people come and go, and started again. In
// the end there is an event for each change, and none for what was not.
func TestKilledAtAnyMomentNoEventIsLostOrInvented(t *testing.T) {
	t.Parallel()
	kills := 5 * chaos(t)
	t.Run("Postgres and external bus", func(t *testing.T) {
		t.Parallel()
		url, bus := testpg.URL(t), startCluster(t)
		flags := append(withPostgres(url), "--nats-url="+bus.url)
		conn := bus.connect(t)
		p := populate(t, conn)
		for range kills {
			a := start(t, flags...)
			p.acts(t)
			kill(t, a)
		}
		start(t, flags...)
		p.settled(t, url, conn)
		t.Logf("after %d kills", kills)
	})
	t.Run("SQLite and embedded bus", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		a := launch(t, dir).ready(t)
		p := populate(t, connect(t, a.nats, nats.NoReconnect()))
		for range kills {
			p.acts(t)
			kill(t, a)
			a = launch(t, dir).ready(t)
			p.conn.Load().Close()
			p.conn.Store(connect(t, a.nats, nats.NoReconnect())) // on another port
		}
		asRelay := connect(t, a.nats, embedded.Credentials(filepath.Join(dir, "data", "nats"), embedded.Relay))
		p.settled(t, "sqlite://"+dir+"/data/authd.db", asRelay)
		t.Logf("after %d kills", kills)
	})
}

func kill(t *testing.T, a *instance) {
	t.Helper()
	check(t, a.signal(syscall.SIGKILL))
	<-a.exited
}

// The bus goes, in good order or killed, and comes back; then its streams are lost. The events
// can be had again, and whoever verifies needs none of them.
func TestBusGoesAndForgets(t *testing.T) {
	t.Parallel()
	url, bus := testpg.URL(t), startCluster(t)
	a := start(t, append(withPostgres(url), "--nats-url="+bus.url)...)
	conn := bus.connect(t)
	p := populate(t, conn)
	for n := range 3 * chaos(t) {
		p.acts(t)
		bus.end(t, []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[n%2])
		moment(0, 600*time.Millisecond)
		bus.restart(t)
	}
	p.acts(t)
	store := p.settled(t, url, conn)
	before := len(recorded(t, conn))

	bus.end(t, syscall.SIGTERM)
	check(t, os.RemoveAll(bus.store))
	bus.restart(t)
	until(t, "the service is back", func() bool { return a.get(t, "/readyz", "").Answer.Status == 200 })
	known := revocations(t, bus.connect(t))
	for _, id := range p.ended {
		if !known[id] {
			t.Errorf("session %s has ended and is not listed", id)
		}
	}
	var ended int
	check(t, store.DB().NewRaw("SELECT count(*) FROM outbox WHERE type = 'session.revoked'").Scan(t.Context(), &ended))
	if t.Logf("%d revocations listed, %d confirmed", len(known), len(p.ended)); len(known) != ended {
		t.Errorf("%d revocations listed, %d there are", len(known), ended)
	}
	n, err := store.Republish(t.Context(), time.Now().Add(-24*time.Hour), false)
	check(t, err)
	published(t, store)
	list := recorded(t, conn)
	if n != before || len(list) != before {
		t.Errorf("%d of %d events are back, %d republished", len(list), before, n)
	}
	truth(t, store, list)
}

// revocations asks for all sessions that have ended, page after page.
func revocations(t *testing.T, conn *nats.Conn) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for cursor, more := "", true; more; {
		page, err := bus.Call(t.Context(), conn, auth.Revocations, auth.RevocationsRequest{Since: cursor})
		check(t, err)
		for _, r := range page.Revoked {
			known[r.SessionID] = true
		}
		cursor, more = page.Cursor, page.More
	}
	return known
}

func TestDatabaseGoesAndNoEventIsLostOrInvented(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	bus := startCluster(t)
	start(t, append(withPostgres(pg.URL), "--nats-url="+bus.url)...)
	conn := bus.connect(t)
	p := populate(t, conn)
	for n := range 3 * chaos(t) {
		p.acts(t)
		check(t, []func() error{pg.Kill, pg.Stop}[n%2]())
		moment(0, 600*time.Millisecond)
		check(t, pg.Restart(t.Context()))
	}
	p.acts(t)
	p.settled(t, pg.URL, conn)
}

// Two instances publish from one outbox. Where there is time for it, one of them falls silent
// while it holds the lock: the database cuts it off, the other goes on, and what the first has
// in hand when it wakes does no harm.
func TestTwoRelaysPublishAsOne(t *testing.T) {
	t.Parallel()
	url, bus := testpg.URL(t), startCluster(t)
	flags := append(withPostgres(url), "--nats-url="+bus.url)
	both := []*instance{start(t, flags...), start(t, flags...)}
	conn := bus.connect(t)
	p := populate(t, conn)
	p.acts(t)
	if n := chaos(t); n > 1 {
		store, err := persistence.Open(t.Context(), url)
		check(t, err)
		defer func() { check(t, store.Close()) }()
		for round := range max(n/8, 2) {
			freezeInLock(t, store, both[round%2])
		}
	}
	p.settled(t, url, conn)
}

// freezeInLock stops a process while it holds the lock of the outbox, until events are
// published again all the same, and lets it go on.
func freezeInLock(t *testing.T, store *persistence.Store, a *instance) {
	t.Helper()
	holder := func() (transaction string) { // "" if nobody holds it
		check(t, store.DB().NewRaw("SELECT COALESCE(max(concat(a.pid, ' ', a.xact_start)), '') FROM pg_locks l JOIN pg_stat_activity a USING (pid)"+
			" WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()").Scan(t.Context(), &transaction))
		return transaction
	}
	until(t, "the lock stays with who is stopped", func() bool {
		check(t, a.signal(syscall.SIGSTOP))
		first := holder()
		time.Sleep(300 * time.Millisecond)
		if first != "" && holder() == first {
			return true
		}
		check(t, a.signal(syscall.SIGCONT))
		moment(0, 20*time.Millisecond)
		return false
	})
	began, first := time.Now(), holder()
	until(t, "the lock is free again", func() bool { return holder() != first })
	t.Logf("the lock was free %s after its holder fell silent", time.Since(began).Round(time.Millisecond))
	moment(0, time.Second)
	check(t, a.signal(syscall.SIGCONT))
}

// silencer is a TCP proxy that can fall silent: what it is sent waits, and nobody is told. It can
// also be slow.
type silencer struct {
	listener net.Listener
	delay    atomic.Int64 // of each packet, in nanoseconds
	mu       sync.Mutex
	talks    *sync.Cond // broadcast when it talks again or a connection was closed
	silent   bool
	conns    map[net.Conn]bool
}

func startSilencer(t *testing.T, target string) *silencer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s := &silencer{listener: l, conns: map[net.Conn]bool{}}
	s.talks = sync.NewCond(&s.mu)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			s.mu.Lock()
			s.conns[near], s.conns[far] = true, true
			s.mu.Unlock()
			group.Go(func() { s.forward(near, far) })
			group.Go(func() { s.forward(far, near) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); s.cut(); s.silence(false); group.Wait() })
	return s
}

// forward holds the lock while it writes, so that nothing is on its way once silence has
// begun.
func (s *silencer) forward(from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		time.Sleep(time.Duration(s.delay.Load()))
		s.mu.Lock()
		for s.silent && s.conns[to] {
			s.talks.Wait()
		}
		if n > 0 && s.conns[to] {
			_, err = to.Write(buffer[:n])
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *silencer) silence(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = is
	s.talks.Broadcast()
}

// cut closes all connections. What waits in them is lost.
func (s *silencer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	clear(s.conns)
	s.talks.Broadcast()
}

// sessions are those a verifier is asked about: their tokens, and when their end was
// confirmed, if it was.
type sessions struct {
	mu    sync.Mutex
	ended map[string]time.Time // by token; zero while it lives
}

func (s *sessions) set(token string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[token] = at
}

func (s *sessions) copy() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ended)
}

// beginAndEnd begins sessions and ends each a little later, until ctx ends. A request that
// was begun is waited for: of one that was cut off nobody could say what became of it.
func (s *sessions) beginAndEnd(ctx context.Context, p *people) error {
	var alive []string
	for ctx.Err() == nil {
		reply, err := p.request(context.WithoutCancel(ctx), "auth.login", "", credentials)
		var login struct{ AccessToken string }
		if err := errors.Join(err, json.Unmarshal(reply, &login)); err != nil {
			return err
		}
		s.set(login.AccessToken, time.Time{})
		if alive = append(alive, login.AccessToken); len(alive) < 3 {
			continue
		}
		if _, err := p.request(context.WithoutCancel(ctx), "auth.logout", alive[0], ""); err != nil {
			return err
		}
		s.set(alive[0], time.Now())
		alive = alive[1:]
	}
	return nil
}

// The network between a verifier and the bus falls silent, again and again, without a
// connection being closed. At no moment is a session good that ended longer ago than
// MaxStaleness, and when the network is back, so is the verifier.
func TestVerifierBehindASilentNetworkIsNeverStalerThanItsBound(t *testing.T) {
	t.Parallel()
	const bound = time.Second
	a := start(t, "--session-limit=0")
	a.post(t, "/register", credentials)
	direct := &people{slowest: bus.Timeout} // each of its requests has to be carried out
	direct.conn.Store(connect(t, a.nats))
	network := startSilencer(t, strings.TrimPrefix(a.nats, "nats://"))
	conn, err := bus.Connect("nats://" + network.listener.Addr().String())
	check(t, err)
	defer conn.Close()
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra", MaxStaleness: bound})
	check(t, err)
	defer func() { check(t, v.Close()) }()
	check(t, v.Ready(t.Context()))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s := &sessions{ended: map[string]time.Time{}}
	var silentSince atomic.Pointer[time.Time]
	var good, refused, unavailable, late atomic.Int64
	var oldest time.Duration
	over := make(chan error, 2)
	go func() { over <- s.beginAndEnd(ctx, direct) }()
	go func() {
		var wrong []error
		for ctx.Err() == nil && len(wrong) < 10 {
			for token, ended := range s.copy() {
				since, begun := silentSince.Load(), time.Now()
				_, err := v.Verify(ctx, token)
				ago := begun.Sub(ended)
				switch {
				case errors.Is(err, auth.ErrUnavailable):
					unavailable.Add(1)
				case ctx.Err() != nil:
				case err != nil && !errors.Is(err, auth.ErrTokenRevoked):
					wrong = append(wrong, err)
				case since != nil && begun.Sub(*since) > bound && since == silentSince.Load():
					wrong = append(wrong, fmt.Errorf("%v after %s of silence", err, begun.Sub(*since)))
				case err != nil:
					refused.Add(1)
				case ended.IsZero():
					good.Add(1)
				case ago > bound:
					wrong = append(wrong, fmt.Errorf("a session that ended %s ago is good", ago))
				default:
					late.Add(1)
					oldest = max(oldest, ago)
				}
			}
			time.Sleep(time.Millisecond)
		}
		over <- errors.Join(wrong...)
	}()

	var slowest time.Duration
	rounds, n := 4*chaos(t), 0
	enough := func() bool { return refused.Load() > 0 && unavailable.Load() > 0 && late.Load() > 0 }
	for begun := time.Now(); n < rounds || !enough() && time.Since(begun) < patience; n++ {
		moment(200*time.Millisecond, 500*time.Millisecond)
		network.silence(true)
		since := time.Now()
		silentSince.Store(&since)
		moment(bound/2, 3*bound)
		silentSince.Store(nil)
		if n%2 == 1 {
			network.cut()
		}
		network.silence(false)
		back := time.Now()
		until(t, "the verifier is back", func() bool { return v.Err() == nil })
		slowest = max(slowest, time.Since(back))
	}
	stop()
	check(t, errors.Join(<-over, <-over))
	last := s.copy()
	until(t, "it is right about each", func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Keys(last)), func(token string) bool {
			_, err := v.Verify(t.Context(), token)
			return last[token].IsZero() != (err == nil) || err != nil && !errors.Is(err, auth.ErrTokenRevoked)
		})
	})
	t.Logf("%d silences, %d sessions; good %d, refused %d, unavailable %d; good after their end %d, at most for %s; back within %s",
		n, len(last), good.Load(), refused.Load(), unavailable.Load(), late.Load(), oldest.Round(time.Millisecond), slowest.Round(time.Millisecond))
	if !enough() {
		t.Error("too little to mean anything")
	}
}
