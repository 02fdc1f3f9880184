package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/mail"
)

// busWard runs the checks of the bus.
type busWard struct {
	*patient
	streams []events.StreamState // set by lookAtStreams
}

// connectWithin is how long a server may take to accept a connection.
const connectWithin = 3 * time.Second

func (p *patient) examineBus(ctx context.Context, t tell) {
	w := &busWard{patient: p}
	servers := inspection{"NATS", w.servers}
	rest := w.beyondServers()
	if name, wrong := p.isWrong("NATS_", "DATA_DIR"); wrong {
		t.none(name+" is wrong", append([]inspection{servers}, rest...)...)
		return
	}
	if p.config.natsURL == "" {
		t.one(ctx, inspection{"strangers", w.guests})
		if f, reachable := w.embeddedServer(); !reachable {
			f.Check = servers.name
			t(f)
			t.none("there is no NATS server to ask", rest...)
			return
		}
	}
	if !t.one(ctx, servers) {
		t.none("there is no NATS server to ask", rest...)
		return
	}
	t.each(ctx, rest...)
}

// beyondServers returns the inspections that require a server that answers.
func (w *busWard) beyondServers() (list []inspection) {
	for _, role := range w.roles() {
		list = append(list, inspection{"rights", func(ctx context.Context) finding { return w.rights(ctx, role) }})
	}
	if w.config.natsURL != "" {
		list = append(list, inspection{"strangers", w.strangers})
	}
	if !w.Edge {
		list = append(list, inspection{"JetStream", w.jetStream}, inspection{"streams", w.lookAtStreams})
		for _, name := range []string{events.Stream, events.MailStream, events.MailFailedStream} {
			list = append(list, inspection{name, func(context.Context) finding { return w.stream(name) }})
		}
		list = append(list, inspection{"NATS clock", w.clock}, inspection{"mail queue", w.mailQueue})
	}
	return append(list, inspection{"verifier", w.verifier}, inspection{"instances", w.instances})
}

// roles returns the roles of the parts that serve would run.
func (w *busWard) roles() []string {
	roles := []string{embedded.Edge}
	if w.Edge {
		return roles
	}
	if w.Handlers {
		roles = nil
	}
	if w.config.mail.mailer {
		roles = append(roles, embedded.Mailer)
	}
	return append([]string{embedded.Service, embedded.Relay}, roles...)
}

// isOneUser reports whether all parts connect to the server as the same user.
func (w *busWard) isOneUser() bool {
	return w.config.natsURL != "" && !w.Edge && !w.eachHasItsRole()
}

// embeddedServer reports whether an embedded server runs and can be reached. If not, the finding has the
// reason.
func (w *busWard) embeddedServer() (finding, bool) {
	_, port, _ := net.SplitHostPort(w.NATSListen)
	switch {
	case w.runsHere() && w.NATSListen == embedded.Off:
		return skip("the embedded server runs, and NATS_LISTEN=off keeps it within its process"), false
	case w.runsHere() && port == "0":
		return skip("the embedded server runs, and NATS_LISTEN does not say on which port"), false
	case w.runsHere():
		return finding{}, true
	}
	if conn, err := net.DialTimeout("tcp", w.listenAddress(), connectWithin); w.NATSListen != embedded.Off && err == nil {
		_ = conn.Close()
		return bad("stop that, or set NATS_LISTEN", "no authd uses DATA_DIR, but something listens on NATS_LISTEN %s, so none can start", w.NATSListen), false
	}
	return skip("NATS_URL is empty, and the embedded server comes with \"authd serve\", which does not run here now"), false
}

func (w *busWard) listenAddress() string {
	host, port, _ := net.SplitHostPort(w.NATSListen) // the address was checked
	return net.JoinHostPort(reachable(host), port)
}

// connect connects in a role, as serve does: to the server at the URL to, or to any server if to is "".
func (w *busWard) connect(role string, to string) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("authd doctor"), nats.Timeout(connectWithin), nats.NoReconnect(), nats.CustomInboxPrefix("_INBOX_" + role),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default handler writes to standard error
	}
	if w.config.natsURL == "" {
		return bus.Connect("nats://"+w.listenAddress(), append(options, embedded.Credentials(filepath.Join(w.DataDir, "nats"), role))...)
	}
	credentials, err := w.natsCredentials(role)
	if err != nil {
		return nil, err
	}
	if w.isOneUser() {
		options = append(options, nats.CustomInboxPrefix("_INBOX_"+embedded.Service))
	}
	if to == "" {
		to = w.config.natsURL
	}
	return bus.Connect(to, append(options, credentials...)...)
}

// as runs look with a connection in a role. A permission violation on that connection cancels ctx.
func (w *busWard) as(ctx context.Context, role string, look func(context.Context, *nats.Conn) finding) finding {
	conn, err := w.connect(role, "")
	if err != nil {
		return w.notConnected(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			cancel(err)
		}
	})
	return look(ctx, conn)
}

func (w *busWard) notConnected(err error) finding {
	var wrong *settingError
	switch {
	case errors.As(err, &wrong):
		return bad("for example "+wrong.name+"="+wrong.example, "%s %s", wrong.name, wrong.fault)
	case errors.Is(err, nats.ErrAuthorization):
		return bad("NATS_CREDS, NATS_NKEY_SEED_FILE or the user in NATS_URL say who asks", "it does not let us in: %s", err)
	}
	return bad("see that it runs and can be reached from here, and that NATS_URL is right", "%s", err)
}

// servers checks each server of NATS_URL separately, or the embedded server if NATS_URL is empty.
func (w *busWard) servers(context.Context) finding {
	urls := strings.Split(w.config.natsURL, ",")
	if w.config.natsURL == "" {
		urls = []string{"nats://" + w.listenAddress()}
	}
	findings := make([]finding, len(urls))
	var group sync.WaitGroup
	for i, one := range urls {
		group.Go(func() { findings[i] = w.server(strings.TrimSpace(one)) })
	}
	group.Wait()
	return together(findings)
}

// together merges findings of the same kind: it fails if all failed, and warns if some failed or warned.
func together(all []finding) finding {
	var sum finding
	var said []string
	failed := 0
	for _, f := range all {
		said = append(said, f.Found)
		switch {
		case f.Level == broken:
			failed++
			sum.Level, sum.Advice = unwise, f.Advice
		case f.Level == unwise && sum.Level != unwise:
			sum.Level, sum.Advice = unwise, f.Advice
		case sum.Level == "":
			sum.Level = fine
		}
	}
	if failed == len(all) {
		sum.Level = broken
	}
	sum.Found = strings.Join(said, "; ")
	return sum
}

func (w *busWard) server(one string) finding {
	role := w.roles()[0]
	conn, err := w.connect(role, one)
	if err != nil {
		f := w.notConnected(err)
		f.Found = redacted(one) + ": " + f.Found
		return f
	}
	defer conn.Close()
	trip, err := conn.RTT()
	if err != nil {
		return bad("see its log", "%s: %s", redacted(one), err)
	}
	found := fmt.Sprintf("%s: version %s answers in %s", redacted(one), conn.ConnectedServerVersion(), brief(trip))
	if _, err := conn.TLSConnectionState(); err == nil {
		return good("%s, with TLS", found)
	}
	if u, err := url.Parse(one); err == nil && isLoopback(u.Hostname()) {
		return good("%s", found)
	}
	return doubtful("give the servers certificates, and set NATS_TLS_CA", "%s, without TLS: passwords go over the network as they are", found)
}

// rights requests the user's rights from the server and checks them against those that the role needs.
func (w *busWard) rights(ctx context.Context, role string) finding {
	return w.as(ctx, role, func(ctx context.Context, conn *nats.Conn) finding {
		reply, err := conn.RequestWithContext(ctx, embedded.RightsSubject, nil)
		if errors.Is(context.Cause(ctx), nats.ErrPermissionViolation) {
			return doubtful("allow it to publish "+embedded.RightsSubject+" (authd nats-config prints all rights)", "%s: the server does not say what the user may", role)
		}
		if err != nil {
			return skip("%s: the server does not say what the user may: %s", role, err)
		}
		lacks, err := embedded.Lacking(role, reply.Data, w.isOneUser())
		switch {
		case err != nil:
			return skip("%s: %s", role, err)
		case len(lacks) > 0:
			return bad("allow that in the server's configuration (authd nats-config prints all rights)", "%s: the user may not %s", role, listed(lacks))
		}
		return good("%s: the user may do what it needs", role)
	})
}

func (w *busWard) asRelay(ctx context.Context, look func(context.Context, jetstream.JetStream) finding) finding {
	return w.as(ctx, embedded.Relay, func(ctx context.Context, conn *nats.Conn) finding {
		js, err := jetstream.New(conn)
		if err != nil {
			return bad("", "%s", err)
		}
		f := look(ctx, js)
		if errors.Is(context.Cause(ctx), nats.ErrPermissionViolation) {
			return bad("allow what authd nats-config prints for the role relay", "the user may not ask JetStream")
		}
		return f
	})
}

func (w *busWard) jetStream(ctx context.Context) finding {
	return w.asRelay(ctx, func(ctx context.Context, js jetstream.JetStream) finding {
		info, err := js.AccountInfo(ctx)
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
			return bad("enable it in the server's configuration and for the account; a server that could not write its files has switched it off", "JetStream is not enabled: events and mails wait in the database")
		case err != nil:
			return bad("see the servers' logs: a cluster needs most of them", "JetStream does not answer: %s", err)
		}
		most := info.Limits.MaxStore
		switch {
		case most > 0 && info.Store*10 > uint64(most)*9:
			return doubtful("raise the account's limit", "the account's streams have %s of %s", bytesText(info.Store), bytesText(uint64(most)))
		case most > 0:
			return good("the account's streams have %s of %s", bytesText(info.Store), bytesText(uint64(most)))
		}
		return good("the account's streams have %s, without a limit", bytesText(info.Store))
	})
}

// replicas returns the number of copies of a stream that serve would create.
func (w *busWard) replicas(conn *nats.Conn) int {
	if len(conn.Servers()) >= clusterSize {
		return clusterSize
	}
	return 1
}

// lookAtStreams fetches the state of all streams, for the inspections that follow.
func (w *busWard) lookAtStreams(ctx context.Context) finding {
	return w.as(ctx, embedded.Relay, func(ctx context.Context, conn *nats.Conn) finding {
		js, err := jetstream.New(conn)
		if err != nil {
			return bad("", "%s", err)
		}
		w.streams, err = events.Inspect(ctx, js, w.replicas(conn))
		if err != nil {
			return bad("see JetStream above", "they cannot be looked at: %s", err)
		}
		return good("they can be looked at; copies of each there should be: %d", w.replicas(conn))
	})
}

func (w *busWard) stream(name string) finding {
	for _, s := range w.streams {
		if s.Name == name {
			return streamFinding(s)
		}
	}
	return skip("the streams cannot be looked at")
}

func streamFinding(s events.StreamState) finding {
	held := fmt.Sprintf("messages: %d, %s of %s, copies: %d, consumers: %d", s.Messages, bytesText(s.Bytes), bytesText(s.Most), s.Replicas, s.Consumers)
	switch {
	case !s.Exists:
		return doubtful("start an instance: its relay makes it", "there is no such stream yet")
	case s.Clustered && s.Leader == "":
		return bad("see the servers' logs: a stream needs most of its copies", "it has no leader, so nothing is kept; %s", held)
	case len(s.Behind) > 0:
		return doubtful("see the logs of those servers", "%s; %s", listed(s.Behind), held)
	case len(s.Differences) > 0:
		return doubtful("change it (nats stream edit), if nobody meant that", "it is not as the service would make it: %s; %s", listed(s.Differences), held)
	case s.Most > 0 && s.Bytes*10 > s.Most*9:
		return doubtful("give it more room, or let the oldest go", "%s", held)
	case s.Leader != "":
		return good("%s, leader: %s", held, s.Leader)
	}
	return good("%s", held)
}

func (w *busWard) clock(context.Context) finding {
	for _, s := range w.streams {
		if s.Exists {
			return drift("NATS", s.Ahead, s.Latency)
		}
	}
	return skip("there is no stream that tells the time")
}

const (
	unwiseMailAge = 15 * time.Minute // the third attempt
	brokenMailAge = 6 * time.Hour
)

func (w *busWard) mailQueue(ctx context.Context) finding {
	return w.asRelay(ctx, func(ctx context.Context, js jetstream.JetStream) finding {
		q, err := mail.Look(ctx, js)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return skip("there is none yet: an instance makes it")
		}
		if err != nil {
			return bad("see JetStream above", "it cannot be looked at: %s", err)
		}
		age := time.Duration(0)
		if q.Waiting > 0 {
			age = max(0, time.Since(q.Oldest))
		}
		found := fmt.Sprintf("mails that wait: %d, the oldest for %s; tried before: %d; given up: %d", q.Waiting, brief(age), q.Retried, q.Failed)
		const advice = "see the mail server below, and the log for \"mail\""
		switch {
		case age > brokenMailAge:
			return bad(advice, "%s", found)
		case age > unwiseMailAge:
			return doubtful(advice, "%s", found)
		case q.Failed > 0:
			return doubtful("\"authd mail failed\" says why, \"authd mail retry\" puts them back", "%s", found)
		}
		return good("mails that wait: %d; given up: %d", q.Waiting, q.Failed)
	})
}

// verifier checks that keys and revocations can be read over the bus, as every verifier reads them.
func (w *busWard) verifier(ctx context.Context) finding {
	role := w.roles()[0]
	return w.as(ctx, role, func(ctx context.Context, conn *nats.Conn) finding {
		v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: w.config.issuer, Audience: w.config.audience})
		if err != nil {
			return bad("", "%s", err)
		}
		defer func() { _ = v.Close() }()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(ctx, connectWithin)
		defer cancel()
		if err := v.Ready(ctx); err != nil {
			if w.runsHere() {
				return bad("see the log of the instance", "the instance does not tell keys and revocations over the bus")
			}
			return skip("nobody tells keys and revocations: no instance answers on this bus")
		}
		return good("keys and revocations were read over the bus in %s", brief(time.Since(begun)))
	})
}

// instances checks the versions of all instances that answer, which requires the rights of the role admin.
func (w *busWard) instances(ctx context.Context) finding {
	if w.Edge {
		return skip("an edge may not ask who answers")
	}
	return w.as(ctx, embedded.Admin, func(ctx context.Context, conn *nats.Conn) finding {
		list, err := bus.Instances(ctx, conn)
		switch {
		case errors.Is(context.Cause(ctx), nats.ErrPermissionViolation):
			return skip("the user may not ask who answers: that takes the rights of the role admin")
		case err != nil:
			return bad("", "%s", err)
		case len(list) == 0:
			return doubtful("start one with \"authd serve\"", "no instance answers on this bus")
		}
		return versions(list)
	})
}

func versions(list []bus.Instance) finding {
	var all []string
	for _, i := range list {
		all = append(all, i.Version)
	}
	found := listed(all)
	if strings.Contains(found, ",") {
		return doubtful("finish the update, unless it is under way", "instances that answer: %d, of different versions: %s", len(list), found)
	}
	if found != version {
		return doubtful("run the doctor of that version", "instances that answer: %d, of version %s; this is %s", len(list), found, version)
	}
	return good("instances that answer: %d, of version %s", len(list), found)
}
