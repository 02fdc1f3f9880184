package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/e2e/testproxy"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// connectForever is a client that never gives up.
func connectForever(t *testing.T, bus *testnats.Server) *nats.Conn {
	t.Helper()
	return testauthd.Connect(t, bus.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

// people are clients that register, log in, change their accounts and delete them, during faults
// too.
type people struct {
	conn atomic.Pointer[nats.Conn]
	end  func() error // returns when no client acts any more

	mu      sync.Mutex
	served  int           // requests that were carried out
	slowest time.Duration // duration of the slowest of them
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
		over <- testauthd.All(4, func(w int) error {
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

// patience returns how long a client waits for a reply and the service works on it: several times
// the duration of the slowest reply, so that a lost reply costs little on a fast machine. The service
// itself gives up after bus.Timeout.
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
	testauthd.Until(t, "a request is carried out", func() bool { return served() > before })
	testauthd.Moment(0, 700*time.Millisecond)
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

// settled ends the people when a life has come to its end, waits until all is published and
// compares it with the tables.
func (p *people) settled(t *testing.T, url string, asReader *nats.Conn) *persistence.Store {
	t.Helper()
	testauthd.Until(t, "a life has come to its end", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.whole > 0
	})
	check(t, p.end())
	t.Logf("%d lives lived to the end", p.whole)
	return testoutbox.Settled(t, url, asReader)
}

// unlimited lets all clients register from one address, however fast the machine is.
const unlimited = "--rate-limits=off"

// The process is killed at random moments while people come and go, and started again. In
// the end there is an event for each change, and none for what was not.
func TestKilledAtAnyMomentNoEventIsLostOrInvented(t *testing.T) {
	t.Parallel()
	kills := 5 * testauthd.Chaos(t)
	t.Run("Postgres and external bus", func(t *testing.T) {
		t.Parallel()
		url, bus := testpg.URL(t), testnats.Start(t, testnats.Config{})
		flags := append(testauthd.WithPostgres(url), "--nats-url="+bus.URL(), unlimited)
		conn := connectForever(t, bus)
		p := populate(t, conn)
		for range kills {
			a := testauthd.Start(t, flags...)
			p.acts(t)
			a.Kill(t)
		}
		testauthd.Start(t, flags...)
		p.settled(t, url, conn)
		t.Logf("after %d kills", kills)
	})
	t.Run("SQLite and embedded bus", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		a := testauthd.Launch(t, dir, unlimited).Ready(t)
		p := populate(t, testauthd.Connect(t, a.NATS, nats.NoReconnect()))
		for range kills {
			p.acts(t)
			a.Kill(t)
			a = testauthd.Launch(t, dir, unlimited).Ready(t)
			p.conn.Load().Close()
			p.conn.Store(testauthd.Connect(t, a.NATS, nats.NoReconnect())) // on another port
		}
		asRelay := testauthd.Connect(t, a.NATS, embedded.Credentials(filepath.Join(dir, "data", "nats"), embedded.Relay))
		p.settled(t, "sqlite://"+dir+"/data/authd.db", asRelay)
		t.Logf("after %d kills", kills)
	})
}

// The bus goes, in good order or killed, and comes back; then its streams are lost. The events
// can be had again, and whoever verifies needs none of them.
func TestBusGoesAndForgets(t *testing.T) {
	t.Parallel()
	url, bus := testpg.URL(t), testnats.Start(t, testnats.Config{})
	a := testauthd.Start(t, append(testauthd.WithPostgres(url), "--nats-url="+bus.URL())...)
	conn := connectForever(t, bus)
	p := populate(t, conn)
	for n := range 3 * testauthd.Chaos(t) {
		p.acts(t)
		check(t, []func() error{bus.Kill, bus.Stop}[n%2]())
		testauthd.Moment(0, 600*time.Millisecond)
		check(t, bus.Restart(t.Context()))
	}
	p.acts(t)
	store := p.settled(t, url, conn)
	before := len(testoutbox.Recorded(t, conn))

	check(t, bus.Stop())
	check(t, os.RemoveAll(bus.Store()))
	check(t, bus.Restart(t.Context()))
	testauthd.Until(t, "the service is back", func() bool { return a.Get(t, "/readyz", "").Answer.Status == 200 })
	known := revocations(t, connectForever(t, bus))
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
	testoutbox.Published(t, store)
	list := testoutbox.Recorded(t, conn)
	if n != before || len(list) != before {
		t.Errorf("%d of %d events are back, %d republished", len(list), before, n)
	}
	testoutbox.Compare(t, store, list)
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
	bus := testnats.Start(t, testnats.Config{})
	testauthd.Start(t, append(testauthd.WithPostgres(pg.URL), "--nats-url="+bus.URL())...)
	conn := connectForever(t, bus)
	p := populate(t, conn)
	for n := range 3 * testauthd.Chaos(t) {
		p.acts(t)
		check(t, []func() error{pg.Kill, pg.Stop}[n%2]())
		testauthd.Moment(0, 600*time.Millisecond)
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
	url, bus := testpg.URL(t), testnats.Start(t, testnats.Config{})
	flags := append(testauthd.WithPostgres(url), "--nats-url="+bus.URL())
	both := []*testauthd.Instance{testauthd.Start(t, flags...), testauthd.Start(t, flags...)}
	conn := connectForever(t, bus)
	p := populate(t, conn)
	p.acts(t)
	if n := testauthd.Chaos(t); n > 1 {
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
func freezeInLock(t *testing.T, store *persistence.Store, a *testauthd.Instance) {
	t.Helper()
	holder := func() (transaction string) { // "" if nobody holds it
		check(t, store.DB().NewRaw("SELECT COALESCE(max(concat(a.pid, ' ', a.xact_start)), '') FROM pg_locks l JOIN pg_stat_activity a USING (pid)"+
			" WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()").Scan(t.Context(), &transaction))
		return transaction
	}
	testauthd.Until(t, "the lock stays with who is stopped", func() bool {
		check(t, a.Signal(syscall.SIGSTOP))
		first := holder()
		time.Sleep(300 * time.Millisecond)
		if first != "" && holder() == first {
			return true
		}
		check(t, a.Signal(syscall.SIGCONT))
		testauthd.Moment(0, 20*time.Millisecond)
		return false
	})
	began, first := time.Now(), holder()
	testauthd.Until(t, "the lock is free again", func() bool { return holder() != first })
	t.Logf("the lock was free %s after its holder fell silent", time.Since(began).Round(time.Millisecond))
	testauthd.Moment(0, time.Second)
	check(t, a.Signal(syscall.SIGCONT))
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
		reply, err := p.request(context.WithoutCancel(ctx), "auth.login", "", testauthd.Credentials)
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
	a := testauthd.Start(t, "--session-limit=0")
	a.Post(t, "/register", testauthd.Credentials)
	direct := &people{slowest: bus.Timeout} // each of its requests has to be carried out
	direct.conn.Store(testauthd.Connect(t, a.NATS))
	network := testproxy.Start(t, strings.TrimPrefix(a.NATS, "nats://"))
	conn, err := bus.Connect("nats://" + network.Addr())
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
	rounds, n := 4*testauthd.Chaos(t), 0
	enough := func() bool { return refused.Load() > 0 && unavailable.Load() > 0 && late.Load() > 0 }
	for begun := time.Now(); n < rounds || !enough() && time.Since(begun) < testauthd.Patience; n++ {
		testauthd.Moment(200*time.Millisecond, 500*time.Millisecond)
		network.Silence(true)
		since := time.Now()
		silentSince.Store(&since)
		testauthd.Moment(bound/2, 3*bound)
		silentSince.Store(nil)
		if n%2 == 1 {
			network.Cut()
		}
		network.Silence(false)
		back := time.Now()
		testauthd.Until(t, "the verifier is back", func() bool { return v.Err() == nil })
		slowest = max(slowest, time.Since(back))
	}
	stop()
	check(t, errors.Join(<-over, <-over))
	last := s.copy()
	testauthd.Until(t, "it is right about each", func() bool {
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
