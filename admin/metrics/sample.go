package metrics

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/mail"
)

// askWithin is how long a part may take to answer.
const askWithin = 2 * time.Second

// Parts are asked how they are at each reading. What is nil is not a part of this instance, and
// has no series.
type Parts struct {
	Health       func(context.Context) (auth.HealthReply, error) // required
	Connections  func() []Connection
	BusInFlight  func() int64
	HTTPInFlight func() int64
	Hashing      func() password.PoolStats
	HashesAtOnce int
	Verifier     func() bus.VerifierStats
	Backlog      func(context.Context) (events.Backlog, error)
	Relay        func() events.RelayStats
	MailQueue    func(context.Context) (mail.Queue, error)
	Mailer       func() mail.Stats
	Databases    func() map[string]sql.DBStats // by pool
}

// Connection is one to the bus. Those of one part are added up.
type Connection struct {
	Part             string
	Connected        bool
	Reconnects       uint64
	ReceivedBytes    uint64
	SentBytes        uint64
	ReceivedMessages uint64
	SentMessages     uint64
}

// awayParts are those that the service's health names.
var awayParts = []string{"bus", "database", "revocations", "events", "jetstream"}

var (
	descReady = desc("ready", "1 if requests would succeed, as GET /readyz tells.")
	descAway  = desc("part_away", "1 for the part because of which the service is not ready, or is degraded.", "part")
	descAsked = desc("source_up", "1 if what this reading needed could be asked for; if not, its metrics are missing.", "source")

	descConnected  = desc("nats_connected", "1 if all connections of the part to the bus are up.", "part")
	descReconnects = desc("nats_reconnects_total", "Reconnections to the bus.", "part")
	descReceived   = desc("nats_received_bytes_total", "Bytes of messages received from the bus.", "part")
	descSent       = desc("nats_sent_bytes_total", "Bytes of messages sent to the bus.", "part")
	descReceivedN  = desc("nats_received_messages_total", "Messages received from the bus.", "part")
	descSentN      = desc("nats_sent_messages_total", "Messages sent to the bus.", "part")

	descBusInFlight  = desc("bus_requests_in_flight", "Requests on the bus that are being answered.")
	descHTTPInFlight = desc("http_requests_in_flight", "Requests over HTTP that are being answered.")

	descHashing     = desc("hash_running", "Passwords that are being hashed.")
	descHashWaiting = desc("hash_waiting", "Passwords that wait for their turn to be hashed.")
	descHashAtOnce  = desc("hash_running_max", "Passwords that are hashed at once at most.")
	descHashTypical = desc("hash_typical_seconds", "What a hash has taken of late, by which refusals are decided.")
	descHashRefused = desc("hash_refusals_total", "Passwords that would have waited for too long, and were refused as overloaded.")

	descStaleness  = desc("verifier_staleness_seconds", "Time since the verifier last read which sessions have ended; it vouches for no token after 30 s.")
	descRevoked    = desc("verifier_revocations", "Ended sessions that the verifier refuses.")
	descKeys       = desc("verifier_keys", "Keys that the verifier takes tokens of.")
	descRemembered = desc("verifier_cache_entries", "Tokens whose signature was checked and is remembered.")
	descHits       = desc("verifier_cache_hits_total", "Tokens that were remembered when they came.")
	descMisses     = desc("verifier_cache_misses_total", "Tokens whose signature had to be checked.")

	descBacklog    = desc("outbox_events", "Events that wait to be published, of all instances.")
	descOldest     = desc("outbox_oldest_age_seconds", "Age of the oldest event that waits, of all instances; 0 if none does.")
	descPublished  = desc("relay_published_total", "Events that this instance published.")
	descPassedOver = desc("relay_passed_over_total", "Events that this instance could not open, and passed over.")
	descTurns      = desc("relay_turns_total", "Looks of this instance at the outbox, by whether database and stream answered.", "outcome")

	descMails     = desc("mail_queue_waiting", "Mails that wait to be sent, of all instances.")
	descRetried   = desc("mail_queue_retried", "Mails that wait and have failed before, of all instances.")
	descMailAge   = desc("mail_queue_oldest_age_seconds", "Age of the oldest mail that waits, of all instances; 0 if none does.")
	descDead      = desc("mail_dead_letters", "Mails that were given up and are kept, of all instances.")
	descMailTries = desc("mail_tries_total", "Tries of this instance to send a mail, by how they ended.", "outcome")

	descConns     = desc("database_connections", "Connections to the database.", "pool", "state")
	descConnsMax  = desc("database_connections_max", "Connections to the database at most; 0 is no bound.", "pool")
	descWaits     = desc("database_waits_total", "Times that something waited for a connection to the database.", "pool")
	descWaitedFor = desc("database_wait_seconds_total", "Time that was waited for connections to the database.", "pool")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("authd_"+name, help, labels, nil)
}

// sampler asks the parts at each reading.
type sampler struct{ Parts }

// Describe describes nothing, as what there is depends on the parts.
func (s *sampler) Describe(chan<- *prometheus.Desc) {}

// Collect asks all parts at once, as some may take their time.
func (s *sampler) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	t := teller(out)
	asking.Go(func() { s.health(ctx, t) })
	asking.Go(func() { s.outbox(ctx, t) })
	asking.Go(func() { s.mails(ctx, t) })
	s.requests(t)
	s.connections(t)
	s.hashing(t)
	s.verifier(t)
	s.relay(t)
	s.databases(t)
}

// teller takes metrics.
type teller chan<- prometheus.Metric

func (t teller) gauge(d *prometheus.Desc, v float64, labels ...string) {
	t <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (t teller) counter(d *prometheus.Desc, v float64, labels ...string) {
	t <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func flag(set bool) float64 {
	if set {
		return 1
	}
	return 0
}

// health tells whether the service is ready, and if it is not, why.
func (s *sampler) health(ctx context.Context, t teller) {
	reply, err := s.Health(ctx)
	away := map[string]bool{}
	for _, part := range reply.Degraded {
		away[part] = true
	}
	if err != nil {
		away[blamed(err)] = true
	}
	t.gauge(descReady, flag(err == nil))
	for _, part := range awayParts {
		t.gauge(descAway, flag(away[part]), part)
		delete(away, part)
	}
	if len(away) > 0 {
		t.gauge(descAway, 1, other)
	}
}

// blamed is the part that an error of the service's health names. If there is none, nobody
// answered on the bus.
func blamed(err error) string {
	if fields := auth.Public(err).Fields; len(fields) > 0 {
		return fields[0].Field
	}
	return "bus"
}

func (s *sampler) outbox(ctx context.Context, t teller) {
	if s.Backlog == nil {
		return
	}
	backlog, err := s.Backlog(ctx)
	t.gauge(descAsked, flag(err == nil), "outbox")
	if err != nil {
		return
	}
	t.gauge(descBacklog, float64(backlog.Events))
	t.gauge(descOldest, age(backlog.Oldest))
}

func (s *sampler) mails(ctx context.Context, t teller) {
	if s.Mailer != nil {
		tries := s.Mailer()
		for outcome, n := range map[string]int64{"sent": tries.Sent, "retried": tries.Retried, "given_up": tries.GivenUp, "expired": tries.Expired} {
			t.counter(descMailTries, float64(n), outcome)
		}
	}
	if s.MailQueue == nil {
		return
	}
	queue, err := s.MailQueue(ctx)
	t.gauge(descAsked, flag(err == nil), "mail_queue")
	if err != nil {
		return
	}
	t.gauge(descMails, float64(queue.Waiting))
	t.gauge(descRetried, float64(queue.Retried))
	t.gauge(descMailAge, age(queue.Oldest))
	t.gauge(descDead, float64(queue.Failed))
}

// age is how long ago something was, in seconds; 0 for never.
func age(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return max(0, time.Since(at).Seconds())
}

func (s *sampler) requests(t teller) {
	if s.BusInFlight != nil {
		t.gauge(descBusInFlight, float64(s.BusInFlight()))
	}
	if s.HTTPInFlight != nil {
		t.gauge(descHTTPInFlight, float64(s.HTTPInFlight()))
	}
}

func (s *sampler) connections(t teller) {
	if s.Connections == nil {
		return
	}
	parts := map[string]Connection{}
	for _, c := range s.Connections() {
		sum, seen := parts[c.Part]
		sum.Connected = c.Connected && (sum.Connected || !seen)
		sum.Reconnects += c.Reconnects
		sum.ReceivedBytes += c.ReceivedBytes
		sum.SentBytes += c.SentBytes
		sum.ReceivedMessages += c.ReceivedMessages
		sum.SentMessages += c.SentMessages
		parts[c.Part] = sum
	}
	for part, c := range parts {
		t.gauge(descConnected, flag(c.Connected), part)
		t.counter(descReconnects, float64(c.Reconnects), part)
		t.counter(descReceived, float64(c.ReceivedBytes), part)
		t.counter(descSent, float64(c.SentBytes), part)
		t.counter(descReceivedN, float64(c.ReceivedMessages), part)
		t.counter(descSentN, float64(c.SentMessages), part)
	}
}

func (s *sampler) hashing(t teller) {
	if s.Hashing == nil {
		return
	}
	pool := s.Hashing()
	t.gauge(descHashing, float64(pool.Running))
	t.gauge(descHashWaiting, float64(pool.Waiting))
	t.gauge(descHashAtOnce, float64(s.HashesAtOnce))
	t.gauge(descHashTypical, pool.Typical.Seconds())
	t.counter(descHashRefused, float64(pool.Refused))
}

func (s *sampler) verifier(t teller) {
	if s.Verifier == nil {
		return
	}
	v := s.Verifier()
	t.gauge(descStaleness, v.Staleness.Seconds())
	t.gauge(descRevoked, float64(v.Revoked))
	t.gauge(descKeys, float64(v.Keys))
	t.gauge(descRemembered, float64(v.Remembered))
	t.counter(descHits, float64(v.Hits))
	t.counter(descMisses, float64(v.Misses))
}

func (s *sampler) relay(t teller) {
	if s.Relay == nil {
		return
	}
	r := s.Relay()
	t.counter(descPublished, float64(r.Published))
	t.counter(descPassedOver, float64(r.PassedOver))
	t.counter(descTurns, float64(r.Turns), "ok")
	t.counter(descTurns, float64(r.Failures), "failed")
}

func (s *sampler) databases(t teller) {
	if s.Databases == nil {
		return
	}
	for pool, d := range s.Databases() {
		t.gauge(descConns, float64(d.InUse), pool, "in_use")
		t.gauge(descConns, float64(d.Idle), pool, "idle")
		t.gauge(descConnsMax, float64(d.MaxOpenConnections), pool)
		t.counter(descWaits, float64(d.WaitCount), pool)
		t.counter(descWaitedFor, d.WaitDuration.Seconds(), pool)
	}
}
