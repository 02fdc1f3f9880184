package faults_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/e2e/testproxy"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testpg"
)

// The processes share nothing but a database and a bus; which of them answers is up to NATS.
func TestSimultaneousRefreshes(t *testing.T) {
	t.Parallel()
	for grace, check := range map[string]func(*testing.T, *testauthd.Instance, []testauthd.Exchange){
		"0s":  oneIsTheNext,
		"10s": allGetTheSame,
	} {
		t.Run(grace, func(t *testing.T) {
			t.Parallel()
			flags := append(testauthd.WithPostgres(testpg.URL(t)), "--nats-url="+testauthd.ExternalNATS(t, testauthd.WithJetStream(t)), "--refresh-grace="+grace)
			edges := []*testauthd.Instance{testauthd.Start(t, flags...), testauthd.Start(t, flags...)}
			check(t, edges[0], refreshes(t, edges, testauthd.SignUp(t, edges[0])))
		})
	}
}

// refreshes presents the token 50 times at once.
func refreshes(t *testing.T, edges []*testauthd.Instance, token string) []testauthd.Exchange {
	t.Helper()
	answers := make([]testauthd.Exchange, 50)
	check(t, testauthd.All(len(answers), func(i int) (err error) {
		answers[i], err = edges[i%len(edges)].Try("POST /refresh", testauthd.JSON(), `{"refreshToken":"`+token+`"}`)
		return err
	}))
	return answers
}

// oneIsTheNext wants the token taken once. The other 49 are theft, which ends the session.
func oneIsTheNext(t *testing.T, a *testauthd.Instance, answers []testauthd.Exchange) {
	var next []testauthd.Exchange
	for _, e := range answers {
		if e.Answer.Status == 200 {
			next = append(next, e)
			continue
		}
		e.Refused(t, 401, "token_revoked", "")
	}
	if len(next) != 1 {
		t.Fatalf("%d refreshes succeed, want 1", len(next))
	}
	a.Post(t, "/refresh", `{"refreshToken":"`+next[0].Member(t, "refreshToken")+`"}`).Refused(t, 401, "token_revoked", "")
	access := next[0].Member(t, "accessToken")
	testauthd.Until(t, "the session has ended for this instance too", func() bool { return a.Get(t, "/verify", access).Answer.Status == 401 })
	a.Get(t, "/verify", access).Refused(t, 401, "token_revoked", "")
}

func allGetTheSame(t *testing.T, a *testauthd.Instance, answers []testauthd.Exchange) {
	for _, e := range answers {
		e.Answered(t, 200, `{`+testauthd.Tokens+`}`)
		if e.Member(t, "refreshToken") != answers[0].Member(t, "refreshToken") {
			t.Fatal("two refreshes give two refresh tokens")
		}
	}
	next := a.Post(t, "/refresh", `{"refreshToken":"`+answers[0].Member(t, "refreshToken")+`"}`)
	next.Answered(t, 200, `{`+testauthd.Tokens+`}`)
	a.Get(t, "/verify", next.Member(t, "accessToken")).Answered(t, 200, testauthd.Verified)
}

func TestAcknowledgedRegistrationsOutliveKill(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"SQLite": nil, "Postgres": testauthd.WithPostgres(testpg.URL(t))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for round := range 4 {
				a := testauthd.Launch(t, dir, flags...).Ready(t)
				acknowledged := killWhileRegistering(t, a, round)
				a = testauthd.Launch(t, dir, flags...).Ready(t)
				for _, address := range acknowledged {
					if e := a.Post(t, "/login", with(address)); e.Answer.Status != 200 {
						t.Errorf("%s, registered before the kill, cannot log in: %d %s", address, e.Answer.Status, e.Answer.Body)
					}
				}
				a.Stop(t)
			}
		})
	}
}

// with are the credentials of another address.
func with(address string) string {
	return strings.Replace(testauthd.Credentials, "ada@example.com", address, 1)
}

// killWhileRegistering kills authd as soon as it has acknowledged a few registrations, with
// others under way, and returns the addresses of all that it acknowledged.
func killWhileRegistering(t *testing.T, a *testauthd.Instance, round int) (acknowledged []string) {
	t.Helper()
	const writers, enough = 3, 2
	made := make(chan string)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := 0; ; i++ {
				address := fmt.Sprintf("r%d.w%d.%d@example.com", round, w, i)
				e, err := a.Try("POST /register", testauthd.JSON(), with(address))
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
			check(t, a.Signal(syscall.SIGKILL))
		}
	}
	if len(acknowledged) < enough {
		t.Fatalf("only %d registrations", len(acknowledged))
	}
	<-a.Exited // its sockets are closed before it lets go of its directory
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
			return append(testauthd.WithPostgres(testpg.URL(t)), "--nats-url="+testauthd.ExternalNATS(t, server.Options{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drain(t, testauthd.Start(t, append(flags(t), slowly)...))
		})
	}
}

const inFlight = 4 // on each door

// slowly is a cost that keeps a login in flight when the signal arrives. All logins still finish in
// time on a busy machine.
const slowly = "--bcrypt-cost=10"

func drain(t *testing.T, a *testauthd.Instance) {
	testauthd.SignUp(t, a)
	conn := a.AsApp(t)
	replies, err := conn.SubscribeSync(conn.NewRespInbox())
	check(t, err)
	var waiting []*expecting
	for range inFlight {
		waiting = append(waiting, expect100(t, a))
	}

	for range inFlight {
		check(t, conn.PublishRequest("auth.login", replies.Subject, []byte(testauthd.Credentials)))
	}
	check(t, conn.Flush())
	for _, w := range waiting[1:] {
		w.send(t, testauthd.Credentials)
	}
	check(t, a.Signal(syscall.SIGTERM))
	waiting[0].send(t, testauthd.Credentials) // accepted, and then slow

	for range inFlight {
		reply, err := replies.NextMsg(testauthd.Patience)
		check(t, err)
		testauthd.Exchange{Request: testauthd.Message{To: "auth.login"}, Answer: testauthd.Message{Header: reply.Header, Body: string(reply.Data)}}.
			Replied(t, `{"message":"Login successful","userId":1,`+testauthd.Tokens+`}`)
	}
	for _, w := range waiting {
		w.answer(t).Answered(t, 200, `{"message":"Login successful","userId":1,`+testauthd.Tokens+`}`)
	}
	if code := a.Wait(t, testauthd.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// expecting is a login whose header has been accepted and whose body is yet to come.
type expecting struct {
	conn net.Conn
	from *bufio.Reader
}

func expect100(t *testing.T, a *testauthd.Instance) *expecting {
	t.Helper()
	w := dial(t, a)
	_, err := fmt.Fprintf(w.conn, "POST /login HTTP/1.1\r\nHost: auth\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(testauthd.Credentials))
	check(t, err)
	if line, err := w.from.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("no 100 Continue but %q, %v", line, err)
	}
	_, err = w.from.ReadString('\n')
	check(t, err)
	return w
}

func dial(t *testing.T, a *testauthd.Instance) *expecting {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.HTTP, "http://"))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(testauthd.Patience)))
	return &expecting{conn, bufio.NewReader(conn)}
}

func (w *expecting) send(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(w.conn, text)
	check(t, err)
}

func (w *expecting) answer(t *testing.T) testauthd.Exchange {
	t.Helper()
	resp, err := http.ReadResponse(w.from, nil)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return testauthd.Exchange{Request: testauthd.Message{To: "a login in flight"}, Answer: testauthd.Message{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}}
}

func TestDrainLeavesNoRequestInSilence(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t, append(testauthd.WithPostgres(testpg.URL(t)), "--nats-url="+testauthd.ExternalNATS(t, server.Options{}))...)
	a.Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	token := a.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	conn := testauthd.Connect(t, a.NATS)
	began := make(chan struct{}, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- testauthd.All(cap(began), func(int) error {
			for first := true; ; first = false {
				reply, err := conn.Request("auth.verify", []byte(`{"token":"`+token+`"}`), testauthd.Patience)
				switch {
				case errors.Is(err, nats.ErrNoResponders):
					return nil // no service took it: a proper answer
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
	a.Stop(t)
	check(t, <-ended)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t)
	expect100(t, a) // its body never comes, so draining takes as long as the read timeout
	check(t, a.Signal(syscall.SIGTERM))
	testauthd.Until(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(a.HTTP, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	select {
	case <-a.Exited:
		t.Fatal("authd drops a request that it has begun to read")
	default:
	}
	check(t, a.Signal(syscall.SIGTERM))
	if code := a.Wait(t, testauthd.Patience); code != -1 {
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
			w.answer(t).Answered(t, 200, `{"status":"alive"}`)
		},
		"never used": func(*testing.T, *expecting) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testauthd.Start(t)
			use(t, dial(t, a))
			a.Get(t, "/healthz", "") // accepted later, so the other was accepted too
			check(t, a.Signal(syscall.SIGTERM))
			if code := a.Wait(t, testauthd.Patience); code != 0 {
				t.Errorf("exit code %d: the drain took too long", code)
			}
		})
	}
}

// A process without an edge answers probes on METRICS_ADDR, and reports the readiness of its part alone.
func TestHandlersAloneTellTheirReadiness(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Start(t.Context(), testpg.Config{})
	check(t, err)
	t.Cleanup(pg.Close)
	proxy := testproxy.Start(t, strings.TrimPrefix(testauthd.ExternalNATS(t, testauthd.WithJetStream(t)), "nats://"))
	a := testauthd.Start(t, append([]string{"serve", "--handlers"}, append(testauthd.WithPostgres(pg.URL), "--nats-url=nats://"+proxy.Addr())...)...)
	a.HTTP, a.Foreign = strings.TrimSuffix(a.Mailbox, "/dev/mailbox"), true
	away := func(part string) func() bool {
		return func() bool {
			e := a.Get(t, "/readyz", "")
			return e.Answer.Status == 503 && strings.Contains(e.Answer.Body, `"fields":[{"field":"`+part+`","reason":"away"}]`)
		}
	}
	ready := func() bool { return a.Get(t, "/readyz", "").Answer.Status == 200 }
	testauthd.Until(t, "ready", ready)
	check(t, pg.Stop())
	testauthd.Until(t, "the database is away", away("database"))
	a.Get(t, "/healthz", "").Answered(t, 200, `{"status":"alive"}`)
	check(t, pg.Restart(context.WithoutCancel(t.Context())))
	testauthd.Until(t, "ready again", ready)
	proxy.Silence(true)
	proxy.Cut()
	testauthd.Until(t, "the bus is away", away("bus"))
	proxy.Silence(false)
	testauthd.Until(t, "ready again", ready)
}

// taken holds a port until the test ends and returns it.
func taken(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	_, port, err = net.SplitHostPort(listener.Addr().String())
	check(t, err)
	return port
}

func TestHealthcheckAsksWhereThereIsNoEdge(t *testing.T) {
	t.Parallel()
	a := testauthd.Start(t, "serve", "--handlers")
	busy := taken(t)
	healthy := func(port string) int {
		operators := strings.TrimSuffix(strings.TrimPrefix(a.Mailbox, "http://"), "/dev/mailbox")
		return testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, "healthcheck", "--port="+port, "--metrics-addr="+operators)).Wait(t, testauthd.Patience)
	}
	if code := healthy("1"); code != 0 {
		t.Errorf("exit code %d while it is ready", code)
	}
	if code := healthy(busy); code != 1 { // where something listens that is no edge
		t.Errorf("exit code %d although the program on PORT does not answer", code)
	}
	a.Stop(t)
	if code := healthy("1"); code != 1 {
		t.Errorf("exit code %d once it has stopped", code)
	}
}

// unwritable is a file that not even root may make.
const unwritable = "/dev/pts/none"

// A server that may not write its files switches JetStream off. Requests still succeed.
func TestWithoutJetStreamAnInstanceIsDegraded(t *testing.T) {
	t.Parallel()
	if _, err := os.OpenFile(unwritable, os.O_CREATE|os.O_RDWR, 0o600); !errors.Is(err, os.ErrPermission) {
		t.Skipf("%s: %v", unwritable, err)
	}
	a := testauthd.Start(t)
	stream := filepath.Join(a.Dir, "data", "nats", "jetstream", "APP", "streams", events.Stream, "msgs")
	testauthd.SignUp(t, a)
	testoutbox.Published(t, testoutbox.Open(t, "sqlite://"+a.Dir+"/data/authd.db"))
	check(t, os.Symlink(unwritable, filepath.Join(stream, "2.blk")))
	testauthd.Ask(t, a.AsRole(t, embedded.Admin), "$JS.API.STREAM.PURGE."+events.Stream, nil, "") // which begins another file
	a.Post(t, "/login", testauthd.Credentials)
	testauthd.Until(t, "it is noticed", func() bool { return strings.Contains(a.Get(t, "/readyz", "").Answer.Body, "jetstream") })
	a.Post(t, "/login", testauthd.Credentials).Answered(t, 200, `{"message":"Login successful","userId":1,`+testauthd.Tokens+`}`)
}

// A replica that is cut off from the database forwards its requests to the others, because NATS
// still sends it its share of them.
func TestAReplicaWithoutItsDatabaseHasOthersAnswer(t *testing.T) {
	t.Parallel()
	postgres := testpg.URL(t)
	database, err := url.Parse(postgres)
	check(t, err)
	network := testproxy.Start(t, database.Host)
	database.Host = network.Addr()
	bus := "--nats-url=" + testauthd.ExternalNATS(t, testauthd.WithJetStream(t))
	able := testauthd.Start(t, append(testauthd.WithPostgres(postgres), bus)...)
	cutOff := testauthd.Start(t, append(testauthd.WithPostgres(database.String()), bus)...)
	testauthd.SignUp(t, able)
	access := cutOff.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")

	network.Silence(true)
	cutOff.Line(t, "requests are given to other instances")
	began := time.Now()
	for range 30 {
		cutOff.Get(t, "/me", access).Answered(t, 200, strings.NewReplacer(`"Ada"`, `""`).Replace(testauthd.Account))
		cutOff.Get(t, "/readyz", "").Answered(t, 200, `{"status":"ready"}`)
	}
	cutOff.Post(t, "/login", testauthd.Credentials).Answered(t, 200, `{"message":"Login successful","userId":1,`+testauthd.Tokens+`}`)
	t.Logf("61 requests in %s", time.Since(began).Round(time.Millisecond))
	network.Silence(false)
	cutOff.Line(t, "requests are answered here again")
	able.Stop(t)
	cutOff.Get(t, "/me", access).Answered(t, 200, strings.NewReplacer(`"Ada"`, `""`).Replace(testauthd.Account))
}
