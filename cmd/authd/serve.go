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

// serviceName is a name by which users may know the service, so it makes a poor password.
const serviceName = "zyotra"

// serveCommand is "authd serve".
type serveCommand struct {
	serveSettings

	Edge     bool `help:"Run only the HTTP edge, against an external bus." xor:"part"`
	Handlers bool `help:"Run only the bus side." xor:"part"`
	Migrate  bool `help:"Bring the schema up to date first. On SQLite that is always done."`
}

// service is the running program: its settings and its open parts.
type service struct {
	config    config
	settings  serveSettings
	log       *slog.Logger
	machine   *clock.Clock     // follows the database's clock on Postgres
	clock     clock.Func       // wall time of machine
	shared    *databaseClock   // keeps machine in step; nil on SQLite and for --edge
	dir       *dataDir         // nil if no part stores files
	embedded  *embedded.Server // nil with an external cluster
	store     *persistence.Store
	server    *bus.Server       // nil for --edge
	pool      *password.Pool    // nil for --edge
	keys      *keyring.Keys     // nil for --edge
	cleanup   *handlers.Cleanup // nil for --edge
	endings   *handlers.Endings // nil for --edge
	relay     *events.Relay     // nil for --edge
	mails     *handlers.Mails   // nil for --edge
	mailer    *mail.Mailer      // nil for --edge, and if this instance sends no mails
	passwords *password.Hasher  // nil for --edge
	verifier  *bus.Verifier
	edge      *http.Edge    // nil for --handlers
	listener  net.Listener  // of the edge
	admin     *admin.Server // nil without a listener
	operators net.Listener  // of admin
	mailbox   string        // URL of the mailbox, "" if there is none
	metrics   *metrics.Metrics
	health    func(context.Context) (auth.HealthReply, error) // of this process; for --edge, of the instances that the edge calls
	conns     []connection                                    // to the bus
	strangers strangerCheck                                   // check of an external cluster
	unchecked []string                                        // URLs of servers that strangers could not probe
	close     []func() error
}

// Run opens all parts first, so that errors are reported before it serves requests. It then reports its
// addresses and serves until ctx ends.
func (cmd serveCommand) Run(ctx context.Context, stdout io.Writer, out logOutput) (err error) {
	started := time.Now()
	broken := make(chan os.Signal, 1) // the service continues if the reader of its log exits
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

// run serves until ctx ends or a part fails. The bus side outlives the edge, which calls it.
func (s *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	if s.server != nil {
		poolCtx, stopPool := context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error { return s.pool.Run(poolCtx) })
		g.Go(func() error {
			defer stopPool() // the pool outlives the last request
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

// closeAll closes the open parts, the latest first.
func (s *service) closeAll() (err error) {
	for i := len(s.close) - 1; i >= 0; i-- {
		err = errors.Join(err, s.close[i]())
	}
	return err
}
