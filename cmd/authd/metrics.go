package main

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/http"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/operator"
	"github.com/zyotra/auth/operator/metrics"
)

const metricsPath = "/metrics"

// connection is one to the bus, and the part it is for.
type connection struct {
	part string
	conn *nats.Conn
}

// showMetrics has the parts asked how they are, and shows that and the profiles to operators.
func (s *service) showMetrics() {
	s.metrics.Sample(s.parts())
	s.operator.Page(metricsPath, s.metrics.Handler())
	s.operator.Page(operator.ProfilesPath, operator.Profiles())
}

// metricsURL is where the metrics are shown, "" if nowhere.
func (s *service) metricsURL() string {
	if s.operator == nil {
		return ""
	}
	return "http://" + s.operators.Addr().String() + metricsPath
}

// parts are those of this instance.
func (s *service) parts() metrics.Parts {
	parts := metrics.Parts{Health: s.health, Connections: s.connections, Verifier: s.verifier.Stats}
	if s.edge != nil {
		parts.HTTPInFlight = s.edge.InFlight
	}
	if s.server == nil {
		return parts
	}
	parts.BusInFlight = s.server.InFlight
	parts.Hashing, parts.HashesAtOnce = s.pool.Stats, cores
	parts.Backlog, parts.Relay = s.store.Backlog, s.relay.Stats
	parts.Databases = s.store.Pools
	// As the relay, which keeps the streams: who sends mails may not look at them.
	parts.MailQueue = func(ctx context.Context) (mail.Queue, error) { return mail.Look(ctx, s.relay.JS) }
	if s.mailer != nil {
		parts.Mailer = s.mailer.Stats
	}
	return parts
}

func (s *service) observeBus(subject string) bus.Observer { return s.metrics.Bus(subject) }

func (s *service) observeHTTP(method, route string) http.Observer {
	return s.metrics.HTTP(method, route)
}

// connections tells how those to the bus are.
func (s *service) connections() []metrics.Connection {
	list := make([]metrics.Connection, len(s.conns))
	for i, c := range s.conns {
		n := c.conn.Stats()
		list[i] = metrics.Connection{
			Part: c.part, Connected: c.conn.IsConnected(), Reconnects: n.Reconnects,
			ReceivedBytes: n.InBytes, SentBytes: n.OutBytes, ReceivedMessages: n.InMsgs, SentMessages: n.OutMsgs,
		}
	}
	return list
}
