package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testpg"
)

// The processes share nothing but a database and a bus; which of them answers is up to NATS.
func TestSimultaneousRefreshes(t *testing.T) {
	t.Parallel()
	for grace, check := range map[string]func(*testing.T, *instance, []exchange){
		"0s":  oneIsTheNext,
		"10s": allGetTheSame,
	} {
		t.Run(grace, func(t *testing.T) {
			t.Parallel()
			flags := append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, withJetStream(t)), "--refresh-grace="+grace)
			edges := []*instance{start(t, flags...), start(t, flags...)}
			check(t, edges[0], refreshes(t, edges, signUp(t, edges[0])))
		})
	}
}

// signUp makes an account and a session and returns its refresh token.
func signUp(t *testing.T, a *instance) string {
	t.Helper()
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	return a.post(t, "/login", credentials).member(t, "refreshToken")
}

// refreshes presents the token 50 times at once.
func refreshes(t *testing.T, edges []*instance, token string) []exchange {
	t.Helper()
	answers := make([]exchange, 50)
	check(t, all(len(answers), func(i int) (err error) {
		answers[i], err = edges[i%len(edges)].try("POST /refresh", jsonBody, `{"refreshToken":"`+token+`"}`)
		return err
	}))
	return answers
}

// oneIsTheNext wants the token taken once. The other 49 are theft, which ends the session.
func oneIsTheNext(t *testing.T, a *instance, answers []exchange) {
	var next []exchange
	for _, e := range answers {
		if e.Answer.Status == 200 {
			next = append(next, e)
			continue
		}
		e.refused(t, 401, "token_revoked", "")
	}
	if len(next) != 1 {
		t.Fatalf("%d refreshes succeed, want 1", len(next))
	}
	a.post(t, "/refresh", `{"refreshToken":"`+next[0].member(t, "refreshToken")+`"}`).refused(t, 401, "token_revoked", "")
	access := next[0].member(t, "accessToken")
	until(t, "the session has ended for this instance too", func() bool { return a.get(t, "/verify", access).Answer.Status == 401 })
	a.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
}

func allGetTheSame(t *testing.T, a *instance, answers []exchange) {
	for _, e := range answers {
		e.answered(t, 200, `{`+tokens+`}`)
		if e.member(t, "refreshToken") != answers[0].member(t, "refreshToken") {
			t.Fatal("two refreshes give two refresh tokens")
		}
	}
	next := a.post(t, "/refresh", `{"refreshToken":"`+answers[0].member(t, "refreshToken")+`"}`)
	next.answered(t, 200, `{`+tokens+`}`)
	a.get(t, "/verify", next.member(t, "accessToken")).answered(t, 200, verified)
}

func TestAcknowledgedRegistrationsOutliveKill(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"SQLite": nil, "Postgres": withPostgres(testpg.URL(t))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for round := range 4 {
				a := launch(t, dir, flags...).ready(t)
				acknowledged := killWhileRegistering(t, a, round)
				a = launch(t, dir, flags...).ready(t)
				for _, address := range acknowledged {
					if e := a.post(t, "/login", with(address)); e.Answer.Status != 200 {
						t.Errorf("%s, registered before the kill, cannot log in: %d %s", address, e.Answer.Status, e.Answer.Body)
					}
				}
				a.stop(t)
			}
		})
	}
}

// with are the credentials of another address.
func with(address string) string {
	return strings.Replace(credentials, "ada@example.com", address, 1)
}

// killWhileRegistering kills authd as soon as it has acknowledged a few registrations, with
// others under way, and returns the addresses of all that it acknowledged.
func killWhileRegistering(t *testing.T, a *instance, round int) (acknowledged []string) {
	t.Helper()
	const writers, enough = 3, 2
	made := make(chan string)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := 0; ; i++ {
				address := fmt.Sprintf("r%d.w%d.%d@example.com", round, w, i)
				e, err := a.try("POST /register", jsonBody, with(address))
				if err != nil {
					return // killed
				}
				if e.Answer.Status != 201 {
					t.Errorf("%s: %d %s", address, e.Answer.Status, e.Answer.Body)
					return
				}
				made <- address
			}
		})
	}
	go func() { writing.Wait(); close(made) }()
	for address := range made {
		acknowledged = append(acknowledged, address)
		if len(acknowledged) == enough {
			check(t, a.signal(syscall.SIGKILL))
		}
	}
	if len(acknowledged) < enough {
		t.Fatalf("only %d registrations", len(acknowledged))
	}
	<-a.exited // its sockets are closed before it lets go of its directory
	return acknowledged
}

// A request over HTTP counts as accepted once the edge has answered its header with 100
// Continue; one over NATS once the NATS server has answered the ping behind it, as by then
// it has been handed to the service's connection. The signal comes after both and before
// any login can be done: each has to be answered with its tokens.
func TestDrainAnswersWhatWasAccepted(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*testing.T) []string{
		"embedded": func(*testing.T) []string { return nil },
		"external": func(t *testing.T) []string {
			return append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, server.Options{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drain(t, start(t, flags(t)...))
		})
	}
}

const inFlight = 4 // on each door

func drain(t *testing.T, a *instance) {
	signUp(t, a)
	conn := a.asApp(t)
	replies, err := conn.SubscribeSync(conn.NewRespInbox())
	check(t, err)
	var waiting []*expecting
	for range inFlight {
		waiting = append(waiting, expect100(t, a))
	}

	for range inFlight {
		check(t, conn.PublishRequest("auth.login", replies.Subject, []byte(credentials)))
	}
	check(t, conn.Flush())
	for _, w := range waiting[1:] {
		w.send(t, credentials)
	}
	check(t, a.signal(syscall.SIGTERM))
	waiting[0].send(t, credentials) // accepted, and then slow

	for range inFlight {
		reply, err := replies.NextMsg(patience)
		check(t, err)
		exchange{message{To: "auth.login"}, message{Header: reply.Header, Body: string(reply.Data)}}.
			replied(t, `{"message":"Login successful","userId":1,`+tokens+`}`)
	}
	for _, w := range waiting {
		w.answer(t).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
	}
	if code := a.wait(t, patience); code != exitStopped {
		t.Errorf("exit code %d", code)
	}
}

// expecting is a login whose header has been accepted and whose body is yet to come.
type expecting struct {
	conn net.Conn
	from *bufio.Reader
}

func expect100(t *testing.T, a *instance) *expecting {
	t.Helper()
	w := dial(t, a)
	_, err := fmt.Fprintf(w.conn, "POST /login HTTP/1.1\r\nHost: auth\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(credentials))
	check(t, err)
	if line, err := w.from.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("no 100 Continue but %q, %v", line, err)
	}
	_, err = w.from.ReadString('\n')
	check(t, err)
	return w
}

func dial(t *testing.T, a *instance) *expecting {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.http, "http://"))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	return &expecting{conn, bufio.NewReader(conn)}
}

func (w *expecting) send(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(w.conn, text)
	check(t, err)
}

func (w *expecting) answer(t *testing.T) exchange {
	t.Helper()
	resp, err := http.ReadResponse(w.from, nil)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return exchange{message{To: "a login in flight"}, message{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}}
}

func TestDrainLeavesNoRequestInSilence(t *testing.T) {
	t.Parallel()
	a := start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, server.Options{}))...)
	a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	token := a.post(t, "/login", credentials).member(t, "accessToken")
	conn := connect(t, a.nats)
	began := make(chan struct{}, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- all(cap(began), func(int) error {
			for first := true; ; first = false {
				reply, err := conn.Request("auth.verify", []byte(`{"token":"`+token+`"}`), patience)
				switch {
				case errors.Is(err, nats.ErrNoResponders):
					return nil // nobody took it: a proper answer
				case err != nil:
					return err
				case len(reply.Header) != 0:
					return fmt.Errorf("refused: %v", reply.Header)
				case first:
					began <- struct{}{}
				}
			}
		})
	}()
	for range cap(began) {
		<-began
	}
	a.stop(t)
	check(t, <-ended)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	a := start(t)
	expect100(t, a) // its body never comes, so draining takes as long as the read timeout
	check(t, a.signal(syscall.SIGTERM))
	until(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(a.http, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	select {
	case <-a.exited:
		t.Fatal("authd drops a request that it has begun to read")
	default:
	}
	check(t, a.signal(syscall.SIGTERM))
	if code := a.wait(t, 3*time.Second); code != -1 {
		t.Errorf("exit code %d, want death by the signal", code)
	}
}

// A connection that was never used is given five seconds, as net/http gives it: a request
// may be on its way.
func TestIdleConnectionsDoNotDelayTheExit(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*testing.T, *expecting){
		"used once": func(t *testing.T, w *expecting) {
			w.send(t, "GET /healthz HTTP/1.1\r\nHost: auth\r\n\r\n")
			w.answer(t).answered(t, 200, `{"status":"alive"}`)
		},
		"never used": func(*testing.T, *expecting) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := start(t)
			use(t, dial(t, a))
			a.get(t, "/healthz", "") // accepted later, so the other was accepted too
			check(t, a.signal(syscall.SIGTERM))
			if code := a.wait(t, 10*time.Second); code != exitStopped {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestReadinessFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	a := start(t, withPostgres(pg.URL)...)
	conn := asEdge(t, a)
	const away = `[{"field":"database","reason":"away"}]`
	alive := func() { t.Helper(); a.get(t, "/healthz", "").answered(t, 200, `{"status":"alive"}`) }

	signUp(t, a)
	a.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	check(t, pg.Stop())
	alive()
	e := a.get(t, "/readyz", "")
	e.refused(t, 503, "unavailable", away)
	golden(t, "http-unavailable-database", e)
	e = ask(t, conn, "auth.health", nil, "")
	e.refused(t, 503, "unavailable", away)
	golden(t, "nats-unavailable-database", e)
	alive()
	check(t, pg.Restart(context.WithoutCancel(t.Context())))
	until(t, "ready again", func() bool { alive(); return a.get(t, "/readyz", "").Answer.Status == 200 })
	a.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
}

func TestReadinessOfTheEdgeFollowsTheHandlers(t *testing.T) {
	t.Parallel()
	nats := "--nats-url=" + externalNATS(t, withJetStream(t))
	handlers, edge := start(t, "serve", "--handlers", nats), start(t, "serve", "--edge", nats)
	awayAfter(t, edge, handlers, syscall.SIGTERM)
	golden(t, "http-unavailable-bus", edge.get(t, "/readyz", ""))
	edge.post(t, "/login", credentials).refused(t, 503, "unavailable", "")

	launch(t, handlers.dir, "serve", "--handlers", nats).line(t, `"msg":"ready"`)
	edge.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	edge.post(t, "/login", credentials).refused(t, 401, "invalid_credentials", "")
}

func TestReadinessOfTheEdgeFollowsTheBus(t *testing.T) {
	t.Parallel()
	edge, handlers := startApart(t)
	awayAfter(t, edge, handlers, syscall.SIGKILL)
}

// awayAfter ends the process of the handlers and wants the edge to live, but not to be ready.
func awayAfter(t *testing.T, edge, handlers *instance, signal os.Signal) {
	t.Helper()
	edge.get(t, "/readyz", "").answered(t, 200, `{"status":"ready"}`)
	check(t, handlers.signal(signal))
	handlers.wait(t, patience)
	edge.get(t, "/readyz", "").refused(t, 503, "unavailable", `[{"field":"bus","reason":"away"}]`)
	edge.get(t, "/healthz", "").answered(t, 200, `{"status":"alive"}`)
}

// A process without an edge is probed where operators' pages are, and tells of its own part alone.
func TestHandlersAloneTellTheirReadiness(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	proxy := startSilencer(t, strings.TrimPrefix(externalNATS(t, withJetStream(t)), "nats://"))
	a := start(t, append([]string{"serve", "--handlers"}, append(withPostgres(pg.URL), "--nats-url=nats://"+proxy.listener.Addr().String())...)...)
	a.http, a.foreign = strings.TrimSuffix(a.mailbox, mailboxPath), true
	away := func(part string) func() bool {
		return func() bool {
			e := a.get(t, "/readyz", "")
			return e.Answer.Status == 503 && strings.Contains(e.Answer.Body, `"fields":[{"field":"`+part+`","reason":"away"}]`)
		}
	}
	ready := func() bool { return a.get(t, "/readyz", "").Answer.Status == 200 }
	until(t, "ready", ready)
	check(t, pg.Stop())
	until(t, "the database is away", away("database"))
	a.get(t, "/healthz", "").answered(t, 200, `{"status":"alive"}`)
	check(t, pg.Restart(context.WithoutCancel(t.Context())))
	until(t, "ready again", ready)
	proxy.silence(true)
	proxy.cut()
	until(t, "the bus is away", away("bus"))
	proxy.silence(false)
	until(t, "ready again", ready)
}

func TestHealthcheckAsksWhereThereIsNoEdge(t *testing.T) {
	t.Parallel()
	a := start(t, "serve", "--handlers")
	_, free := taken(t)
	healthy := func(port string) int {
		operators := strings.TrimSuffix(strings.TrimPrefix(a.mailbox, "http://"), mailboxPath)
		return execute(t, t.TempDir(), exec.Command("owned-authd", "healthcheck", "--port="+port, "--metrics-addr="+operators)).wait(t, patience)
	}
	if code := healthy("1"); code != exitStopped {
		t.Errorf("exit code %d while it is ready", code)
	}
	if code := healthy(free); code != exitFailed { // where something listens that is no edge
		t.Errorf("exit code %d although what is on PORT does not answer", code)
	}
	a.stop(t)
	if code := healthy("1"); code != exitFailed {
		t.Errorf("exit code %d once it has stopped", code)
	}
}

// unwritable is a file that not even root may make.
const unwritable = "/dev/pts/none"

// A server that may not write its files switches JetStream off. Requests succeed all the same.
func TestWithoutJetStreamAnInstanceIsDegraded(t *testing.T) {
	t.Parallel()
	if _, err := os.OpenFile(unwritable, os.O_CREATE|os.O_RDWR, 0o600); !errors.Is(err, os.ErrPermission) {
		t.Skipf("%s: %v", unwritable, err)
	}
	a := start(t)
	stream := filepath.Join(a.dir, "data", "nats", "jetstream", "APP", "streams", events.Stream, "msgs")
	signUp(t, a)
	a.told(t)
	check(t, os.Symlink(unwritable, filepath.Join(stream, "2.blk")))
	ask(t, asAdmin(t, a), "$JS.API.STREAM.PURGE."+events.Stream, nil, "") // which begins another file
	a.post(t, "/login", credentials)
	until(t, "it is noticed", func() bool { return strings.Contains(a.get(t, "/readyz", "").Answer.Body, "jetstream") })
	a.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
}
