package handlers_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// begin has six decimals, which tokens, in whole seconds, do not keep.
var begin = time.Date(2026, time.March, 1, 12, 0, 0, 123456000, time.UTC)

const (
	ada   = "Ada@Example.com"
	horse = "correct horse battery"
)

const (
	accessTTL = 15 * time.Minute
	idleTTL   = 24 * time.Hour
	maxAge    = 60 * time.Hour
	grace     = 10 * time.Second
)

// clock stands still until it is moved.
type clock struct{ since atomic.Int64 }

func (c *clock) now() time.Time          { return begin.Add(time.Duration(c.since.Load())) }
func (c *clock) advance(d time.Duration) { c.since.Add(int64(d)) }

// service is one instance of the service, as the program joins it.
type service struct {
	*clock
	url      string
	master   string
	store    *persistence.Store
	keys     *keyring.Keys
	sessions *handlers.Sessions
	accounts *handlers.Accounts
}

// eachURL runs f on an empty database of every supported kind.
func eachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"sqlite": testdb.SQLite, "postgres": testdb.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, url(t))
		})
	}
}

// each runs f with a service on every supported database.
func each(t *testing.T, f func(t *testing.T, s *service)) {
	eachURL(t, func(t *testing.T, url string) { f(t, start(t, url, secret.Generate(), &clock{})) })
}

// open opens the database with its schema.
func open(t *testing.T, url string) *persistence.Store {
	t.Helper()
	s, err := persistence.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := migrations.Up(t.Context(), s.DB()); err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, master string) secret.Keys {
	t.Helper()
	keys, err := secret.Parse(master)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// hasher is as the program makes it, but for its cost.
func hasher(t *testing.T, master string, cost int) *password.Hasher {
	t.Helper()
	h, err := password.New(password.Peppers(parse(t, master)), cost, password.MinLength, "zyotra")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func start(t *testing.T, url, master string, c *clock) *service {
	t.Helper()
	s := &service{clock: c, url: url, master: master, store: open(t, url)}
	secrets := parse(t, master)
	peppers, err := (&keyring.Secrets{Store: s.store, Master: secrets, Clock: c.now}).Peppers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	passwords := hasher(t, master, bcrypt.MinCost)
	passwords.Peppers = peppers
	s.keys = &keyring.Keys{Store: s.store, Master: secrets, AccessTTL: accessTTL, Clock: c.now}
	if err := s.keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var refreshes []token.Key
	for _, k := range secrets {
		refreshes = append(refreshes, token.Key{Secret: k.Derive(secret.LabelRefresh)})
	}
	s.sessions = &handlers.Sessions{
		Store: s.store, Passwords: passwords, Keys: s.keys, Refreshes: refreshes,
		Issuer:    token.Issuer{Name: "https://auth.example", Audience: "zyotra"},
		AccessTTL: accessTTL, IdleTTL: idleTTL, MaxAge: maxAge, Grace: grace, Clock: c.now,
	}
	s.accounts = &handlers.Accounts{Store: s.store, Passwords: passwords, Sessions: s.sessions, Clock: c.now}
	return s
}

// another starts a second instance on the same database.
func (s *service) another(t *testing.T) *service {
	t.Helper()
	return start(t, s.url, s.master, s.clock)
}

func (s *service) register(t *testing.T) auth.UserID {
	t.Helper()
	reply, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse, Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	return reply.UserID
}

func (s *service) login(t *testing.T) auth.LoginReply {
	t.Helper()
	reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse})
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// begun is a new session of a new user.
func (s *service) begun(t *testing.T) auth.Tokens {
	t.Helper()
	s.register(t)
	return s.login(t).Tokens
}

func (s *service) refresh(t *testing.T, spent auth.Tokens) auth.Tokens {
	t.Helper()
	next, err := s.tryRefresh(t, spent.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func (s *service) tryRefresh(t *testing.T, refreshToken string) (auth.Tokens, error) {
	return s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: refreshToken})
}

func (s *service) verify(t *testing.T, accessToken string) error {
	_, err := s.sessions.Verify(t.Context(), auth.VerifyRequest{Token: accessToken})
	return err
}

func (s *service) logout(t *testing.T, access, refresh string) error {
	_, err := s.sessions.Logout(t.Context(), auth.LogoutRequest{Bearer: auth.Bearer{AccessToken: access}, RefreshToken: refresh})
	return err
}

// execute changes rows behind the service's back.
func (s *service) execute(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := s.store.DB().ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *service) count(t *testing.T, table string) int {
	t.Helper()
	n, err := s.store.DB().NewSelect().Table(table).Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func (s *service) stored(t *testing.T) (hash string) {
	t.Helper()
	if err := s.store.DB().NewRaw("SELECT password FROM users").Scan(t.Context(), &hash); err != nil {
		t.Fatal(err)
	}
	return hash
}

// ended tells whether somebody ended the session.
func (s *service) ended(t *testing.T, id string) bool {
	t.Helper()
	session, err := s.store.Session(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return !session.RevokedAt.IsZero()
}

func want(t *testing.T, what string, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Errorf("%s: got %v, want %v", what, err, wanted)
	}
}

// claims are those that both kinds of token have, and some.
type claims struct {
	Gen      int64
	Iat, Exp int64
	AuthTime int64 `json:"auth_time"`
	Sid, Jti string
	AMR      []string
}

func read(t *testing.T, text string) (c claims) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// atOnce runs f n times at once and returns what they return.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func TestHealthNamesThePartThatIsAway(t *testing.T) {
	eachURL(t, func(t *testing.T, url string) {
		store, err := persistence.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := migrations.Up(t.Context(), store.DB()); err != nil {
			t.Fatal(err)
		}
		health := handlers.Health{Store: store}
		if reply, err := health.Check(t.Context(), auth.HealthRequest{}); err != nil || reply.Status != "ready" {
			t.Errorf("open: %+v, %v", reply, err)
		}
		if _, err := store.DB().ExecContext(t.Context(), "ALTER TABLE write_probe RENAME TO former"); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; { // the former result counts for a moment
			_, err = health.Check(t.Context(), auth.HealthRequest{})
		}
		if fields := auth.Public(err).Fields; len(fields) != 1 || fields[0] != (auth.Field{Field: "database", Reason: "not_writable"}) {
			t.Errorf("not writable: %v", fields)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = health.Check(t.Context(), auth.HealthRequest{})
		want(t, "closed", err, auth.ErrUnavailable)
		if fields := auth.Public(err).Fields; len(fields) != 1 || fields[0].Field != "database" {
			t.Errorf("closed: %v", fields)
		}
	})
}
