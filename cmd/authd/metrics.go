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

// connection is a connection to the bus, and the part that uses it.
type connection struct {
	part string
	conn *nats.Conn
}

// showMetrics adds the state of the parts to the metrics, and serves metrics and profiles to operators.
func (s *service) showMetrics() {
	s.metrics.Sample(s.parts())
	s.admin.Page(metricsPath, s.metrics.Handler())
	s.admin.Page(admin.ProfilesPath, admin.Profiles())
}

// metricsURL returns the URL of the metrics, "" if they are not served.
func (s *service) metricsURL() string {
	if s.admin == nil {
		return ""
	}
	return "http://" + s.operators.Addr().String() + metricsPath
}

// parts returns the parts of this instance whose state the metrics report.
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

// mailQueue returns the state of the mail queue. It uses the rights of the relay, which manages the
// streams: the mailer may not read their state. Before the first relay has created the streams, the
// queue is empty.
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

// connections returns the state of the connections to the bus.
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
