// Package embedded is the NATS server inside the authd process, for operators without a
// cluster: one server, one account with JetStream, seven roles. For operators with a cluster,
// External writes its configuration, with the same roles.
//
// Start locks the directory, reads the seeds of the roles (it makes them the first time),
// writes the configuration as text and has the server parse it. So an operator could use the
// same configuration for a real cluster. Start returns once the listener is open and JetStream
// has recovered its streams.
//
//	keys.go     seeds: <Dir>/keys/{service,relay,edge,admin,app,subscriber,mailer}.nk
//	roles.go    the subjects that each role may publish and subscribe to
//	listener.go the address of the listener, and whether it admits guests
//	config.go   the configuration text, with the limits
//	external.go the configuration of servers outside of authd
//	nsc.go      the roles in operator mode, as commands
//	log.go      the server's log into slog, its fatal errors into Start and Failed
//
// A client without credentials is a guest: it may send requests to the public subjects, subscribe to
// the events and read the inboxes of guests. The server admits guests only on loopback by default
// (Config.Guests).
// Other services connect with the key of the role app, and the parts of authd in their roles:
//
//	nats.Connect("", s.InProcess(), s.As(embedded.Service))
//
// The package knows neither our messages nor our streams; it only decides which clients reach them.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Off as Config.Listen keeps the server inside the process.
const Off = "off"

// Config contains the directory of the server's files, its listener and its admission of guests.
type Config struct {
	Dir    string       // keys and JetStream files, for one process at a time; made with mode 0700 if absent
	Listen string       // "host:port", where port 0 or -1 means any free one, or Off
	Guests Guests       // which clients are admitted without credentials
	Log    *slog.Logger // nil logs nothing
}

// Server is a running NATS server.
type Server struct {
	ns     *server.Server
	lock   *flock.Flock
	keys   map[string]nkeys.KeyPair
	url    string
	guests bool
	failed chan error
}

// Start runs a server and returns when clients can connect and JetStream is up. If it
// returns an error, nothing is left running and the directory is unlocked. A ctx that ends
// while streams are being recovered takes effect after that.
func Start(ctx context.Context, c Config) (*Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at, err := parseListen(ctx, c.Listen)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, failed: make(chan error, 1)}
	if err := s.start(c, at); err != nil {
		s.Shutdown()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(c Config, at listener) error {
	var err error
	if s.keys, err = loadKeys(keysDir(c.Dir), names()); err != nil {
		return err
	}
	s.guests = c.Guests.allowed(at.loopback)
	opts, err := options(c, at, s.keys)
	if err != nil {
		return err
	}
	if s.ns, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	s.ns.SetLoggerV2(newLogger(c.Log, s.failed), false, false, false)

	// The server's own Start returns when the listener is open, or after a fatal error, so
	// polling is unnecessary.
	s.ns.Start()
	select {
	case err := <-s.failed:
		return startError(c.Listen, err)
	default:
	}
	s.url = clientURL(s.ns.Addr())
	return nil
}

// startError returns the reason why the server did not start, in the operator's terms.
func startError(listen string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("NATS_LISTEN %s: %w (another authd or nats-server is running there?)", listen, syscall.EADDRINUSE)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("NATS_LISTEN %s: %w", listen, op.Err)
	}
	return fmt.Errorf("embedded NATS server: %w", err)
}

// lockDir makes dir and takes its lock. Two servers on one store would destroy it.
func lockDir(dir string) (*flock.Flock, error) {
	if dir == "" {
		return nil, errors.New("embedded NATS server: no directory given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "nats.lock"), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	}
	if !ok {
		return nil, fmt.Errorf("lock %s: %s is in use by another authd", lock.Path(), dir)
	}
	return lock, nil
}

// clientURL returns the URL at which a client on this machine reaches a listener at addr, "" for no
// listener. A listener on all addresses is reachable on IPv4 loopback: Go opens it for both families.
func clientURL(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip := tcp.IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return "nats://" + net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port))
}

// URL returns the URL for clients on this machine, such as nats://127.0.0.1:4222. It is empty
// if the server does not listen.
func (s *Server) URL() string { return s.url }

// AllowsGuests reports whether the server admits clients without credentials.
func (s *Server) AllowsGuests() bool { return s.guests }

// InProcess returns the option to connect without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.ns) }

// As returns the option to connect in a role: with its key and its inbox prefix.
func (s *Server) As(role string) nats.Option {
	return asRole(role, func() (nkeys.KeyPair, error) { return s.keys[role], nil })
}

// Failed returns a channel that receives the first fatal error of a running server.
func (s *Server) Failed() <-chan error { return s.failed }

// Health returns nil while clients can connect and JetStream works. The server disables
// JetStream when it may not write its files, and only a restart enables it again. Health does not
// detect a full disk, which stops only the affected stream: publishers to that stream get an error.
func (s *Server) Health() error {
	if !s.ns.Running() {
		return errors.New("embedded NATS server: stopped")
	}
	if !s.ns.JetStreamEnabled() {
		return errors.New("embedded NATS server: JetStream is switched off after a storage error")
	}
	return nil
}

// Shutdown disconnects all clients, closes the store and waits until both are done. A second
// call is harmless.
func (s *Server) Shutdown() {
	if s.ns != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}
	// The lock file stays: removing it would let two processes lock two files of that name.
	_ = s.lock.Close()
}
