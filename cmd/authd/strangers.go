package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
)

// strangerSettings select which clients may connect to the bus without credentials.
type strangerSettings struct {
	NATSAnonymous string `name:"nats-anonymous" env:"NATS_ANONYMOUS" placeholder:"on|off" help:"Whether the embedded server lets in clients without credentials: on, from wherever NATS_LISTEN can be reached; off, none. Without one: if NATS_LISTEN is on loopback alone. They ask what the API is for, hear events, and can read each other's replies."`
	NATSOpen      string `name:"nats-open" env:"NATS_OPEN" default:"off" placeholder:"on|off" help:"on starts also if the external cluster lets clients without credentials do what only the parts of authd may. For development."`
}

// checkStrangers parses the settings of clients without credentials.
func (s serveSettings) checkStrangers(c *config) error {
	anonymous, err := onOff("NATS_ANONYMOUS", s.NATSAnonymous, false)
	switch {
	case err != nil:
		return err
	case s.NATSAnonymous == "":
	case s.NATSURL != "":
		return &settingError{"NATS_ANONYMOUS", "is for the embedded server, but NATS_URL is set", "\"\""}
	case anonymous:
		c.guests = embedded.GuestsAnywhere
	default:
		c.guests = embedded.GuestsNever
	}
	c.natsOpen, err = onOff("NATS_OPEN", s.NATSOpen, false)
	if err == nil && c.natsOpen && s.NATSURL == "" {
		return &settingError{"NATS_OPEN", "is on, but NATS_URL is empty: it is for an external cluster", off}
	}
	return err
}

// warnOfGuests logs a warning if the embedded server accepts strangers from other machines.
func (s *service) warnOfGuests(ctx context.Context) error {
	if s.config.guests != embedded.GuestsAnywhere {
		return nil
	}
	local, err := embedded.IsLoopback(ctx, s.settings.NATSListen)
	if err == nil && !local {
		s.log.Warn("NATS_ANONYMOUS=on: every client that reaches NATS_LISTEN asks without credentials and can read the replies to others without credentials", "listen", s.settings.NATSListen)
	}
	return err
}

// strangerCheck checks an external cluster: its servers must deny clients without credentials, and
// apps, all rights that only the parts of authd may have.
type strangerCheck struct {
	settings natsSettings
	role     string // Service or Edge
}

// exposedError lists the rights of strangers on a server that only the parts of authd may have.
type exposedError struct {
	url, who string
	may      []string
}

func (e *exposedError) Error() string {
	return fmt.Sprintf("NATS_URL: at %s, %s may %s: \"authd nats-config\" prints a configuration with roles; NATS_OPEN=on starts all the same, for development",
		redacted(e.url), e.who, strings.Join(e.may, ", "))
}

// run probes the servers concurrently. It returns the servers that it could not probe. Its error is an
// *exposedError, or a reason if it could probe no server.
func (c strangerCheck) run(ctx context.Context, urls []string) (unknown []string, err error) {
	errs := make([]error, len(urls))
	var group sync.WaitGroup
	for i, one := range urls {
		group.Go(func() { errs[i] = c.one(ctx, one) })
	}
	group.Wait()
	for i, one := range errs {
		if _, exposed := errors.AsType[*exposedError](one); exposed {
			return nil, one
		}
		if one != nil {
			unknown, err = append(unknown, urls[i]), one
		}
	}
	if len(unknown) < len(urls) {
		err = nil
	}
	return unknown, err
}

// one probes a server as a stranger, and as an app if the credentials of an app are available.
func (c strangerCheck) one(ctx context.Context, url string) error {
	ours, err := c.settings.natsUser(c.role)
	if err != nil {
		return err
	}
	tls, err := c.settings.natsAuthorities()
	if err != nil {
		return err
	}
	probe := embedded.Probe{URL: url, Role: c.role, TLS: tls, Ours: ours}
	if err := c.probe(ctx, probe, "clients without credentials"); err != nil {
		return err
	}
	if probe.App = c.appUser(); probe.App == nil {
		return nil
	}
	return c.probe(ctx, probe, "clients with the credentials of the role app")
}

func (c strangerCheck) probe(ctx context.Context, p embedded.Probe, who string) error {
	may, err := p.Run(ctx)
	if err != nil {
		return busError(err)
	}
	if len(may) > 0 {
		return &exposedError{p.URL, who, may}
	}
	return nil
}

// appUser returns the credentials of an app, or nil if they are not in the directory of the settings.
func (c strangerCheck) appUser() []nats.Option {
	for _, file := range []string{filepath.Join(c.settings.NATSCreds, embedded.App+".creds"), filepath.Join(c.settings.NATSNKeySeedFile, embedded.App+".nk")} {
		if _, err := os.Stat(file); err != nil || !c.settings.eachHasItsRole() {
			continue
		}
		if app, err := c.settings.natsUser(embedded.App); err == nil {
			return app
		}
	}
	return nil
}

// urls returns the URLs of NATS_URL.
func (s natsSettings) urls() (list []string) {
	for one := range strings.SplitSeq(s.NATSURL, ",") {
		list = append(list, strings.TrimSpace(one))
	}
	return list
}

// checkStrangers returns an error for a cluster that gives strangers rights that only the parts of authd
// may have, unless NATS_OPEN=on. Servers that it cannot probe now are probed later: see watchStrangers.
func (s *service) checkStrangers(ctx context.Context, role string) error {
	if s.config.natsURL == "" {
		return nil
	}
	if s.config.natsOpen {
		s.log.Warn("NATS_OPEN=on: the service does not check what strangers may do on the bus. They may be able to set passwords, read tokens and publish events. This is for development", "nats", redacted(s.config.natsURL))
		return nil
	}
	s.strangers = strangerCheck{s.settings.natsSettings, role}
	unknown, err := s.strangers.run(ctx, s.settings.urls())
	if err != nil {
		return err
	}
	s.unchecked = unknown
	return nil
}

// recheckEvery is the interval between probes of the servers that could not be probed before.
const recheckEvery = 2 * time.Second

// watchStrangers probes the servers that could not be probed at the start, until each has answered or ctx
// ends. For a server that strangers can misuse, it returns an error, which ends the process.
func (s *service) watchStrangers(ctx context.Context) error {
	for len(s.unchecked) > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(recheckEvery):
		}
		unknown, err := s.strangers.run(ctx, s.unchecked)
		if _, exposed := errors.AsType[*exposedError](err); exposed && ctx.Err() == nil {
			return err
		}
		s.unchecked = unknown
	}
	return nil
}

// strangers checks the rights that an external cluster gives to clients that are not parts of authd.
func (w *busWard) strangers(ctx context.Context) finding {
	unknown, err := strangerCheck{w.natsSettings, w.roles()[0]}.run(ctx, w.urls())
	exposed, isExposed := errors.AsType[*exposedError](err)
	const advice = "give the servers what authd nats-config prints"
	switch {
	case isExposed && w.config.natsOpen:
		return doubtful(advice+", and unset NATS_OPEN", "NATS_OPEN=on, and at %s %s may %s", redacted(exposed.url), exposed.who, strings.Join(exposed.may, ", "))
	case isExposed:
		return bad(advice, "at %s %s may %s", redacted(exposed.url), exposed.who, strings.Join(exposed.may, ", "))
	case err != nil:
		return bad("see NATS and rights above", "it cannot be found out what strangers may do: %s", err)
	case w.config.natsOpen:
		return doubtful("unset it", "NATS_OPEN=on lets authd start also if strangers may do everything; here they may not")
	case len(unknown) > 0:
		return doubtful("see NATS above", "it cannot be found out what strangers may do at %s", redacted(strings.Join(unknown, ",")))
	}
	return good("strangers may do nothing that only the parts of authd may")
}

// guests checks, by the settings, whether the embedded server accepts clients without credentials.
func (w *busWard) guests(ctx context.Context) finding {
	local, err := embedded.IsLoopback(ctx, w.NATSListen)
	switch {
	case err != nil:
		return bad("set NATS_LISTEN to an address of this machine", "%s", err)
	case w.config.guests == embedded.GuestsAnywhere && !local:
		return doubtful("unset NATS_ANONYMOUS, and give each client "+embedded.SeedFile(filepath.Join(w.DataDir, "nats"), embedded.App),
			"NATS_ANONYMOUS=on: every client that reaches NATS_LISTEN %s asks without credentials, and can read the replies to others without credentials", w.NATSListen)
	case w.config.guests == embedded.GuestsNever || !local:
		return good("every client needs credentials")
	}
	return good("clients on this machine need no credentials")
}
