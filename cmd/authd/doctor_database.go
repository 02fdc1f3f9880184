package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// databaseWard runs the checks of the database and of the service's data in it.
type databaseWard struct {
	*patient
	store     *persistence.Store
	condition persistence.ServerStatus
}

func (p *patient) examineDatabase(ctx context.Context, t tell) {
	if p.Edge {
		return
	}
	w := &databaseWard{patient: p}
	own := w.ofItsKind()
	schema := inspection{"schema", w.schema}
	kept := []inspection{
		{"secret key", w.secretKey}, {"signing keys", w.signingKeys}, {"addresses", w.addresses}, {"revocations", w.revocations}, {"outbox", w.outbox},
	}
	if name, wrong := p.isWrong("DATABASE_URL", "DATA_DIR"); wrong {
		t.none(name+" is wrong", append(append([]inspection{{"database", nil}}, own...), append(kept, schema)...)...)
		return
	}
	if !t.one(ctx, inspection{"database", w.open}) || w.store == nil {
		t.none("there is no database to look at", append(append(own, schema), kept...)...)
		return
	}
	defer w.store.Close()
	t.each(ctx, own...)
	if !t.one(ctx, schema) {
		t.none("the schema is another one", kept...)
		return
	}
	t.each(ctx, kept...)
}

// ofItsKind returns the inspections that apply only to the configured kind of database.
func (w *databaseWard) ofItsKind() []inspection {
	if isPostgres(w.config.databaseURL) {
		return []inspection{{"encryption", w.encryption}, {"durability", w.durability}, {"connections", w.connections}, {"database clock", w.clock}}
	}
	return []inspection{{"integrity", w.integrity}}
}

func (w *databaseWard) open(ctx context.Context) finding {
	at, path := w.where()
	store, err := persistence.Inspect(ctx, w.config.databaseURL)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return good("%s is not there yet: the first start makes it", at)
	case err != nil && path != "":
		return bad("see to the file and its directory: the user that authd runs as has to read and write them", "%s: %s", at, err)
	case err != nil:
		return bad("see that it runs and can be reached from here, and that DATABASE_URL is right", "%s does not answer: %s", at, err)
	}
	w.condition, err = store.ServerStatus(ctx)
	if err != nil {
		return bad("see the database's log", "%s: %s", at, errors.Join(err, store.Close()))
	}
	w.store = store
	c := w.condition
	switch {
	case c.ReadOnly:
		return bad("name the primary in DATABASE_URL", "%s, %s, is a standby: it takes no changes", c.Version, at)
	case path != "" && c.Journal != "wal":
		return doubtful("start authd once, which changes it", "%s in %s, without a write-ahead log (%s)", c.Version, at, c.Journal)
	case path != "":
		return lockedDatabase(c.Version, path)
	}
	return good("%s at %s answers in %s", c.Version, at, brief(c.Latency))
}

// lockedDatabase returns a finding that names the process that uses an SQLite file, if there is one.
func lockedDatabase(version, path string) finding {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if held, err := isHeld(path + ".lock"); err == nil && held {
		return good("%s in %s, in use by an authd%s", version, path, holder(path+".lock"))
	}
	return good("%s in %s", version, path)
}

// where returns a name of the database without the secrets of its URL, and the path of an SQLite file.
func (w *databaseWard) where() (at, path string) {
	if path, ok := strings.CutPrefix(w.config.databaseURL, "sqlite://"); ok {
		return path, path
	}
	u, err := url.Parse(w.config.databaseURL)
	if err != nil || u.Host == "" {
		return "DATABASE_URL", ""
	}
	return u.Host, ""
}

func (w *databaseWard) encryption(context.Context) finding {
	u, err := url.Parse(w.config.databaseURL)
	switch {
	case w.condition.TLS:
		return good("the connection has TLS")
	case err == nil && (u.Hostname() == "" || isLoopback(u.Hostname())):
		return good("the connection has no TLS, and does not leave this machine")
	}
	return doubtful("add sslmode=verify-full to DATABASE_URL", "the connection to the database has no TLS, and leaves this machine")
}

func (w *databaseWard) durability(context.Context) finding {
	if len(w.condition.Unsafe) == 0 {
		return good("fsync, full_page_writes and synchronous_commit keep what is committed")
	}
	return bad("turn it on in the database", "%s: a crash of the database's machine loses sessions and events that were answered for", listed(w.condition.Unsafe))
}

func (w *databaseWard) connections(context.Context) finding {
	c, pool := w.condition, 0
	for _, stats := range w.store.Pools() {
		pool += stats.MaxOpenConnections
	}
	const advice = "raise max_connections, or put PgBouncer before it"
	switch {
	case c.MostConnections < pool:
		return bad(advice, "it takes %d, and an instance may want %d", c.MostConnections, pool)
	case c.Connections*10 > c.MostConnections*9:
		return doubtful(advice, "%d of %d are taken, and an instance may want %d", c.Connections, c.MostConnections, pool)
	}
	return good("%d of %d are taken; an instance may want %d", c.Connections, c.MostConnections, pool)
}

func (w *databaseWard) clock(context.Context) finding {
	return drift("the database", w.condition.Ahead, w.condition.Latency)
}

func (w *databaseWard) integrity(ctx context.Context) finding {
	damage, err := w.store.QuickCheck(ctx)
	switch {
	case ctx.Err() != nil:
		return skip("looking through the file takes longer than %s: PRAGMA quick_check does it at leisure", checkWithin)
	case err != nil:
		return bad("take a backup of the file before anything else", "%s", err)
	case damage != "":
		return bad("stop authd, keep the file, and go back to a backup", "the file is damaged: %s", damage)
	}
	return good("quick_check finds nothing wrong")
}

func (w *databaseWard) schema(ctx context.Context) finding {
	steps, err := migrations.Status(ctx, w.store.DB())
	if errors.Is(err, migrations.ErrForeign) {
		return bad("see docs/operations/README.md, Postgres", "%s", err)
	}
	if err != nil {
		return bad("see the database's log", "%s", err)
	}
	err = migrations.Check(ctx, w.store.DB())
	switch {
	case errors.Is(err, migrations.ErrPending) && !isPostgres(w.config.databaseURL):
		return doubtful("start authd, which applies what is missing", "%s", err)
	case errors.Is(err, migrations.ErrPending):
		if err := migrations.CheckRights(ctx, w.store.DB()); err != nil {
			return bad("then run \"authd migrate up\"", "%s", err)
		}
		return bad("run \"authd migrate up\", or start with --migrate", "%s", err)
	case errors.Is(err, migrations.ErrNewer):
		return bad("run the version that migrated it, or a later one", "%s", err)
	case err != nil:
		return bad("see the database's log", "%s", err)
	}
	return good("all migrations are applied: %d", len(steps))
}

// master returns the master secret from the sources that serve reads, or nil and a finding with the
// reason. It generates nothing.
func (w *databaseWard) master() (secret.Keys, finding) {
	if name, wrong := w.isWrong("SECRET_KEY"); wrong {
		return nil, skip("%s is wrong", name)
	}
	keys, err := keysSettings{databaseSettings: w.databaseSettings, secretSettings: w.secretSettings}.masterKeys(w.config.databaseURL)
	if err != nil {
		return nil, bad("put the secret back that this database was made with", "%s", err)
	}
	return keys, finding{}
}

func (w *databaseWard) secretKey(ctx context.Context) finding {
	master, f := w.master()
	if master == nil {
		return f
	}
	secrets := &keyring.Secrets{Store: w.store, Master: master}
	found, err := secrets.Inspect(ctx)
	switch {
	case errors.Is(err, secret.ErrSealed):
		return bad("set the former one, or put both: SECRET_KEY=new,former", "SECRET_KEY is not the one this database's keys were sealed with: %s", err)
	case err != nil:
		return bad("see the database's log", "%s", err)
	case len(master) == 1:
		return good("it opens everything that is sealed in the database: %d", found.First)
	}
	return w.spare(ctx, secrets, found)
}

// spare returns a finding about whether the second of two master secrets is still needed.
func (w *databaseWard) spare(ctx context.Context, secrets *keyring.Secrets, found keyring.Sealing) finding {
	needed, err := secrets.NeedsAll(ctx)
	switch {
	case err != nil:
		return bad("see the database's log", "%s", err)
	case needed:
		return doubtful("run \"authd keys reseal\" once all instances have both", "SECRET_KEY has two values; sealed with the first: %d, with the second: %d", found.First, found.Second)
	}
	return doubtful("take it away, once REFRESH_TOKEN_TTL has passed since it became the second", "SECRET_KEY has two values, and nothing in the database needs the second")
}

func (w *databaseWard) signingKeys(ctx context.Context) finding {
	if w.config.accessSecret != nil {
		return good("ACCESS_TOKEN_SECRET signs access tokens")
	}
	keys := &keyring.Keys{Store: w.store, AccessTTL: w.config.accessTTL, Rotation: w.config.rotation}
	list, err := keys.List(ctx)
	if err != nil {
		return bad("see the database's log", "%s", err)
	}
	if len(list) == 0 {
		return good("there are none yet: the first start makes one")
	}
	for _, key := range list {
		if key.State == keyring.KeySigning {
			return w.signing(key)
		}
	}
	return bad("run \"authd keys rotate --now\"", "none signs now: an instance's clock was ahead, or the key was withdrawn")
}

// late is how long after its due time the next key may appear: instances check every few seconds.
const late = time.Hour

func (w *databaseWard) signing(key keyring.StoredKey) finding {
	if w.config.rotation == 0 {
		return good("%s signs since %s", key.ID, when(key.ActiveFrom))
	}
	next := key.ActiveFrom.Add(w.config.rotation)
	if time.Now().After(next.Add(late)) {
		return doubtful("see that an instance runs, and its log", "%s signs since %s, and should have been followed on %s", key.ID, when(key.ActiveFrom), when(next))
	}
	return good("%s signs since %s; the next takes over on %s", key.ID, when(key.ActiveFrom), when(next))
}

// addresses checks for accounts that no login finds, since another account has their address.
func (w *databaseWard) addresses(ctx context.Context) finding {
	list, err := migrations.Collisions(ctx, w.store.DB())
	switch {
	case ctx.Err() != nil:
		return skip("reading the addresses that are not ASCII takes longer than %s: \"authd migrate up\" lists the accounts", checkWithin)
	case err != nil:
		return bad("see the database's log", "%s", err)
	case len(list) == 0:
		return good("no two accounts have the same one")
	}
	return doubtful("have the other account change its address or delete it, then run \"authd migrate up\"",
		"accounts that no login finds, since another account has the same address but for letter case: %d; %s", len(list), collisionIDs(list))
}

func (w *databaseWard) revocations(ctx context.Context) finding {
	begun := time.Now()
	const page = 1000
	list, _, err := w.store.Revocations(ctx, persistence.RevocationCursor{At: time.Now().Add(-w.config.accessTTL)}, page)
	if err != nil {
		return bad("without them no instance becomes ready: see the database's log", "they cannot be read: %s", err)
	}
	some := ""
	if len(list) == page {
		some = "at least "
	}
	return good("sessions that ended within ACCESS_TOKEN_TTL: %s%d, read in %s", some, len(list), brief(time.Since(begun)))
}

const (
	unwiseBacklog = time.Minute // several attempts of the relay
	brokenBacklog = 10 * time.Minute
)

func (w *databaseWard) outbox(ctx context.Context) finding {
	b, err := w.store.Backlog(ctx)
	if err != nil {
		return bad("see the database's log", "%s", err)
	}
	if b.Events == 0 {
		return good("no events wait to be published")
	}
	const advice = "see that an instance runs, that JetStream works and has room, and the log for \"events are not published\""
	age := max(0, time.Since(b.Oldest))
	found := []any{b.Events, brief(age)}
	switch {
	case age > brokenBacklog:
		return bad(advice, "events that wait to be published: %d, the oldest for %s", found...)
	case age > unwiseBacklog:
		return doubtful(advice, "events that wait to be published: %d, the oldest for %s", found...)
	}
	return good("events that wait to be published: %d, the oldest for %s", found...)
}
