package metrics

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
)

// other stands for what is in none of the sets below.
const other = "other"

// The sets of values of labels.
var (
	limitKinds = []string{"login", "code", "mail", "register", "refresh", "update", "notice"}
	methods    = []string{"pwd", "otp"} // RFC 8176
	reasons    = []auth.Reason{
		auth.ReasonLogout, auth.ReasonEndedByUser, auth.ReasonPasswordChanged, auth.ReasonPasswordReset, auth.ReasonEmailChanged,
		auth.ReasonTokenReuse, auth.ReasonSessionLimit, auth.ReasonUserDisabled, auth.ReasonUserDeleted, auth.ReasonAdmin,
	}
	eventTypes = []string{
		events.UserRegistered{}.Type(), events.UserUpdated{}.Type(), events.UserPasswordChanged{}.Type(),
		events.UserEmailVerified{}.Type(), events.UserEmailChanged{}.Type(),
		events.UserDisabled{}.Type(), events.UserEnabled{}.Type(), events.UserLocked{}.Type(), events.UserDeleted{}.Type(),
		events.SessionCreated{}.Type(), events.SessionRevoked{}.Type(), events.KeyRotated{}.Type(), events.MailType,
	}
	statuses = []int{
		http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent,
		http.StatusMovedPermanently, http.StatusFound, http.StatusNotModified,
		http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
		http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable,
	}
)

// watched are the codes that alarms look for: their series begin at 0, since a rate does not see
// the first step of one that was not there.
var watched = []auth.Code{"", auth.CodeInternal, auth.CodeUnavailable, auth.CodeOverloaded}

// Bounds of histograms, in seconds. Verifying takes tens of microseconds, and a request that waits
// for its turn to hash a password may take ten seconds.
var (
	requestSeconds = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	hashSeconds    = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4, 8}
)

// counts are what is counted as it happens.
type counts struct {
	busRequests, httpRequests *prometheus.CounterVec
	busSeconds, httpSeconds   *prometheus.HistogramVec
	hashWait, hashSeconds     prometheus.Histogram

	limited, started, told *prometheus.CounterVec
	ended                  *prometheus.CounterVec

	byKind, byMethod, byType series[string]
	byReason                 series[auth.Reason]
}

func newCounts() (c counts) {
	c.busRequests = counter("bus_requests_total", "Requests on the bus that were answered here, by the code of the refusal; ok if there was none.", "subject", "code")
	c.busSeconds = histogram("bus_request_duration_seconds", "How long the answer to a request on the bus took, waiting for a turn to hash included.", requestSeconds, "subject")
	c.httpRequests = counter("http_requests_total", "Requests over HTTP that were answered; route and method are none for those of no route.", "method", "route", "status")
	c.httpSeconds = histogram("http_request_duration_seconds", "How long the answer to a request over HTTP took.", requestSeconds, "method", "route")
	c.hashWait = plain("hash_wait_seconds", "How long passwords waited for their turn to be hashed.", hashSeconds)
	c.hashSeconds = plain("hash_duration_seconds", "How long hashing a password took.", hashSeconds)
	c.limited = counter("limit_refusals_total", "Tries that had to wait, by what was tried; and notices that were not sent.", "kind")
	c.started = counter("sessions_started_total", "Sessions that began, by how their users proved who they are (RFC 8176).", "amr")
	c.ended = counter("sessions_ended_total", "Sessions that were ended before their time.", "reason")
	c.told = counter("events_committed_total", "Events of changes that this instance committed.", "type")

	c.byKind = seriesOf(c.limited, limitKinds)
	c.byKind.begin(limitKinds...)
	c.byMethod = seriesOf(c.started, methods)
	c.byMethod.begin(methods...)
	c.byReason = seriesOf(c.ended, reasons)
	c.byReason.begin(reasons...)
	c.byType = seriesOf(c.told, eventTypes)
	c.byType.begin(eventTypes...)
	return c
}

func (c *counts) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		c.busRequests, c.busSeconds, c.httpRequests, c.httpSeconds, c.hashWait, c.hashSeconds, c.limited, c.started, c.ended, c.told,
	}
}

// Bus returns what counts the requests of a subject: see bus.Server.Observe.
func (m *Metrics) Bus(subject string) func(auth.Code, time.Duration) {
	byCode := seriesNamed(m.busRequests.MustCurryWith(prometheus.Labels{"subject": subject}), append(auth.Codes(), ""), func(c auth.Code) string {
		if c == "" {
			return "ok"
		}
		return string(c)
	})
	byCode.begin(watched...)
	seconds := sync.OnceValue(func() prometheus.Observer { return m.busSeconds.WithLabelValues(subject) })
	return func(code auth.Code, took time.Duration) {
		byCode.count(code)
		if took > 0 { // else nobody looked at it
			seconds().Observe(took.Seconds())
		}
	}
}

// HTTP returns what counts the requests of a route: see http.Config.Observe.
func (m *Metrics) HTTP(method, route string) func(status int, took time.Duration) {
	byStatus := seriesNamed(m.httpRequests.MustCurryWith(prometheus.Labels{"method": method, "route": route}), statuses, strconv.Itoa)
	seconds := sync.OnceValue(func() prometheus.Observer { return m.httpSeconds.WithLabelValues(method, route) })
	return func(status int, took time.Duration) {
		byStatus.count(status)
		if took > 0 {
			seconds().Observe(took.Seconds())
		}
	}
}

// Hashed counts a password that was hashed: see password.Pool.Observe.
func (m *Metrics) Hashed(waited, took time.Duration) {
	m.hashWait.Observe(waited.Seconds())
	m.hashSeconds.Observe(took.Seconds())
}

// Limited counts a try that has to wait: see ratelimit.Limiter.Refused.
func (m *Metrics) Limited(kind string) { m.byKind.count(kind) }

// CountEvent counts an event that was committed: see persistence.Store.OnCommit.
func (m *Metrics) CountEvent(d events.Data) {
	m.byType.count(d.Type())
	switch d := d.(type) {
	case events.SessionCreated:
		m.byMethod.count(strings.Join(d.AMR, " "))
	case events.SessionRevoked:
		m.byReason.count(d.Reason)
	}
}

// series are those of a vector with one label left. Each is made when it is first counted, as most
// combinations never are, and found again without a hash of its labels.
type series[K comparable] struct {
	known map[K]func() prometheus.Counter
	other func() prometheus.Counter
}

func seriesOf[K ~string](vec *prometheus.CounterVec, keys []K) series[K] {
	return seriesNamed(vec, keys, func(k K) string { return string(k) })
}

func seriesNamed[K comparable](vec *prometheus.CounterVec, keys []K, name func(K) string) series[K] {
	child := func(value string) func() prometheus.Counter {
		return sync.OnceValue(func() prometheus.Counter { return vec.WithLabelValues(value) })
	}
	s := series[K]{known: make(map[K]func() prometheus.Counter, len(keys)), other: child(other)}
	for _, k := range keys {
		s.known[k] = child(name(k))
	}
	return s
}

// begin has series there from the start.
func (s series[K]) begin(keys ...K) {
	for _, k := range keys {
		s.known[k]()
	}
}

func (s series[K]) count(k K) {
	if one, ok := s.known[k]; ok {
		one().Inc()
		return
	}
	s.other().Inc()
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "authd", Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "authd", Name: name, Help: help, Buckets: buckets}, labels)
}

func plain(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "authd", Name: name, Help: help, Buckets: buckets})
}
