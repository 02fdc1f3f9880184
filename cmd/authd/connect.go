package main

import (
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
)

// keepConnected connects as connect does, and closes the connection when the service closes.
func (s *service) keepConnected(role string, more ...nats.Option) (*nats.Conn, error) {
	conn, err := s.connect(role, more...)
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { conn.Close(); return nil })
	return conn, nil
}

// connect connects to the bus in a role: inside the process, or to the external cluster with
// the credentials of the settings. If these belong to one user, all parts have the service's role.
func (s *service) connect(role string, more ...nats.Option) (*nats.Conn, error) {
	conn, err := s.dial(role, more...)
	if err == nil {
		s.conns = append(s.conns, connection{role, conn})
	}
	return conn, err
}

func (s *service) dial(role string, more ...nats.Option) (*nats.Conn, error) {
	if s.embedded == nil && s.store != nil && !s.settings.eachHasItsRole() {
		role = embedded.Service
	}
	options := append(more,
		nats.Name("authd "+role),
		nats.CustomInboxPrefix("_INBOX_"+role),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil if this process closes the connection
				s.log.Warn("bus away", "role", role, "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.log.Info("bus back", "role", role) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.log.Error("bus", "role", role, "err", err) }),
	)
	if s.embedded != nil {
		return bus.Connect("", append(options, s.embedded.InProcess(), s.embedded.As(role))...)
	}
	credentials, err := s.settings.natsCredentials(role)
	if err != nil {
		return nil, err
	}
	options = append(options, credentials...)
	conn, err := bus.Connect(s.config.natsURL, options...)
	if err != nil {
		return nil, busError(err)
	}
	return conn, nil
}
