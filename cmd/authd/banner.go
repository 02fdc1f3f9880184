package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/zyotra/auth/bus/embedded"
)

// tellReady reports the addresses of the service and an example request: to people as text, to a log as
// one record without the example.
func (s *service) tellReady(stdout io.Writer, text bool, took time.Duration) {
	var http, natsURL string
	if s.listener != nil {
		http = "http://" + s.listener.Addr().String()
	}
	switch {
	case s.embedded == nil:
		natsURL = redacted(s.config.natsURL)
	case s.embedded.URL() == "":
		natsURL = "in this process only"
	default:
		natsURL = s.embedded.URL()
	}
	if !text {
		s.log.Info("ready", "version", version, "http", http, "nats", natsURL, "database", s.database(), "mailbox", s.mailbox, "metrics", s.metricsURL(), "took", took.Round(time.Millisecond).String())
		return
	}
	fmt.Fprintf(stdout, "authd %s is ready after %s\n", version, took.Round(time.Millisecond))
	fmt.Fprintf(stdout, "  NATS      %s\n", natsURL)
	if s.store != nil {
		fmt.Fprintf(stdout, "  Database  %s\n", s.database())
	}
	if s.mailbox != "" {
		fmt.Fprintf(stdout, "  Mailbox   %s\n", s.mailbox)
	}
	if url := s.metricsURL(); url != "" {
		fmt.Fprintf(stdout, "  Metrics   %s\n", url)
	}
	if http == "" {
		return
	}
	fmt.Fprintf(stdout, "  HTTP      %s\n\nTry:\n", http)
	fmt.Fprintf(stdout, "  curl -s %s/register -H 'Content-Type: application/json' -d '{\"email\":\"ada@example.com\",\"password\":\"correct horse\"}'\n", http)
	if s.embedded != nil && s.embedded.URL() != "" {
		key := ""
		if !s.embedded.AllowsGuests() {
			key = " --nkey " + embedded.SeedFile(filepath.Join(s.dir.path, "nats"), embedded.App)
		}
		fmt.Fprintf(stdout, "  nats -s %s%s service info auth\n", natsURL, key)
	}
}

// database returns the kind of the database, without its URL, which may contain a secret, and the path of
// an SQLite file.
func (s *service) database() string {
	if s.store == nil {
		return ""
	}
	if isPostgres(s.config.databaseURL) {
		return "Postgres"
	}
	return "SQLite in " + strings.TrimPrefix(s.config.databaseURL, "sqlite://")
}
