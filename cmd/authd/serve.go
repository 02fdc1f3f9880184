package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/admin"
	"github.com/zyotra/auth/admin/metrics"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/http"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/persistence"
)

// serviceName is what users know the service by, if they know it.
const serviceName = "zyotra"

// serveCommand is "authd serve".
type serveCommand struct {
	serveSettings

	Edge     bool `help:"Run only the HTTP edge, against an external bus." xor:"part"`
	Handlers bool `help:"Run only the bus side." xor:"part"`
	Migrate  bool `help:"Bring the schema up to date first. On SQLite that is always done."`
}

// service is the running program: what is open, and what runs.
type service struct {
	config    config
	settings  serveSettings
	log       *slog.Logger
	machine   *clock.Clock     // which goes by the database's on Postgres
	clock     clock.Func       // its wall time
	shared    *databaseClock   // keeps machine in step; nil on SQLite
	dir       *dataDir         // nil if nothing is kept in files
	embedded  *embedded.Server // nil with an external cluster
	store     *persistence.Store
	server    *bus.Server       // nil for --edge, as are
	pool      *password.Pool    // this
	keys      *keyring.Keys     // and this
	cleanup   *handlers.Cleanup // and this
	endings   *handlers.Endings // and this
	relay     *events.Relay     // and this
	mails     *handlers.Mails   // and this
	mailer    *mail.Mailer      // and this, and if nothing sends mails
	passwords *password.Hasher  // and this
	verifier  *bus.Verifier
	edge      *http.Edge    // nil for --handlers
	listener  net.Listener  // of the edge
	admin     *admin.Server // nil if it listens nowhere
	operators net.Listener  // of that
	mailbox   string        // URL of the mailbox, "" if there is none
	metrics   *metrics.Metrics
	health    func(context.Context) (auth.HealthReply, error) // of this process, or of what its edge asks
	conns     []connection                                    // to the bus
	strangers strangerCheck                                   // of an external cluster
	unchecked []string                                        // URLs of servers that it could not ask
	close     []func() error
}

// Run opens everything, so that what is wrong is said before anything is served, tells where
// it listens, and serves until ctx ends.
func (cmd serveCommand) Run(ctx context.Context, stdout io.Writer, out logOutput) (err error) {
	started := time.Now()
	broken := make(chan os.Signal, 1) // a log that nobody reads any more does not end the service
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	log, text, err := cmd.logger(out)
	if err != nil {
		return err
	}
	config, err := cmd.check()
	if err != nil {
		return err
	}
	if cmd.Edge && config.natsURL == "" {
		return &settingError{"NATS_URL", "is empty, but an edge alone needs a bus", "nats://127.0.0.1:4222"}
	}
	machine := machineClock()
	s := &service{config: config, settings: cmd.serveSettings, log: log, machine: machine, clock: machine.Now, metrics: metrics.New(version)}
	defer func() { err = errors.Join(err, s.closeAll()) }()

	if err := s.open(ctx, cmd); err != nil {
		return err
	}
	s.tellReady(stdout, text, time.Since(started))
	err = s.run(ctx)
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// run serves until ctx ends or a part fails. The bus side outlives the edge, which asks it.
func (s *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	if s.server != nil {
		poolCtx, stopPool := context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error { return s.pool.Run(poolCtx) })
		g.Go(func() error {
			defer stopPool() // it outlives the last request
			return s.server.Run(busCtx)
		})
		g.Go(func() error { return s.keys.Run(busCtx) })
		if s.shared != nil {
			g.Go(func() error { return s.shared.run(busCtx) })
		}
		g.Go(func() error { return s.cleanup.Run(busCtx) })
		g.Go(func() error { return s.endings.Run(busCtx) })
		g.Go(func() error { return s.relay.Run(busCtx) })
	}
	if s.mailer != nil {
		g.Go(func() error { return s.mailer.Run(busCtx) })
	}
	g.Go(func() error { return s.watchStrangers(ctx) })
	if s.admin != nil {
		g.Go(func() error { return s.admin.Run(ctx, s.operators) })
	}
	g.Go(func() error {
		defer stopBus()
		if s.edge != nil {
			return s.edge.Run(ctx, s.listener)
		}
		<-ctx.Done()
		return nil
	})
	if s.embedded != nil {
		g.Go(func() error {
			select {
			case err := <-s.embedded.Failed():
				return err
			case <-ctx.Done():
				return nil
			}
		})
	}
	return g.Wait()
}

func (s *service) onClose(fn func() error) { s.close = append(s.close, fn) }

// closeAll closes what is open, the latest first.
func (s *service) closeAll() (err error) {
	for i := len(s.close) - 1; i >= 0; i-- {
		err = errors.Join(err, s.close[i]())
	}
	return err
}
