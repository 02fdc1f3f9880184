package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/http"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// open opens the parts in the order of their dependencies.
func (s *service) open(ctx context.Context, cmd serveCommand) error {
	if err := s.openTracing(ctx); err != nil { // first, since all other parts look up the tracer
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
	if s.admin != nil {
		s.showMetrics()
		s.showDocuments()
	}
	return nil
}

// openPasswords creates the Hasher, which hashes, compares and rejects passwords. openKeys adds its pool
// and its peppers, which are in the database.
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

// openSecrets opens the data directory if a part stores files there, and returns the master
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

// openStore opens the database. It applies missing migrations on SQLite or if migrate is set; otherwise
// it returns an error unless the schema is the one that this binary knows.
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

// warnOfCollisions assigns free addresses to their accounts, and then logs the ids of accounts that no
// login finds, since another account has their address. On Postgres, where this reads many rows, it runs
// only after a migration.
func (s *service) warnOfCollisions(ctx context.Context) error {
	list, err := migrations.Refold(ctx, s.store.DB())
	if len(list) > 0 {
		s.log.Warn("no login finds these accounts: each has the same address as another one, but for letter case",
			"count", len(list), "accounts", collisionIDs(list))
	}
	return err
}

// shareClock makes all instances on one Postgres use its time.
func (s *service) shareClock(ctx context.Context) error {
	if !isPostgres(s.config.databaseURL) {
		return nil
	}
	s.shared = &databaseClock{clock: s.machine, ask: s.store.Time, log: s.log}
	return s.shared.set(ctx)
}

// checkSchema returns an error for a schema that this binary does not know.
func checkSchema(ctx context.Context, store *persistence.Store) error {
	err := migrations.Check(ctx, store.DB())
	if errors.Is(err, migrations.ErrPending) {
		return fmt.Errorf("%w: run \"authd migrate up\", or start with --migrate", err)
	}
	return err
}

// useCases contains the types whose methods answer subjects.
type useCases struct {
	accounts *handlers.Accounts
	sessions *handlers.Sessions
	emails   *handlers.Emails
	recovery *handlers.Recovery
	codes    *handlers.CodeLogins
	admin    *handlers.Admin
	snapshot *handlers.Snapshot
	health   *handlers.Health
}

// openHandlers opens keys and limits, creates the use cases and serves them on the bus.
func (s *service) openHandlers(ctx context.Context, master secret.Keys) error {
	if err := s.openKeys(ctx, master); err != nil {
		return err
	}
	limits, err := s.limits(master)
	if err != nil {
		return err
	}
	h := s.newUseCases(master, limits)
	s.endings = &handlers.Endings{Sessions: h.sessions, Log: s.log, Clock: s.clock}
	s.cleanup = &handlers.Cleanup{Store: s.store, Log: s.log, Clock: s.clock}

	// The buffer keeps replies while the connection changes servers.
	buffer := nats.ReconnectBufSize(replyBuffer)
	back, err := s.keepConnected(embedded.Service, buffer)
	if err != nil {
		return err
	}
	h.health = s.openHealth(back)
	s.health = func(ctx context.Context) (auth.HealthReply, error) { return h.health.Check(ctx, auth.HealthRequest{}) }
	conn, err := s.openServer(back, buffer)
	if err != nil {
		return err
	}
	if err := errors.Join(s.serveVerifiers(h), conn.Flush()); err != nil { // the verifier calls these subjects
		return err
	}
	if err := s.openVerifier(back); err != nil {
		return err
	}
	s.followKeysAndSessions()
	if err := s.hearKeys(back); err != nil {
		return err
	}
	return errors.Join(s.serveSubjects(h), conn.Flush()) // the server has all subscriptions, so the instance is ready
}

// openKeys opens the signing keys, the peppers and the hashing pool.
func (s *service) openKeys(ctx context.Context, master secret.Keys) error {
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
	return nil
}

// newUseCases creates the use cases except health.
func (s *service) newUseCases(master secret.Keys, limits *ratelimit.Limiter) (h useCases) {
	flows, oneTimes := s.openFlows()
	var notices *handlers.Notices
	if oneTimes != nil {
		notices = &handlers.Notices{OneTimes: oneTimes, NewDevice: flows.newDevice, Limits: limits}
	}
	h.sessions = &handlers.Sessions{
		Store: s.store, Passwords: s.passwords, Keys: s.keys,
		Issuer:    token.Issuer{Name: s.config.issuer, Audience: s.config.audience},
		Refreshes: refreshKeys(s.config.refreshSecret, master),
		AccessTTL: s.config.accessTTL, IdleTTL: s.config.refreshTTL, MaxAge: s.config.maxAge, Grace: s.config.grace,
		Limit: s.config.sessionLimit, Limits: limits,
		OneTimes: oneTimes, Required: flows.verification == handlers.VerificationRequired, Notices: notices,
		Clock: s.clock, Steady: s.machine.Steady, Log: s.log,
	}
	h.accounts = &handlers.Accounts{
		Store: s.store, Passwords: s.passwords, Sessions: h.sessions, Limits: limits, Reauth: s.config.reauth,
		OneTimes: oneTimes, Verification: flows.verification, Notices: notices, Clock: s.clock, Log: s.log,
	}
	h.emails = &handlers.Emails{Store: s.store, OneTimes: oneTimes, Accounts: h.accounts, Sessions: h.sessions, Limits: limits, Clock: s.clock, Log: s.log}
	h.recovery = &handlers.Recovery{OneTimes: oneTimes, Accounts: h.accounts, Sessions: h.sessions, Notices: notices, Limits: limits, Clock: s.clock, Log: s.log}
	h.codes = &handlers.CodeLogins{On: flows.login, OneTimes: oneTimes, Accounts: h.accounts, Sessions: h.sessions, Limits: limits, Clock: s.clock, Log: s.log}
	h.admin = &handlers.Admin{Store: s.store, Accounts: h.accounts, Sessions: h.sessions, Clock: s.clock, Log: s.log}
	h.snapshot = &handlers.Snapshot{Store: s.store, Sequence: s.lastSequence}
	return h
}

// openServer creates the server of the subjects and returns its connection.
func (s *service) openServer(back *nats.Conn, buffer nats.Option) (*nats.Conn, error) {
	conn, err := s.connect(embedded.Service, buffer)
	if err != nil {
		return nil, err
	}
	if s.server, err = bus.NewServer(conn, back, version, s.log); err != nil {
		conn.Close()
		return nil, err
	}
	s.server.MaxConcurrent, s.server.Queue = cores, func() any { return s.pool.Stats() }
	if isPostgres(s.config.databaseURL) { // other instances may reach the database when this one cannot
		s.server.Healthy = s.store.Ping
	}
	s.server.Observe = s.observeBus
	return conn, nil
}

// followKeysAndSessions makes the verifier of this process follow the changes of this process without a
// round trip. It also counts their events for the metrics.
func (s *service) followKeysAndSessions() {
	s.keys.Changed = s.verifier.Refetch
	s.store.OnCommit = func(d events.Data) {
		s.metrics.CountEvent(d)
		switch d := d.(type) {
		case events.SessionRevoked:
			s.verifier.Revoke(d.SessionID, d.ExpiresAt)
		case events.UserDeleted:
			s.verifier.RevokeUser(d.UserID, d.DeletedAt.Add(token.MaxLifetime))
		}
	}
}

// hearKeys makes this instance read the signing keys immediately when an instance has changed them, so
// that a withdrawn key soon verifies nowhere.
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

// openHealth creates the health check, which reports whether requests would succeed. They succeed without
// JetStream: events and mails wait in the database. So an instance whose embedded server has disabled
// JetStream still receives requests, and reports that it is degraded.
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

// openFlows creates the one-time tokens, which issue the links and codes in mails; nil without mail.
func (s *service) openFlows() (flowConfig, *handlers.OneTimeTokens) {
	if s.config.flows == nil {
		return flowConfig{}, nil
	}
	f := *s.config.flows
	return f, &handlers.OneTimeTokens{
		Store: s.store, Mails: s.mails, Base: f.publicURL,
		VerifyTTL: f.verifyTTL, ResetTTL: f.resetTTL, AlarmTTL: f.alarmTTL, CodeTTL: f.mailCodes, Clock: s.clock,
	}
}

// firstGuess returns the approximate duration of a hash of the cost, before the first measurement.
func firstGuess(cost int) time.Duration {
	return 60 * time.Millisecond << cost >> password.MinCost
}

// limits creates the limiter of attempts. If limits are off, it logs a warning and returns nil. While a
// second master secret is in use, an instance that does not have both may count separately.
func (s *service) limits(master secret.Keys) (*ratelimit.Limiter, error) {
	if s.config.limits == nil {
		s.log.Warn("RATE_LIMITS=off: passwords can be guessed at without end")
		return nil, nil
	}
	limits, err := ratelimit.New(s.store, master.DeriveShared(secret.LabelLimits), *s.config.limits)
	if err != nil {
		return nil, err
	}
	limits.Refused, limits.Clock = s.metrics.Limited, s.clock
	return limits, nil
}

// wrongSecretKey returns an error that names SECRET_KEY if err is secret.ErrSealed, and otherwise err.
func wrongSecretKey(err error) error {
	if errors.Is(err, secret.ErrSealed) {
		return &settingError{"SECRET_KEY", "is not the one this database's keys were sealed with: " + err.Error(), "<the former one>"}
	}
	return err
}

// tellSpare logs that the second of two master secrets can be removed, once no key or pepper needs it.
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

// openVerifier creates the verifier, which follows keys and revocations over conn. conn must stay open.
func (s *service) openVerifier(conn *nats.Conn) (err error) {
	s.verifier, err = bus.NewVerifier(conn, bus.VerifierConfig{Issuer: s.config.issuer, Audience: s.config.audience, Log: s.log, Clock: s.machine})
	if err != nil {
		return err
	}
	s.onClose(s.verifier.Close)
	return nil
}

// awaitRevocations waits up to 5 s, usually milliseconds, until the verifier has read the revocations. If
// the verifier cannot read them, awaitRevocations logs a warning and /readyz reports it.
func (s *service) awaitRevocations(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.verifier.Ready(ctx); err != nil {
		s.log.Warn("revocations are not known yet", "err", err)
	}
}

// openRelay connects the relay, which publishes events, to the bus in a separate role.
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

// lastSequence returns the sequence number of the latest event, 0 if there is none. It uses the rights of
// the relay; no other part may read it.
func (s *service) lastSequence(ctx context.Context) (uint64, error) {
	n, err := events.LastSequence(ctx, s.relay.JS)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // no event has been published yet
		return 0, nil
	}
	return n, err
}

// replyBuffer is the maximum size of the replies that wait for a server, in bytes.
const replyBuffer = 8 << 20

// clusterSize is the number of servers from which events are replicated, and the number of replicas.
const clusterSize = 3

// refreshKeys returns the keys of refresh tokens: the secret that was set, or those derived from the
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

// openEdge connects the edge to the bus as a separate client, and opens its listener.
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

// reservedFiles is the minimum number of open files that remain for everything except the edge's
// connections: the database, the bus, and files.
const reservedFiles = 96

// mostConnections returns the maximum number of concurrent connections of the edge: three quarters of the
// files that the process may open, or fewer to keep reservedFiles, but at least 16. The Go runtime has
// raised that limit to the hard one. 0 is the edge's default.
func mostConnections() int {
	most, known := openFiles()
	if !known {
		return 0
	}
	most = min(most, http.DefaultMaxConnections)
	return int(max(16, most-min(most, max(most/4, reservedFiles))))
}

// showDocuments serves the documents to operators.
func (s *service) showDocuments() {
	for path, handler := range http.Documents(s.config.publicOrigin) {
		if path == "/docs" {
			s.admin.Page(path, handler)
			continue
		}
		s.admin.Handle("GET "+path, handler)
	}
}
