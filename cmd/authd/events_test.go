package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testoutbox"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

var heard = testoutbox.Receive

func TestChangesAreToldOnTheBus(t *testing.T) {
	t.Parallel()
	cluster := func(t *testing.T) string {
		return externalNATS(t, withJetStream(t))
	}
	for name, deploy := range map[string]func(*testing.T) *instance{
		"SQLite and embedded bus":   deployments["SQLite and embedded bus"],
		"Postgres and embedded bus": deployments["Postgres and embedded bus"],
		"edge and handlers apart":   deployments["edge and handlers apart"],
		"Postgres and external bus": func(t *testing.T) *instance {
			return start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+cluster(t))...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := deploy(t)
			conn := connect(t, a.nats) // an app without credentials
			var subs []*nats.Subscription
			for _, subject := range []string{"user.>", "session.>"} {
				sub, err := conn.SubscribeSync(subject)
				check(t, err)
				subs = append(subs, sub)
			}
			check(t, conn.Flush())
			users, sessions := subs[0], subs[1]
			a.post(t, "/register", strings.Replace(credentials, "}", `,"name":"Ada"}`, 1))
			first, data := heard(t, users, "user.registered", "1")
			if data["email"] != "ada@example.com" || data["name"] != "Ada" || data["userId"] != 1.0 {
				t.Errorf("%v", data)
			}
			login := ask(t, conn, "auth.login", nil, credentials)
			second, data := heard(t, sessions, "session.created", "1")
			if data["sessionId"] != login.member(t, "sessionId") || first >= second { // UUIDv7 sort as times do
				t.Errorf("%v, %s after %s", data, second, first)
			}
			a.do(t, "POST /logout", bearer(login.member(t, "accessToken")), "").answered(t, 204, "")
			_, data = heard(t, sessions, "session.revoked", "1")
			if data["reason"] != "logout" || data["sessionId"] != login.member(t, "sessionId") {
				t.Errorf("%v", data)
			}
		})
	}
}

func TestAnEventIsPartOfTheTraceOfItsRequest(t *testing.T) {
	t.Parallel()
	a := start(t)
	conn := connect(t, a.nats)
	sub, err := conn.SubscribeSync("user.>")
	check(t, err)
	check(t, conn.Flush())
	const id = "0af7651916cd43dd8448eb211c80319c" // the example of W3C Trace Context §3.2
	for i, parent := range []string{"00-" + id + "-b7ad6b7169203331-01", "00-" + strings.Repeat("0", 32) + "-b7ad6b7169203331-01", ""} {
		ask(t, conn, "auth.register", nats.Header{"traceparent": {parent}}, fmt.Sprintf(`{"email":"%d@example.com","password":"correct horse battery"}`, i))
		m, err := sub.NextMsg(patience)
		check(t, err)
		check(t, testauthd.EventAsDescribed(m.Subject, m.Header, m.Data))
		if has := strings.HasPrefix(m.Header.Get("traceparent"), "00-"+id+"-"); has != (i == 0) {
			t.Errorf("%q: %v", parent, m.Header)
		}
	}
}

var (
	recorded  = testoutbox.Recorded
	inStream  = testoutbox.InStream
	published = testoutbox.Published
)

// Without a stream accounts go on working, and readiness says that events wait.
func TestWithoutAStreamTheServiceIsDegraded(t *testing.T) {
	t.Parallel()
	a := start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, server.Options{}))...)
	until(t, "it is noticed", func() bool { return strings.Contains(a.get(t, "/readyz", "").Answer.Body, "degraded") })
	a.get(t, "/readyz", "").answered(t, 200, `{"status":"degraded","degraded":["events"]}`)
	signUp(t, a)
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	a.get(t, "/verify", access).answered(t, 200, verified)
	a.do(t, "POST /logout", bearer(access), "").answered(t, 204, "")
	a.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
}

// What one process ends, the others refuse within a moment, by the event, and with the event
// lost by asking.
func TestRevocationIsEverywhereAtOnce(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]server.Options{"by the event": withJetStream(t), "by asking": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := append(withPostgres(testpg.URL(t)), "--nats-url="+externalNATS(t, o))
			a, b := start(t, flags...), start(t, flags...)
			signUp(t, a)
			access := a.post(t, "/login", credentials).member(t, "accessToken")
			for _, i := range []*instance{a, b} {
				i.get(t, "/verify", access).answered(t, 200, verified)
			}
			began := time.Now()
			a.do(t, "POST /logout", bearer(access), "").answered(t, 204, "")
			for _, i := range []*instance{a, b} {
				until(t, "it is refused", func() bool { return i.get(t, "/verify", access).Answer.Status == 401 })
				i.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
			}
			t.Logf("after %s", time.Since(began).Round(time.Millisecond))
			// An instance that starts later knows as well, before it is ready.
			start(t, flags...).get(t, "/verify", access).refused(t, 401, "token_revoked", "")
		})
	}
}

// A stream that an operator made otherwise is reported and left alone.
func TestAnExistingStreamIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	url := externalNATS(t, withJetStream(t))
	js, err := jetstream.New(connect(t, url))
	check(t, err)
	mine := jetstream.StreamConfig{Name: events.Stream, Subjects: []string{"user.>", "session.>", "apikey.>", "key.>"}, MaxAge: time.Hour}
	_, err = js.CreateStream(t.Context(), mine)
	check(t, err)
	a := start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+url)...)
	line := a.line(t, "stream is not as the service would make it")
	for _, name := range []string{"max_age", "max_bytes", "max_consumers", "duplicate_window", "deny_delete"} {
		if !strings.Contains(line, name+" differs") {
			t.Errorf("%s is not named in %s", name, line)
		}
	}
	for _, name := range []string{"subjects", "storage", "replicas"} {
		if strings.Contains(line, name) {
			t.Errorf("%s is named in %s", name, line)
		}
	}
	a.post(t, "/register", credentials)
	until(t, "events are published all the same", func() bool {
		s, err := js.Stream(t.Context(), events.Stream)
		check(t, err)
		if got := s.CachedInfo().Config; got.MaxAge != time.Hour || got.DenyDelete {
			t.Fatalf("%+v", got)
		}
		return s.CachedInfo().State.Msgs >= 2
	})
}

// On a cluster of three, events are kept on all three, and follow when one of them is gone.
func TestEventsAreKeptOnAllThreeServersOfACluster(t *testing.T) {
	t.Parallel()
	urls, stop := clusterOfThree(t)
	a := start(t, append(withPostgres(testpg.URL(t)), "--nats-url="+strings.Join(urls, ","))...)
	a.post(t, "/register", credentials)
	conn := connect(t, strings.Join(urls, ","))
	js, err := jetstream.New(conn)
	check(t, err)
	var leader string
	until(t, "the event is there", func() bool {
		s, err := js.Stream(t.Context(), events.Stream)
		if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Config.Replicas != 3 {
			return false
		}
		leader = s.CachedInfo().Cluster.Leader
		return s.CachedInfo().State.Msgs >= 2
	})
	stop(leader)
	until(t, "somebody registers without that server", func() bool {
		return a.post(t, "/register", strings.Replace(credentials, "ada", "bob", 1)).Answer.Status < 500
	})
	until(t, "the event of that is there too", func() bool {
		s, err := js.Stream(t.Context(), events.Stream)
		return err == nil && s.CachedInfo().State.Msgs >= 3
	})
}

// clusterOfThree starts NATS servers with JetStream, and returns how to stop one by its name.
func clusterOfThree(t *testing.T) (urls []string, stop func(name string)) {
	t.Helper()
	servers := map[string]*server.Server{}
	var routes []string
	for i := range 3 {
		o := withJetStream(t)
		o.Host, o.Port, o.NoLog, o.NoSigs, o.ServerName = "127.0.0.1", -1, true, true, fmt.Sprint("n", i)
		o.Cluster = server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: -1}
		o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		s, err := server.NewServer(&o)
		check(t, err)
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(patience) {
			t.Fatal("a server does not come up")
		}
		servers[o.ServerName] = s
		routes = append(routes, "nats://"+s.ClusterAddr().String())
		urls = append(urls, s.ClientURL())
	}
	until(t, "the cluster has a leader", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return len(s.JetStreamClusterPeers()) == 3
			}
		}
		return false
	})
	return urls, func(name string) { servers[name].Shutdown(); servers[name].WaitForShutdown() }
}

// While the stream is away everything else goes on, and the events follow.
func TestEventsFollowWhenTheStreamIsBack(t *testing.T) {
	t.Parallel()
	a := start(t)
	asRelay := connect(t, a.nats, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), embedded.Relay))
	js, err := jetstream.New(asRelay)
	check(t, err)
	a.post(t, "/register", credentials)
	store, err := persistence.Open(t.Context(), "sqlite://"+a.dir+"/data/authd.db")
	check(t, err)
	defer func() { check(t, store.Close()) }()
	published(t, store)
	before := len(recorded(t, asRelay))
	if before < 2 { // a key and a user
		t.Errorf("%d events", before)
	}

	check(t, js.DeleteStream(t.Context(), events.Stream))
	access := a.post(t, "/login", credentials).member(t, "accessToken")
	a.do(t, "POST /logout", bearer(access), "").answered(t, 204, "")
	published(t, store) // the relay has made it again
	if got := recorded(t, asRelay); len(got) != 2 || got[0].Type != "session.created" || got[1].Type != "session.revoked" {
		t.Errorf("%+v", got)
	}

	// What was lost with it comes back on demand, also where it alternates with what is there.
	n, err := store.Republish(t.Context(), time.Now().Add(-time.Hour), false)
	check(t, err)
	published(t, store)
	if got := recorded(t, asRelay); n != before+2 || len(got) != before+2 { // the stream drops the two that it has
		t.Errorf("%d republished, %d in the stream, %d before", n, len(got), before)
	}
}
