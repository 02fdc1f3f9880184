package metrics_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/admin/metrics"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/mail"
)

// read returns what a reader gets.
func read(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// tells wants lines in what a reader gets.
func tells(t *testing.T, m *metrics.Metrics, lines ...string) {
	t.Helper()
	text := read(t, m)
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

func healthy(context.Context) (auth.HealthReply, error) { return auth.HealthReply{}, nil }

func TestRequestsAreCountedByCodeAndStatus(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	login := m.Bus("auth.login")
	login("", 30*time.Millisecond)
	login(auth.CodeInvalidCredentials, 40*time.Millisecond)
	login(auth.CodeOverloaded, 0)
	m.HTTP("POST", "/login")(401, time.Millisecond)
	tells(t, m,
		`authd_bus_requests_total{code="ok",subject="auth.login"} 1`,
		`authd_bus_requests_total{code="invalid_credentials",subject="auth.login"} 1`,
		`authd_bus_requests_total{code="internal",subject="auth.login"} 0`,
		`authd_bus_request_duration_seconds_count{subject="auth.login"} 2`,
		`authd_http_requests_total{method="POST",route="/login",status="401"} 1`,
	)
}

func TestWhatNobodyKnowsIsOther(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	m.Bus("auth.login")("ada@example.com", time.Second)
	m.HTTP("GET", "/me")(799, time.Second)
	m.Limited("ada@example.com")
	m.CountEvent(events.SessionCreated{AMR: []string{"ada@example.com"}})
	m.CountEvent(events.SessionRevoked{Reason: "ada@example.com"})
	tells(t, m,
		`authd_bus_requests_total{code="other",subject="auth.login"} 1`,
		`authd_http_requests_total{method="GET",route="/me",status="other"} 1`,
		`authd_limit_refusals_total{kind="other"} 1`,
		`authd_sessions_started_total{amr="other"} 1`,
		`authd_sessions_ended_total{reason="other"} 1`,
	)
	if strings.Contains(read(t, m), "ada@") {
		t.Error("a label tells of a person")
	}
}

func TestWhyTheServiceIsNotReady(t *testing.T) {
	t.Parallel()
	for name, is := range map[string]struct {
		reply auth.HealthReply
		err   error
		lines []string
	}{
		"ready":     {lines: []string{"authd_ready 1", `authd_part_away{part="bus"} 0`, `authd_part_away{part="database"} 0`}},
		"degraded":  {reply: auth.HealthReply{Degraded: []string{"events"}}, lines: []string{"authd_ready 1", `authd_part_away{part="events"} 1`}},
		"database":  {err: auth.ErrUnavailable.With(auth.Field{Field: "database"}), lines: []string{"authd_ready 0", `authd_part_away{part="database"} 1`}},
		"a new one": {err: auth.ErrUnavailable.With(auth.Field{Field: "printer"}), lines: []string{"authd_ready 0", `authd_part_away{part="other"} 1`}},
		"bus":       {err: auth.ErrUnavailable, lines: []string{"authd_ready 0", `authd_part_away{part="bus"} 1`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := metrics.New("1.2.3")
			m.Sample(metrics.Parts{Health: func(context.Context) (auth.HealthReply, error) { return is.reply, is.err }})
			tells(t, m, is.lines...)
		})
	}
}

func TestAPartThatCannotBeAskedHasNoMetrics(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	m.Sample(metrics.Parts{
		Health:    healthy,
		Backlog:   func(context.Context) (events.Backlog, error) { return events.Backlog{}, errors.New("away") },
		MailQueue: func(context.Context) (mail.Queue, error) { return mail.Queue{}, errors.New("away") },
	})
	tells(t, m, `authd_source_up{source="outbox"} 0`, `authd_source_up{source="mail_queue"} 0`)
	if text := read(t, m); strings.Contains(text, "authd_outbox_events") || strings.Contains(text, "authd_mail_queue_waiting") {
		t.Error("it tells what nobody knows:\n" + text)
	}
}

func TestConnectionsOfOnePartAreAddedUp(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	m.Sample(metrics.Parts{Health: healthy, Connections: func() []metrics.Connection {
		return []metrics.Connection{
			{Part: "service", Connected: true, Reconnects: 1, SentBytes: 10},
			{Part: "service", Connected: false, Reconnects: 2, SentBytes: 20},
			{Part: "edge", Connected: true},
		}
	}})
	tells(t, m,
		`authd_nats_connected{part="service"} 0`, `authd_nats_connected{part="edge"} 1`,
		`authd_nats_reconnects_total{part="service"} 3`, `authd_nats_sent_bytes_total{part="service"} 30`,
	)
}

func TestNamesFollowTheConventions(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	m.Bus("auth.verify")("", time.Second)
	m.HTTP("GET", "/verify")(200, time.Second)
	m.Sample(metrics.Parts{
		Health:       healthy,
		Connections:  func() []metrics.Connection { return []metrics.Connection{{Part: "edge"}} },
		BusInFlight:  func() int64 { return 1 },
		HTTPInFlight: func() int64 { return 1 },
		Hashing:      func() password.PoolStats { return password.PoolStats{} },
		Verifier:     func() bus.VerifierStats { return bus.VerifierStats{} },
		Backlog: func(context.Context) (events.Backlog, error) {
			return events.Backlog{Events: 1, Oldest: time.Now()}, nil
		},
		Relay:     func() events.RelayStats { return events.RelayStats{} },
		MailQueue: func(context.Context) (mail.Queue, error) { return mail.Queue{}, nil },
		Mailer:    func() mail.Stats { return mail.Stats{} },
		Databases: func() map[string]sql.DBStats { return map[string]sql.DBStats{"all": {}} },
	})
	problems, err := promlint.New(strings.NewReader(read(t, m))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := metrics.New("1.2.3")
	verify, get := m.Bus("auth.verify"), m.HTTP("GET", "/verify")
	if n := testing.AllocsPerRun(100, func() {
		verify("", 50*time.Microsecond)
		verify(auth.CodeTokenRevoked, 50*time.Microsecond)
		get(200, 50*time.Microsecond)
		m.Limited("login")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTooManyReadersAreToldToComeLater(t *testing.T) {
	t.Parallel()
	m := metrics.New("1.2.3")
	asked, answer := make(chan struct{}), make(chan struct{})
	m.Sample(metrics.Parts{Health: func(context.Context) (auth.HealthReply, error) {
		asked <- struct{}{}
		<-answer
		return auth.HealthReply{}, nil
	}})
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	done := make(chan error)
	for range 3 {
		go func() {
			resp, err := server.Client().Get(server.URL)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
			done <- err
		}()
		<-asked
	}
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 {
		t.Errorf("the fourth gets %d", resp.StatusCode)
	}
	close(answer)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// What counting adds to each auth.verify.
func BenchmarkCount(b *testing.B) {
	verify := metrics.New("1.2.3").Bus("auth.verify")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			began := time.Now()
			verify("", time.Since(began)+time.Microsecond)
		}
	})
}
