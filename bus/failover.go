package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// NATS distributes requests among instances without regard to their health. An instance that is cut
// off from its database would fail its share of all requests until an operator removes it. So it hands
// its requests off to a healthy instance. Each healthy instance listens for such requests.

const (
	// monitorEvery is how often an instance checks its health.
	monitorEvery = time.Second
	// healthTimeout bounds a health check.
	healthTimeout = 2 * time.Second
	// failoverPrefix is the prefix of the subjects on which unhealthy instances request a slot of healthy ones.
	failoverPrefix = "auth.place.away."
)

// monitor calls Healthy every monitorEvery until ctx ends. While Healthy fails, requests are handed off.
func (s *Server) monitor(ctx context.Context) {
	tick := time.NewTicker(monitorEvery)
	defer tick.Stop()
	for {
		err := s.isHealthy(ctx)
		if ctx.Err() != nil {
			return
		}
		if unhealthy := err != nil; s.unhealthy.Swap(unhealthy) != unhealthy {
			s.logHealth(err)
			s.wakeAdvertiser()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) isHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	return s.Healthy(ctx)
}

func (s *Server) logHealth(err error) {
	if err != nil {
		s.log.Warn("requests are given to other instances, if there are any", "err", err)
		return
	}
	s.log.Info("requests are answered here again")
}

// acceptFailover accepts requests from unhealthy instances while this one is healthy.
func (s *Server) acceptFailover(q *asyncSubject, answer func(request) *nats.Msg) *acceptor {
	healthy := func() bool { return s.Healthy != nil && !s.unhealthy.Load() }
	return &acceptor{
		asyncSubject: q,
		subject:      withPrefix(failoverPrefix, q.subject),
		ready:        healthy,
		begin:        healthy,
		answer:       answer,
		release:      func() {},
	}
}

// failover hands a request off to a healthy instance if this one is unhealthy, and returns the reply.
// It returns nil if this instance has to answer: it is healthy, or no healthy instance accepts the request.
func (s *Server) failover(q *asyncSubject, r request) *nats.Msg {
	if !s.unhealthy.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout())
	defer cancel()
	for ctx.Err() == nil {
		m, err := s.handOff(ctx, q, withPrefix(failoverPrefix, q.subject), r)
		if !errors.Is(err, errNoSlot) && !errors.Is(err, context.DeadlineExceeded) {
			return m
		}
	}
	return nil
}

// respondWith answers a request with the reply of another instance.
func (s *Server) respondWith(r micro.Request, m *nats.Msg) {
	err := error(nil)
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		err = r.Error(code, m.Header.Get(micro.ErrorHeader), m.Data)
	} else {
		err = r.Respond(m.Data)
	}
	if err != nil {
		s.noise.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}
