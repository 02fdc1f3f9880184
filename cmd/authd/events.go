package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
)

// eventsCommand is "authd events".
type eventsCommand struct {
	Tail eventsTail `cmd:"" help:"Show the events that the stream keeps, and those to come."`
}

type eventsTail struct {
	adminSettings

	Subject  string `placeholder:"SUBJECT" help:"Only what this matches, as in user.deleted or \"session.>\"."`
	Since    string `placeholder:"WHEN" help:"Only what was published since then: a duration before now, as in 2h, or a time, as in 2026-03-01T12:00:00Z."`
	JSON     bool   `name:"json" help:"Write an object a line: {id,type,subject,time,data}."`
	NoFollow bool   `name:"no-follow" help:"End with the last event that there is."`
}

func (cmd eventsTail) Run(ctx context.Context, out io.Writer) error {
	since, err := pastTime(cmd.Since)
	if err != nil {
		return err
	}
	conn, err := cmd.connectAsAdmin()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	show := eventLines(out)
	if cmd.JSON {
		show = json.NewEncoder(out).Encode
	}
	reading := events.Reading{Subject: cmd.Subject, Since: since, Follow: !cmd.NoFollow}
	err = events.Read(ctx, js, reading, func(e events.Event) error { return show(e) })
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("there is no stream %s at %s: no authd has published there yet", events.Stream, redacted(conn.ConnectedUrl()))
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("JetStream is not enabled at %s", redacted(conn.ConnectedUrl()))
	}
	return err
}

// adminSettings are the settings of commands that connect to the bus as an operator.
type adminSettings struct {
	natsSettings

	DataDir string `env:"DATA_DIR" default:"./data" placeholder:"DIR" help:"Where the embedded server keeps its keys."`
}

// connectAsAdmin connects in the role admin to the bus of running instances: the external cluster, or
// the embedded server of an instance with the key in its data directory.
func (s adminSettings) connectAsAdmin() (*nats.Conn, error) {
	if err := s.checkNATS(); err != nil {
		return nil, err
	}
	options := []nats.Option{nats.Name("authd " + embedded.Admin), nats.CustomInboxPrefix("_INBOX_" + embedded.Admin)}
	url := s.NATSURL
	if url == "" {
		if s.NATSListen == embedded.Off {
			return nil, &settingError{"NATS_LISTEN", "is off, so the embedded server cannot be reached from outside", "127.0.0.1:4222"}
		}
		url = "nats://" + s.NATSListen
		key := embedded.SeedFile(filepath.Join(s.DataDir, "nats"), embedded.Admin)
		if _, err := os.Stat(key); err != nil {
			return nil, fmt.Errorf("NATS_URL is empty, and %s: %s; DATA_DIR is where \"authd serve\" keeps its files", key, reason(err))
		}
		options = append(options, embedded.Credentials(filepath.Join(s.DataDir, "nats"), embedded.Admin))
	}
	credentials, err := s.natsCredentials(embedded.Admin)
	if err != nil {
		return nil, err
	}
	conn, err := bus.Connect(url, append(options, credentials...)...)
	if errors.Is(err, nats.ErrNoServers) {
		return nil, fmt.Errorf("nothing answers at %s: does \"authd serve\" run? NATS_URL or NATS_LISTEN says where", redacted(url))
	}
	if err != nil && s.NATSURL != "" {
		return nil, busError(err)
	}
	return conn, err
}

// pastTime parses a time (RFC 3339) or a duration before now; "" is the zero time.
func pastTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return time.Now().UTC().Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, &settingError{"--since", fmt.Sprintf("%q is neither a duration nor a time", text), "2h or --since=2026-03-01T12:00:00Z"}
	}
	return at.UTC(), nil
}

// The control sequences of colours (ECMA-48 §8.3.117).
const (
	unmarked = "\x1b[0m"
	faint    = "\x1b[2m"
	red      = "\x1b[31m"
	green    = "\x1b[32m"
	yellow   = "\x1b[33m"
)

// eventLines writes events for people, in colours on a terminal unless NO_COLOR is set
// (no-color.org).
func eventLines(out io.Writer) func(any) error {
	colours := logOutput{out}.isTerminal() && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return func(value any) error {
		e := value.(events.Event)
		at, kind := e.Time.Format("2006-01-02T15:04:05.000Z"), fmt.Sprintf("%-21s", printable(e.Type))
		if colours {
			at, kind = faint+at+unmarked, colour(e.Type)+kind+unmarked
		}
		_, err := fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%s  %s  %-6s  %s", at, kind, printable(e.Subject), summary(e.Data)), " "))
		return err
	}
}

// colour returns the colour of an event type: green if something begins, red if it ends, yellow if it
// changes.
func colour(kind string) string {
	switch kind {
	case events.UserRegistered{}.Type(), events.UserEnabled{}.Type(), events.SessionCreated{}.Type():
		return green
	case events.UserDisabled{}.Type(), events.UserDeleted{}.Type(), events.SessionRevoked{}.Type():
		return red
	}
	return yellow
}

// summary formats the members of an event's data except the user's id, which is the event's subject.
func summary(data json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return printable(string(data))
	}
	var parts []string
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			break
		}
		if name != "userId" {
			parts = append(parts, fmt.Sprintf("%s=%s", name, short(value)))
		}
	}
	return printable(strings.Join(parts, " "))
}

// short formats a value, and quotes a string only if necessary.
func short(value json.RawMessage) string {
	var s string
	switch {
	case json.Unmarshal(value, &s) != nil:
		return string(value)
	case s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == ' ' || r == '"' || !unicode.IsPrint(r) }):
		return strconv.Quote(s)
	}
	return s
}

// printable replaces characters that are not printable, so that text from users cannot move the cursor
// or change the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
