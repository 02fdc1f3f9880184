// Package embedded is the NATS server inside the authd process, for those who have no
// cluster: one server, one account with JetStream, seven roles. For those who have one, External
// writes its configuration, with the same roles.
//
// Start locks the directory, reads the seeds of the roles (making them the first time),
// writes the configuration as text and lets the server parse it, so that what runs here is
// what an operator could write down for a real cluster. It returns once the listener is open
// and JetStream has recovered its streams.
//
//	keys.go     seeds: <Dir>/keys/{service,relay,edge,admin,app,subscriber,mailer}.nk
//	roles.go    who may publish and subscribe what
//	listener.go the address of the listener, and whether it lets guests in
//	config.go   all of it put into configuration text, with the limits
//	external.go the same for servers outside of authd
//	nsc.go      the same in operator mode, as commands
//	log.go      the server's log into slog, its fatal errors into Start and Failed
//
// A client without credentials is a guest: it may ask the public subjects, hear the events and read
// the inboxes of guests. Guests are let in on loopback alone, unless Config.Guests says otherwise.
// Other services connect with the key of the role app, and the parts of authd in their roles:
//
//	nats.Connect("", s.InProcess(), s.As(embedded.Service))
//
// The package knows neither our messages nor our streams; it only decides who reaches them.
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

// Config says where the server keeps its files and where it listens.
type Config struct {
	Dir    string       // keys and JetStream files; made with mode 0700 if absent, one process at a time
	Listen string       // "host:port", where port 0 or -1 means any free one, or Off
	Guests Guests       // which clients are let in without credentials
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

	// The server's own Start comes back when the listener is open, or after a fatal error;
	// there is nothing to poll for.
	s.ns.Start()
	select {
	case err := <-s.failed:
		return startError(c.Listen, err)
	default:
	}
	s.url = clientURL(s.ns.Addr())
	return nil
}

// startError says in the operator's words why the server did not start.
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

// clientURL is where a client on this machine finds a listener at addr, "" for none. One on
// all addresses is found on loopback, IPv4 too: Go opens it for both families.
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

// URL is where clients on this machine connect, such as nats://127.0.0.1:4222. It is empty
// if the server does not listen.
func (s *Server) URL() string { return s.url }

// AllowsGuests reports whether clients without credentials are let in.
func (s *Server) AllowsGuests() bool { return s.guests }

// InProcess connects without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.ns) }

// As connects in a role: with its key and its inbox prefix.
func (s *Server) As(role string) nats.Option {
	return asRole(role, func() (nkeys.KeyPair, error) { return s.keys[role], nil })
}

// Failed yields the error with which a running server gave up, if it ever does.
func (s *Server) Failed() <-chan error { return s.failed }

// Health returns nil while clients can connect and JetStream works. The server switches
// JetStream off when it may not write its files, and only a restart brings it back. A full disk
// is another matter: it stops the stream that met it, and whoever publishes there notices.
func (s *Server) Health() error {
	if !s.ns.Running() {
		return errors.New("embedded NATS server: stopped")
	}
	if !s.ns.JetStreamEnabled() {
		return errors.New("embedded NATS server: JetStream is switched off after a storage error")
	}
	return nil
}

// Shutdown disconnects all clients, closes the store and waits until both are done. Calling
// it again does no harm.
func (s *Server) Shutdown() {
	if s.ns != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}
	// The lock file stays: removing it would let two processes lock two files of that name.
	_ = s.lock.Close()
}
