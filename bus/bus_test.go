package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

// broker starts a NATS server that listens on a free port.
func broker(t *testing.T) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// patience is how long a reply may take that is bound to come, on a busy machine.
const patience = 2 * time.Minute

func connect(t *testing.T, b *embedded.Server, role string) *nats.Conn {
	t.Helper()
	conn, err := bus.Connect(b.URL(), b.As(role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// serve runs a server until the test ends. register adds what it answers.
func serve(t *testing.T, b *embedded.Server, log io.Writer, register func(*bus.Server) error) (stop func() error) {
	t.Helper()
	return serveOn(t, b, connect(t, b, embedded.Service), log, register)
}

func serveOn(t *testing.T, b *embedded.Server, conn *nats.Conn, log io.Writer, register func(*bus.Server) error) (stop func() error) {
	t.Helper()
	server, err := bus.NewServer(conn, connect(t, b, embedded.Service), "1.2.3", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(register(server), conn.Flush()); err != nil { // as the program does: ready is ready
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func TestCallReturnsWhatTheHandlerReturned(t *testing.T) {
	t.Parallel()
	b := broker(t)
	serve(t, b, io.Discard, func(s *bus.Server) error {
		return errors.Join(
			bus.Handle(s, auth.Login, func(_ context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
				if req.Email == "panic" {
					panic("a bug")
				}
				if req.Email != "ada@example.com" {
					return auth.LoginReply{}, auth.ErrInvalid.With(auth.Field{Field: "email", Reason: "invalid"})
				}
				return auth.LoginReply{UserID: 7, Tokens: auth.Tokens{SessionID: req.Client.IP}}, nil
			}),
			bus.Handle(s, auth.AccountGet, func(_ context.Context, req auth.AccountGetRequest) (auth.Account, error) {
				return auth.Account{Name: req.AccessToken}, nil
			}),
		)
	})
	app := connect(t, b, embedded.App)

	reply, err := bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{Email: "ada@example.com", Sender: auth.Sender{Client: &auth.ClientInfo{IP: "::1"}}})
	if err != nil || reply.UserID != 7 || reply.SessionID != "::1" {
		t.Errorf("reply %+v, %v", reply, err)
	}
	_, err = bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{Email: "bob"})
	if !errors.Is(err, auth.ErrInvalid) || len(auth.Public(err).Fields) != 1 {
		t.Errorf("refusal: %v", err)
	}
	if _, err := bus.Call(t.Context(), app, auth.Login, auth.LoginRequest{Email: "panic"}); !errors.Is(err, auth.ErrInternal) {
		t.Errorf("panic: %v", err)
	}
	account, err := bus.Call(t.Context(), app, auth.AccountGet, auth.AccountGetRequest{Bearer: auth.Bearer{AccessToken: "a.b.c"}})
	if err != nil || account.Name != "a.b.c" {
		t.Errorf("the access token arrived as %q, %v", account.Name, err)
	}
	if _, err := bus.Call(t.Context(), app, auth.Keys, auth.KeysRequest{}); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("nobody answers: %v", err)
	}
}

// A client with a key says whom it asks for. A guest does not: the service takes the address of the
// connection, whatever the request and its headers say.
func TestAGuestCannotSayWhereItComesFrom(t *testing.T) {
	t.Parallel()
	b := broker(t)
	seen := make(chan *auth.ClientInfo, 1)
	serve(t, b, io.Discard, func(s *bus.Server) error {
		return bus.HandleAsync(s, auth.Login, func(_ context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
			seen <- req.Client
			return auth.LoginReply{}, nil
		})
	})
	const body = `{"email":"ada@example.com","password":"x","client":{"ip":"192.0.2.1","userAgent":"forged"}}`
	from := func(options ...nats.Option) auth.ClientInfo {
		t.Helper()
		conn, err := bus.Connect(b.URL(), options...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		m := nats.NewMsg(string(auth.Login))
		m.Data = []byte(body)
		if len(options) == 0 {
			m.Header.Set("Nats-Request-Info", `{"host":"192.0.2.2"}`)
		}
		if _, err := conn.RequestMsg(m, patience); err != nil {
			t.Fatal(err)
		}
		if client := <-seen; client != nil {
			return *client
		}
		return auth.ClientInfo{}
	}
	if got := from(); got != (auth.ClientInfo{IP: "127.0.0.1"}) {
		t.Errorf("a guest comes from %+v", got)
	}
	if got := from(b.InProcess()); got != (auth.ClientInfo{}) {
		t.Errorf("a guest within the process comes from %+v", got)
	}
	for _, role := range []string{embedded.App, embedded.Edge, embedded.Service, embedded.Subscriber} {
		if got := from(b.As(role)); got != (auth.ClientInfo{IP: "192.0.2.1", UserAgent: "forged"}) {
			t.Errorf("%s asks for %+v", role, got)
		}
	}
}

func TestAnAuthorizationHeaderIsReadStrictly(t *testing.T) {
	t.Parallel()
	b := broker(t)
	serve(t, b, io.Discard, func(s *bus.Server) error {
		return bus.Handle(s, auth.AccountGet, func(context.Context, auth.AccountGetRequest) (auth.Account, error) {
			return auth.Account{}, nil
		})
	})
	app := connect(t, b, embedded.App)
	for name, tt := range map[string]struct {
		values, upper []string
		code          string
	}{
		"none":                  {nil, nil, ""},
		"one":                   {[]string{"Bearer a"}, nil, ""},
		"one in capitals":       {nil, []string{"Bearer a"}, ""},
		"another scheme":        {[]string{"Basic a"}, nil, ""}, // no credential, which is up to the handler
		"no scheme":             {[]string{"a"}, nil, "401"},
		"two":                   {[]string{"Bearer a", "Bearer a"}, nil, "400"},
		"two spelt differently": {[]string{"Bearer a"}, []string{"Bearer b"}, "400"},
	} {
		msg := nats.NewMsg(string(auth.AccountGet))
		msg.Header["Authorization"] = tt.values
		if tt.upper != nil {
			msg.Header["AUTHORIZATION"] = tt.upper
		}
		reply, err := app.RequestMsg(msg, patience)
		if err != nil {
			t.Fatal(err)
		}
		if got := reply.Header.Get(micro.ErrorCodeHeader); got != tt.code {
			t.Errorf("%s: code %q, want %q", name, got, tt.code)
		}
	}
}

func TestInternalErrorsSayNothingAndAreLogged(t *testing.T) {
	t.Parallel()
	b := broker(t)
	var log lockedBuffer
	serve(t, b, &log, func(s *bus.Server) error {
		return bus.Handle(s, auth.Keys, func(context.Context, auth.KeysRequest) (auth.JWKS, error) {
			return auth.JWKS{}, errors.New("the disk of db7 is full")
		})
	})
	reply, err := connect(t, b, embedded.App).Request(string(auth.Keys), nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"code":"internal","message":"Something went wrong on our side."}`
	if string(reply.Data) != want || reply.Header.Get(micro.ErrorHeader) != "Something went wrong on our side." || reply.Header.Get(micro.ErrorCodeHeader) != "500" {
		t.Errorf("reply %s, headers %v", reply.Data, reply.Header)
	}
	if !strings.Contains(log.String(), "db7") {
		t.Errorf("the log says %q", log.String())
	}
}

// A reply goes to an inbox or nowhere, and a request without one is not carried out.
func TestRepliesGoToInboxesOnly(t *testing.T) {
	t.Parallel()
	b := broker(t)
	var asked atomic.Int32
	serve(t, b, io.Discard, func(s *bus.Server) error {
		return bus.Handle(s, auth.Keys, func(context.Context, auth.KeysRequest) (auth.JWKS, error) {
			asked.Add(1)
			return auth.JWKS{}, nil
		})
	})
	app := connect(t, b, embedded.App)
	heard, err := app.SubscribeSync("user.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Publish(string(auth.Keys), nil); err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"user.registered", "auth.register", "_INBOXes.x", "_INBOX"} {
		if err := app.PublishRequest(string(auth.Keys), reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	// So many that every worker of the subject has got one behind those.
	for range 50 {
		if _, err := app.Request(string(auth.Keys), nil, patience); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 50 {
		t.Errorf("%d requests were carried out, want 50", n)
	}
	if n, _, _ := heard.Pending(); n != 0 {
		t.Errorf("%d replies came out as events", n)
	}
}

func TestTheServiceTellsAboutItself(t *testing.T) {
	t.Parallel()
	b := broker(t)
	serve(t, b, io.Discard, func(s *bus.Server) error {
		return bus.Handle(s, auth.AccountGet, func(context.Context, auth.AccountGetRequest) (auth.Account, error) {
			return auth.Account{}, auth.ErrUnauthenticated
		})
	})
	admin := connect(t, b, embedded.Admin)
	for range 10 {
		if _, err := bus.Call(t.Context(), admin, auth.AccountGet, auth.AccountGetRequest{}); !errors.Is(err, auth.ErrUnauthenticated) {
			t.Fatal(err)
		}
	}
	var info micro.Info
	ask(t, admin, "$SRV.INFO.auth", &info)
	if info.Name != "auth" || info.Version != "1.2.3" || len(info.Endpoints) == 0 {
		t.Fatalf("info %+v", info)
	}
	for _, e := range info.Endpoints {
		if e.Subject != "auth.account.get" || e.Metadata["authorization"] != "Bearer" {
			t.Errorf("endpoint %+v", e)
		}
		var schema struct {
			Type       string
			Properties map[string]struct{ Type any }
		}
		if err := json.Unmarshal([]byte(e.Metadata["response_schema"]), &schema); err != nil {
			t.Fatal(err)
		}
		if schema.Type != "object" || schema.Properties["userId"].Type != "integer" {
			t.Errorf("schema of the reply %+v", schema)
		}
	}
	var stats micro.Stats
	ask(t, admin, "$SRV.STATS.auth", &stats)
	requests, failures := 0, 0
	for _, e := range stats.Endpoints {
		requests, failures = requests+e.NumRequests, failures+e.NumErrors
	}
	if requests != 10 || failures != 10 {
		t.Errorf("%d requests and %d errors counted, want 10 of each", requests, failures)
	}
}

func ask(t *testing.T, conn *nats.Conn, subject string, v any) {
	t.Helper()
	reply, err := conn.Request(subject, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(reply.Data, v); err != nil {
		t.Fatal(err)
	}
}

// What was accepted before the stop is answered, though it takes a while.
func TestStoppingAnswersWhatWasAccepted(t *testing.T) {
	t.Parallel()
	b := broker(t)
	begun, finish := make(chan struct{}, 64), make(chan struct{})
	stop := serve(t, b, io.Discard, func(s *bus.Server) error {
		return bus.Handle(s, auth.Keys, func(context.Context, auth.KeysRequest) (auth.JWKS, error) {
			begun <- struct{}{}
			<-finish
			return auth.JWKS{}, nil
		})
	})
	app := connect(t, b, embedded.App)
	const requests = 20 // more than run at once, so some wait in the subscriptions
	answers := make(chan error, requests)
	for range requests {
		go func() {
			_, err := bus.Call(context.Background(), app, auth.Keys, auth.KeysRequest{})
			answers <- err
		}()
	}
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(finish)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	for range requests {
		if err := <-answers; err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("a request was dropped: %v", err)
		}
	}
}

func TestALostConnectionEndsRun(t *testing.T) {
	t.Parallel()
	b := broker(t)
	conn := connect(t, b, embedded.Service)
	server, err := bus.NewServer(conn, connect(t, b, embedded.Service), "1.2.3", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := server.Run(t.Context()); err == nil {
		t.Error("Run returned nil, though nobody asked it to stop")
	}
}

// lockedBuffer is written by the server and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
