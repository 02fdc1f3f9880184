package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/admin"
	"github.com/zyotra/auth/admin/metrics"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/http"
	"github.com/zyotra/auth/mail"
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
	s.admin.Page(metricsPath, s.metrics.Handler())
	s.admin.Page(admin.ProfilesPath, admin.Profiles())
}

// metricsURL is where the metrics are shown, "" if nowhere.
func (s *service) metricsURL() string {
	if s.admin == nil {
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
	parts.MailQueue = s.mailQueue
	if s.mailer != nil {
		parts.Mailer = s.mailer.Stats
	}
	return parts
}

// mailQueue tells how things stand with the mails. It looks as the relay, which keeps the streams:
// who sends mails may not. Before the first relay has made them there are none.
func (s *service) mailQueue(ctx context.Context) (mail.Queue, error) {
	queue, err := mail.Look(ctx, s.relay.JS)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return mail.Queue{}, nil
	}
	return queue, err
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
