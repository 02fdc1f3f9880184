package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/http"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/operator"
	"github.com/zyotra/auth/operator/metrics"
	"github.com/zyotra/auth/persistence"
)

// serviceName is what users know the service by, if they know it.
const serviceName = "zyotra"

// serveCommand is "authd serve".
type serveCommand struct {
	serveSettings

	Edge     bool `help:"Run only the HTTP edge, against an external bus." xor:"part"`
	Handlers bool `help:"Run only the bus side." xor:"part"`
	Migrate  bool `help:"Bring the schema up to date first. On SQLite that is always done."`
}

// service is the running program: what is open, and what runs.
type service struct {
	config    config
	settings  serveSettings
	log       *slog.Logger
	machine   *clock.Clock     // which goes by the database's on Postgres
	clock     clock.Func       // its wall time
	shared    *databaseClock   // keeps machine in step; nil on SQLite
	dir       *dataDir         // nil if nothing is kept in files
	embedded  *embedded.Server // nil with an external cluster
	store     *persistence.Store
	server    *bus.Server       // nil for --edge, as are
	pool      *password.Pool    // this
	keys      *keyring.Keys     // and this
	cleanup   *handlers.Cleanup // and this
	endings   *handlers.Endings // and this
	relay     *events.Relay     // and this
	mails     *handlers.Mails   // and this
	mailer    *mail.Mailer      // and this, and if nothing sends mails
	passwords *password.Hasher  // and this
	verifier  *bus.Verifier
	edge      *http.Edge       // nil for --handlers
	listener  net.Listener     // of the edge
	operator  *operator.Server // nil if it listens nowhere
	operators net.Listener     // of that
	mailbox   string           // URL of the mailbox, "" if there is none
	metrics   *metrics.Metrics
	health    func(context.Context) (auth.HealthReply, error) // of this process, or of what its edge asks
	conns     []connection                                    // to the bus
	strangers strangerCheck                                   // of an external cluster
	unchecked []string                                        // URLs of servers that it could not ask
	close     []func() error
}

// Run opens everything, so that what is wrong is said before anything is served, tells where
// it listens, and serves until ctx ends.
func (cmd serveCommand) Run(ctx context.Context, stdout io.Writer, out logOutput) (err error) {
	started := time.Now()
	broken := make(chan os.Signal, 1) // a log that nobody reads any more does not end the service
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	log, text, err := cmd.logger(out)
	if err != nil {
		return err
	}
	config, err := cmd.check()
	if err != nil {
		return err
	}
	if cmd.Edge && config.natsURL == "" {
		return &settingError{"NATS_URL", "is empty, but an edge alone needs a bus", "nats://127.0.0.1:4222"}
	}
	machine := machineClock()
	s := &service{config: config, settings: cmd.serveSettings, log: log, machine: machine, clock: machine.Now, metrics: metrics.New(version)}
	defer func() { err = errors.Join(err, s.closeAll()) }()

	if err := s.open(ctx, cmd); err != nil {
		return err
	}
	s.tellReady(stdout, text, time.Since(started))
	err = s.run(ctx)
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// open opens the parts in the order in which they need each other.
func (s *service) open(ctx context.Context, cmd serveCommand) error {
	if err := s.openTracing(ctx); err != nil { // first, since all others look whether there is a tracer
		return err
	}
	if !cmd.Edge {
		if err := s.openPasswords(); err != nil {
			return err
		}
	}
	keys, err := s.openSecrets(cmd)
	if err != nil {
		return err
	}
	if s.config.natsURL == "" {
		if err := s.openEmbedded(ctx); err != nil {
			return err
		}
	}
	role := embedded.Service
	if cmd.Edge {
		role = embedded.Edge
	}
	if err := s.checkStrangers(ctx, role); err != nil {
		return err
	}
	if !cmd.Edge {
		if err := s.openStore(ctx, cmd.Migrate); err != nil {
			return err
		}
		s.mails = &handlers.Mails{Keys: keys}
		if err := s.openRelay(); err != nil {
			return err
		}
		if err := s.openHandlers(ctx, keys); err != nil {
			return err
		}
		s.awaitRevocations(ctx)
	}
	if !cmd.Handlers {
		if err := s.openEdge(); err != nil {
			return err
		}
	}
	if err := s.openOperator(); err != nil {
		return err
	}
	if !cmd.Edge {
		if err := s.openMailer(); err != nil {
			return err
		}
	}
	if s.operator != nil {
		s.showMetrics()
		s.showDocuments()
	}
	return nil
}

// openPasswords makes what hashes passwords, compares them and refuses poor ones, but for its
// peppers, which are in the database.
func (s *service) openPasswords() (err error) {
	if s.passwords, err = password.New(nil, s.config.bcryptCost, s.config.passwordMinLength, serviceName); err != nil {
		return err
	}
	if err := s.settings.block(s.passwords); err != nil {
		return err
	}
	if s.config.pwnedURL != "" {
		s.passwords.Pwned = password.NewPwned(s.config.pwnedURL, "authd/"+version, s.log)
		s.onClose(s.passwords.Pwned.Close)
	}
	return nil
}

// openSecrets opens the data directory if anything is kept there, and finds the master
// secret. An edge alone has none.
func (s *service) openSecrets(cmd serveCommand) (keys secret.Keys, err error) {
	if !cmd.Edge {
		if keys, err = s.settings.secretKeys(); err != nil {
			return nil, err
		}
		if keys == nil && isPostgres(s.config.databaseURL) {
			return nil, noSecretKey
		}
	}
	if s.config.natsURL != "" && (cmd.Edge || isPostgres(s.config.databaseURL)) {
		return keys, nil
	}
	if s.dir, err = openDataDir(s.settings.DataDir); err != nil {
		return nil, err
	}
	s.onClose(s.dir.close)
	if s.dir.warning != "" {
		s.log.Warn(s.dir.warning)
	}
	if keys == nil {
		return s.dir.secretKeys()
	}
	return keys, nil
}

func (s *service) openEmbedded(ctx context.Context) (err error) {
	s.embedded, err = embedded.Start(ctx, embedded.Config{
		Dir: filepath.Join(s.dir.path, "nats"), Listen: s.settings.NATSListen, Guests: s.config.guests, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.onClose(func() error { s.embedded.Shutdown(); return nil })
	return s.warnOfGuests(ctx)
}

// openStore opens the database with the schema that this binary knows.
func (s *service) openStore(ctx context.Context, migrate bool) (err error) {
	url := s.config.databaseURL
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		lock, err := lockDatabase(path)
		if err != nil {
			return err
		}
		s.onClose(lock.Close)
	}
	if s.store, err = openStore(ctx, url); err != nil {
		return err
	}
	s.onClose(s.store.Close)
	if err := s.shareClock(ctx); err != nil {
		return err
	}
	if migrate || !isPostgres(url) {
		done, err := migrations.Up(ctx, s.store.DB())
		if len(done) > 0 {
			s.log.Info("schema migrated", "applied", strings.Join(done, " "))
		}
		if err != nil || len(done) == 0 && isPostgres(url) {
			return err
		}
		return s.warnOfCollisions(ctx)
	}
	return checkSchema(ctx, s.store)
}

// warnOfCollisions logs the ids of accounts that no login finds, since another account has their
// address, after it has given the free addresses to their accounts. On Postgres, where this reads
// many rows, it runs only after a migration.
func (s *service) warnOfCollisions(ctx context.Context) error {
	list, err := migrations.Refold(ctx, s.store.DB())
	if len(list) > 0 {
		s.log.Warn("no login finds these accounts: each has the same address as another one, but for letter case",
			"count", len(list), "accounts", collisionIDs(list))
	}
	return err
}

// shareClock has all instances on one Postgres agree in what time it is.
func (s *service) shareClock(ctx context.Context) error {
	if !isPostgres(s.config.databaseURL) {
		return nil
	}
	s.shared = &databaseClock{clock: s.machine, ask: s.store.Time, log: s.log}
	return s.shared.set(ctx)
}

// checkSchema refuses a schema that this binary does not know.
func checkSchema(ctx context.Context, store *persistence.Store) error {
	err := migrations.Check(ctx, store.DB())
	if errors.Is(err, migrations.ErrPending) {
		return fmt.Errorf("%w: run \"authd migrate up\", or start with --migrate", err)
	}
	return err
}

// openHandlers joins the subjects with the methods that answer them.
func (s *service) openHandlers(ctx context.Context, master secret.Keys) error {
	secrets := &keyring.Secrets{Store: s.store, Master: master, Clock: s.clock}
	peppers, err := secrets.Peppers(ctx)
	if err != nil {
		return wrongSecretKey(err)
	}
	if err := s.tellSpare(ctx, secrets); err != nil {
		return err
	}
	s.keys = &keyring.Keys{
		Store: s.store, Master: master, Secret: s.config.accessSecret,
		Rotation: s.config.rotation, AccessTTL: s.config.accessTTL, Log: s.log, Clock: s.clock, Hints: make(chan struct{}, 1),
	}
	if err := s.keys.Load(ctx); err != nil {
		return wrongSecretKey(err)
	}
	s.pool = password.NewPool(cores, s.config.hashWait, firstGuess(s.config.bcryptCost))
	s.pool.Background, s.pool.Observe = background, s.metrics.Hashed
	s.passwords.Peppers, s.passwords.Pool = peppers, s.pool
	limits, err := s.limits(master)
	if err != nil {
		return err
	}
	if limits != nil {
		limits.Clock = s.clock
	}
	flows, oneTimes := s.openFlows()
	var notices *handlers.Notices
	if oneTimes != nil {
		notices = &handlers.Notices{OneTimes: oneTimes, NewDevice: flows.newDevice, Limits: limits}
	}
	sessions := &handlers.Sessions{
		Store: s.store, Passwords: s.passwords, Keys: s.keys,
		Issuer:    token.Issuer{Name: s.config.issuer, Audience: s.config.audience},
		Refreshes: refreshKeys(s.config.refreshSecret, master),
		AccessTTL: s.config.accessTTL, IdleTTL: s.config.refreshTTL, MaxAge: s.config.maxAge, Grace: s.config.grace,
		Limit: s.config.sessionLimit, Limits: limits,
		OneTimes: oneTimes, Required: flows.verification == handlers.VerificationRequired, Notices: notices,
		Clock: s.clock, Steady: s.machine.Steady, Log: s.log,
	}
	accounts := &handlers.Accounts{
		Store: s.store, Passwords: s.passwords, Sessions: sessions, Limits: limits, Reauth: s.config.reauth,
		OneTimes: oneTimes, Verification: flows.verification, Notices: notices, Clock: s.clock, Log: s.log,
	}
	emails := &handlers.Emails{Store: s.store, OneTimes: oneTimes, Accounts: accounts, Sessions: sessions, Limits: limits, Clock: s.clock, Log: s.log}
	recovery := &handlers.Recovery{OneTimes: oneTimes, Accounts: accounts, Sessions: sessions, Notices: notices, Limits: limits, Clock: s.clock, Log: s.log}
	codes := &handlers.CodeLogins{On: flows.login, OneTimes: oneTimes, Accounts: accounts, Sessions: sessions, Limits: limits, Clock: s.clock, Log: s.log}
	admin := &handlers.Admin{Store: s.store, Accounts: accounts, Sessions: sessions, Clock: s.clock, Log: s.log}
	snapshot := &handlers.Snapshot{Store: s.store, Sequence: s.lastSequence}
	s.endings = &handlers.Endings{Sessions: sessions, Log: s.log, Clock: s.clock}
	s.cleanup = &handlers.Cleanup{Store: s.store, Log: s.log, Clock: s.clock}

	// A reply that is made while the connection changes servers is not lost.
	buffer := nats.ReconnectBufSize(replyBuffer)
	back, err := s.keepConnected(embedded.Service, buffer)
	if err != nil {
		return err
	}
	health := s.openHealth(back)
	s.health = func(ctx context.Context) (auth.HealthReply, error) { return health.Check(ctx, auth.HealthRequest{}) }
	conn, err := s.connect(embedded.Service, buffer)
	if err != nil {
		return err
	}
	if s.server, err = bus.NewServer(conn, back, version, s.log); err != nil {
		conn.Close()
		return err
	}
	s.server.AtOnce, s.server.Queue = cores, func() any { return s.pool.Stats() }
	if isPostgres(s.config.databaseURL) { // others may reach it where this instance does not
		s.server.Able = s.store.Ping
	}
	s.server.Observe = s.observeBus
	// What the verifier asks for is answered first.
	err = errors.Join(
		bus.Handle(s.server, auth.Keys, s.keys.Keys),
		bus.Handle(s.server, auth.Revocations, sessions.Revocations),
		conn.Flush(),
	)
	if err != nil {
		return err
	}
	if err := s.openVerifier(back); err != nil {
		return err
	}
	s.keys.Changed = s.verifier.Refetch
	s.store.OnCommit = func(d events.Data) {
		s.metrics.CountEvent(d)
		switch d := d.(type) {
		case events.SessionRevoked:
			s.verifier.Refuse(d.SessionID, d.ExpiresAt)
		case events.UserDeleted:
			s.verifier.RefuseUser(d.UserID, d.DeletedAt.Add(token.MaxLifetime))
		}
	}
	if err := s.hearKeys(back); err != nil {
		return err
	}
	return errors.Join(
		bus.HandleQueued(s.server, auth.Register, accounts.Register),
		bus.HandleQueued(s.server, auth.Login, sessions.Login),
		s.handleVerify(sessions),
		bus.HandleAtOnce(s.server, refreshesAtOnce, auth.Refresh, sessions.Refresh),
		bus.Handle(s.server, auth.Logout, sessions.Logout),
		bus.Handle(s.server, auth.AccountGet, accounts.Get),
		bus.Handle(s.server, auth.AccountUpdate, accounts.Update),
		bus.HandleQueued(s.server, auth.AccountDelete, accounts.Delete),
		bus.HandleQueued(s.server, auth.PasswordChange, accounts.ChangePassword),
		bus.HandleQueued(s.server, auth.EmailVerify, emails.Verify),
		bus.Handle(s.server, auth.EmailResend, emails.Resend),
		bus.HandleQueued(s.server, auth.EmailChange, emails.Change),
		bus.HandleQueued(s.server, auth.EmailConfirm, emails.Confirm),
		bus.Handle(s.server, auth.EmailUndo, emails.Undo),
		bus.Handle(s.server, auth.PasswordForgot, recovery.Forgot),
		bus.HandleQueued(s.server, auth.PasswordReset, recovery.Reset),
		bus.Handle(s.server, auth.NotMe, recovery.NotMe),
		bus.Handle(s.server, auth.LoginCode, codes.Login),
		bus.Handle(s.server, auth.SessionsList, sessions.List),
		bus.Handle(s.server, auth.SessionsRevoke, sessions.Revoke),
		bus.Handle(s.server, auth.SessionsRevokeOthers, sessions.RevokeOthers),
		bus.Handle(s.server, auth.UsersSnapshot, snapshot.Users),
		bus.Handle(s.server, auth.AdminUsersList, admin.List),
		bus.Handle(s.server, auth.AdminUsersGet, admin.Get),
		bus.Handle(s.server, auth.AdminUsersDisable, admin.Disable),
		bus.Handle(s.server, auth.AdminUsersEnable, admin.Enable),
		bus.Handle(s.server, auth.AdminUsersEndSessions, admin.EndSessions),
		bus.HandleQueued(s.server, auth.AdminUsersSetPassword, admin.SetPassword),
		bus.Handle(s.server, auth.Health, health.Check),
		conn.Flush(), // the server has them all, so ready means ready
	)
}

// hearKeys has the signing keys read at once when an instance has changed them, so that a withdrawn
// key verifies nowhere after a moment.
func (s *service) hearKeys(conn *nats.Conn) error {
	_, err := conn.Subscribe(events.KeyRotated{}.Type(), func(*nats.Msg) {
		select {
		case s.keys.Hints <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("listen for changes of signing keys: %w", err)
	}
	return nil
}

// openHealth makes what tells whether requests would succeed. Without JetStream they do: events
// and mails wait in the database. So an instance whose embedded server has switched it off goes on
// to be asked, and says that it is degraded.
func (s *service) openHealth(back *nats.Conn) *handlers.Health {
	h := &handlers.Health{
		Store: s.store,
		Needed: map[string]func() error{
			"bus":         func() error { return connected(back) },
			"revocations": func() error { return s.verifier.Err() },
		},
		Expected: map[string]func() error{"events": func() error { return s.relay.Err() }},
	}
	if s.embedded != nil {
		h.Expected["jetstream"] = s.embedded.Health
	}
	return h
}

func connected(conn *nats.Conn) error {
	if conn.IsConnected() {
		return nil
	}
	return nats.ErrDisconnected
}

// openFlows makes what links and codes in mails are made by; nil without mail.
func (s *service) openFlows() (flowConfig, *handlers.OneTimes) {
	if s.config.flows == nil {
		return flowConfig{}, nil
	}
	f := *s.config.flows
	return f, &handlers.OneTimes{
		Store: s.store, Mails: s.mails, Base: f.publicURL,
		VerifyTTL: f.verifyTTL, ResetTTL: f.resetTTL, AlarmTTL: f.alarmTTL, CodeTTL: f.mailCodes, Clock: s.clock,
	}
}

// firstGuess is about what a hash of the cost takes, before one was made.
func firstGuess(cost int) time.Duration {
	return 60 * time.Millisecond << cost >> password.MinCost
}

// limits makes what bounds guessing; nil, and says so, if it is off. While a second master secret
// is in use, instances that begin with another one count apart.
func (s *service) limits(master secret.Keys) (*ratelimit.Limiter, error) {
	if s.config.limits == nil {
		s.log.Warn("RATE_LIMITS=off: passwords can be guessed at without end")
		return nil, nil
	}
	limits, err := ratelimit.New(s.store, master.DeriveShared(secret.LabelLimits), *s.config.limits)
	if err != nil {
		return nil, err
	}
	limits.Refused = s.metrics.Limited
	return limits, nil
}

// wrongSecretKey names the setting if err is that a secret of the database does not open.
func wrongSecretKey(err error) error {
	if errors.Is(err, secret.ErrSealed) {
		return &settingError{"SECRET_KEY", "is not the one this database's keys were sealed with: " + err.Error(), "<the former one>"}
	}
	return err
}

// tellSpare says when the second of two master secrets has done its duty.
func (s *service) tellSpare(ctx context.Context, secrets *keyring.Secrets) error {
	if len(secrets.Master) == 1 {
		return nil
	}
	needed, err := secrets.NeedsAll(ctx)
	if err == nil && !needed {
		s.log.Info("the second SECRET_KEY can go, once REFRESH_TOKEN_TTL has passed since it became the second")
	}
	return err
}

// openVerifier follows keys and revocations over a connection that is kept.
func (s *service) openVerifier(conn *nats.Conn) (err error) {
	s.verifier, err = bus.NewVerifier(conn, bus.VerifierConfig{Issuer: s.config.issuer, Audience: s.config.audience, Log: s.log, Clock: s.machine})
	if err != nil {
		return err
	}
	s.onClose(s.verifier.Close)
	return nil
}

// awaitRevocations waits until the verifier knows which sessions have ended, which takes
// milliseconds. If it cannot be told, /readyz says so.
func (s *service) awaitRevocations(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.verifier.Ready(ctx); err != nil {
		s.log.Warn("revocations are not known yet", "err", err)
	}
}

// refreshesAtOnce is how many wait for the database together: those that commit at once share
// one wait for its disk.
const refreshesAtOnce = 32

// handleVerify has auth.verify answered as every verifier does, without a question to the
// database, and by the database itself where that cannot tell.
func (s *service) handleVerify(sessions *handlers.Sessions) error {
	if s.config.accessSecret != nil { // there are no public keys to verify with
		return bus.Handle(s.server, auth.Verify, sessions.Verify)
	}
	return bus.HandleAtOnce(s.server, max(2, cores), auth.Verify, func(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
		reply, err := s.verifier.Answer(ctx, req)
		if errors.Is(err, auth.ErrUnavailable) {
			return sessions.Verify(ctx, req)
		}
		return reply, err
	})
}

// openRelay connects what publishes events to the bus, in a role of its own.
func (s *service) openRelay() error {
	conn, err := s.keepConnected(embedded.Relay)
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	replicas := 1
	if len(conn.Servers()) >= clusterSize {
		replicas = clusterSize
	}
	s.relay = &events.Relay{Outbox: s.store, JS: js, Replicas: replicas, Log: s.log, Open: s.mails.Reseal}
	return nil
}

// lastSequence is that of the latest event, asked for as the relay, which alone may.
func (s *service) lastSequence(ctx context.Context) (uint64, error) {
	n, err := events.LastSequence(ctx, s.relay.JS)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // nothing was published yet
		return 0, nil
	}
	return n, err
}

// replyBuffer bounds the replies that wait for a server, in bytes.
const replyBuffer = 8 << 20

// clusterSize is the number of servers from which on events are kept on as many.
const clusterSize = 3

// refreshKeys sign refresh tokens: the secret that was set, or those derived from the
// master secrets, the current one first.
func refreshKeys(set []byte, master secret.Keys) (keys []token.Key) {
	if set != nil {
		return []token.Key{{Secret: set}}
	}
	for _, k := range master {
		keys = append(keys, token.Key{Secret: k.Derive(secret.LabelRefresh)})
	}
	return keys
}

// openEdge connects the edge to the bus, as a client of its own, and opens its listener.
func (s *service) openEdge() error {
	conn, err := s.keepConnected(embedded.Edge)
	if err != nil {
		return err
	}
	if s.verifier == nil {
		if err := s.openVerifier(conn); err != nil {
			return err
		}
	}
	address := net.JoinHostPort(s.settings.Host, s.settings.Port)
	if s.listener, err = net.Listen("tcp", address); err != nil {
		return fmt.Errorf("HOST, PORT: %w", err)
	}
	s.edge = http.New(conn, http.Config{
		Verifier: s.verifier, PublicOrigin: s.config.publicOrigin, Origins: s.config.origins, Proxies: s.config.proxies, Log: s.log,
		Observe: s.observeHTTP, PasswordMinLength: s.config.passwordMinLength,
		MaxConnections: mostConnections(), Documents: s.config.publicDocs,
	})
	if s.health == nil {
		s.health = s.edge.Ready
	}
	return nil
}

// reservedFiles is how many open files at least are left to everything but the edge's connections: the
// database, the bus, and files.
const reservedFiles = 96

// mostConnections is the most connections that the edge accepts at once: three of four files that the
// process may open. The Go runtime has raised that limit to the hard one. 0 is the edge's own default.
func mostConnections() int {
	most, known := openFiles()
	if !known {
		return 0
	}
	most = min(most, http.DefaultMaxConnections)
	return int(max(16, most-min(most, max(most/4, reservedFiles))))
}

// showDocuments shows the documents to operators.
func (s *service) showDocuments() {
	for path, handler := range http.Documents(s.config.publicOrigin) {
		if path == "/docs" {
			s.operator.Page(path, handler)
			continue
		}
		s.operator.Handle("GET "+path, handler)
	}
}

// keepConnected is connect for as long as the process runs.
func (s *service) keepConnected(role string, more ...nats.Option) (*nats.Conn, error) {
	conn, err := s.connect(role, more...)
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { conn.Close(); return nil })
	return conn, nil
}

// connect connects to the bus in a role: inside the process, or to the external cluster with
// the credentials of the settings. Where those are one user's, all parts have the service's role.
func (s *service) connect(role string, more ...nats.Option) (*nats.Conn, error) {
	conn, err := s.dial(role, more...)
	if err == nil {
		s.conns = append(s.conns, connection{role, conn})
	}
	return conn, err
}

func (s *service) dial(role string, more ...nats.Option) (*nats.Conn, error) {
	if s.embedded == nil && s.store != nil && !s.settings.eachHasItsRole() {
		role = embedded.Service
	}
	options := append(more,
		nats.Name("authd "+role),
		nats.CustomInboxPrefix("_INBOX_"+role),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil when we close it
				s.log.Warn("bus away", "role", role, "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.log.Info("bus back", "role", role) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.log.Error("bus", "role", role, "err", err) }),
	)
	if s.embedded != nil {
		return bus.Connect("", append(options, s.embedded.InProcess(), s.embedded.As(role))...)
	}
	credentials, err := s.settings.natsCredentials(role)
	if err != nil {
		return nil, err
	}
	options = append(options, credentials...)
	conn, err := bus.Connect(s.config.natsURL, options...)
	if err != nil {
		return nil, busError(err)
	}
	return conn, nil
}

// run serves until ctx ends or a part fails. The bus side outlives the edge, which asks it.
func (s *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	if s.server != nil {
		poolCtx, stopPool := context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error { return s.pool.Run(poolCtx) })
		g.Go(func() error {
			defer stopPool() // it outlives the last request
			return s.server.Run(busCtx)
		})
		g.Go(func() error { return s.keys.Run(busCtx) })
		if s.shared != nil {
			g.Go(func() error { return s.shared.run(busCtx) })
		}
		g.Go(func() error { return s.cleanup.Run(busCtx) })
		g.Go(func() error { return s.endings.Run(busCtx) })
		g.Go(func() error { return s.relay.Run(busCtx) })
	}
	if s.mailer != nil {
		g.Go(func() error { return s.mailer.Run(busCtx) })
	}
	g.Go(func() error { return s.watchStrangers(ctx) })
	if s.operator != nil {
		g.Go(func() error { return s.operator.Run(ctx, s.operators) })
	}
	g.Go(func() error {
		defer stopBus()
		if s.edge != nil {
			return s.edge.Run(ctx, s.listener)
		}
		<-ctx.Done()
		return nil
	})
	if s.embedded != nil {
		g.Go(func() error {
			select {
			case err := <-s.embedded.Failed():
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}
	return g.Wait()
}

// tellReady says where things listen and what to try next: to people in words, to a log in
// one record.
func (s *service) tellReady(stdout io.Writer, text bool, took time.Duration) {
	var http, natsURL string
	if s.listener != nil {
		http = "http://" + s.listener.Addr().String()
	}
	switch {
	case s.embedded == nil:
		natsURL = redacted(s.config.natsURL)
	case s.embedded.URL() == "":
		natsURL = "in this process only"
	default:
		natsURL = s.embedded.URL()
	}
	if !text {
		s.log.Info("ready", "version", version, "http", http, "nats", natsURL, "database", s.database(), "mailbox", s.mailbox, "metrics", s.metricsURL(), "took", took.Round(time.Millisecond).String())
		return
	}
	fmt.Fprintf(stdout, "authd %s is ready after %s\n", version, took.Round(time.Millisecond))
	fmt.Fprintf(stdout, "  NATS      %s\n", natsURL)
	if s.store != nil {
		fmt.Fprintf(stdout, "  Database  %s\n", s.database())
	}
	if s.mailbox != "" {
		fmt.Fprintf(stdout, "  Mailbox   %s\n", s.mailbox)
	}
	if url := s.metricsURL(); url != "" {
		fmt.Fprintf(stdout, "  Metrics   %s\n", url)
	}
	if http == "" {
		return
	}
	fmt.Fprintf(stdout, "  HTTP      %s\n\nTry:\n", http)
	fmt.Fprintf(stdout, "  curl -s %s/register -H 'Content-Type: application/json' -d '{\"email\":\"ada@example.com\",\"password\":\"correct horse\"}'\n", http)
	if s.embedded != nil && s.embedded.URL() != "" {
		key := ""
		if !s.embedded.AllowsGuests() {
			key = " --nkey " + embedded.SeedFile(filepath.Join(s.dir.path, "nats"), embedded.App)
		}
		fmt.Fprintf(stdout, "  nats -s %s%s service info auth\n", natsURL, key)
	}
}

// database names where accounts are kept, without what a URL may hold of secrets.
func (s *service) database() string {
	if s.store == nil {
		return ""
	}
	if isPostgres(s.config.databaseURL) {
		return "Postgres"
	}
	return "SQLite in " + strings.TrimPrefix(s.config.databaseURL, "sqlite://")
}

func (s *service) onClose(fn func() error) { s.close = append(s.close, fn) }

// closeAll closes what is open, the latest first.
func (s *service) closeAll() (err error) {
	for i := len(s.close) - 1; i >= 0; i-- {
		err = errors.Join(err, s.close[i]())
	}
	return err
}
