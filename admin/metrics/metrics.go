// Package metrics tells how the service is doing, to Prometheus. It alone knows Prometheus: the
// other packages call what Metrics hands them for each request, hash or event (count.go), or are
// asked how they are when somebody reads (sample.go). All names are in docs/operations/metrics.md.
//
// Labels hold nothing that came from outside. Their values are of fixed sets, and what is in none
// of them is "other"; so the number of series has a bound, and none tells of a person.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// readersAtOnce is how many may read at once; more are told to come later. Each reading asks
	// the database and the bus.
	readersAtOnce = 3
	// readWithin bounds a reading. Parts that are away are waited for no longer than askWithin.
	readWithin = 10 * time.Second
)

// Metrics are those of one service. Make them with New.
type Metrics struct {
	registry *prometheus.Registry
	counts
}

// New makes metrics of a version of the service.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), counts: newCounts()}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "authd_build_info", Help: "1, with the version of the service and of Go it was built with.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.collectors()...)
	return m
}

// Sample has the parts asked at each reading. It is called once.
func (m *Metrics) Sample(parts Parts) { m.registry.MustRegister(&sampler{parts}) }

// Handler serves the metrics. If a part of them cannot be told it serves the others.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: readersAtOnce, Timeout: readWithin,
	})
}
