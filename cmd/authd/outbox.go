package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/zyotra/auth/persistence"
)

// outboxCommand is "authd outbox". It works on the database, whether or not the service runs:
// instances read the outbox every second.
type outboxCommand struct {
	Status    outboxStatus    `cmd:"" help:"Show how many events wait to be published, and for how long."`
	Republish outboxRepublish `cmd:"" help:"Publish events once more, for a stream that lost them. They are kept for seven days. Receivers pass over those they have had."`
}

type (
	outboxStatus struct {
		databaseSettings
		JSON bool `name:"json" help:"Write JSON: {events,oldest,seconds}."`
	}
	outboxRepublish struct {
		databaseSettings
		Since string `required:"" placeholder:"WHEN" help:"What happened since then: a duration before now, as in 2h, or a time, as in 2026-03-01T12:00:00Z."`
		Mails bool   `help:"Instead of the events, send the mails of that time again. They are kept for a day, and expired ones are not sent."`
	}
)

func (cmd outboxStatus) Run(ctx context.Context, out io.Writer) error {
	return cmd.withStore(ctx, func(store *persistence.Store) error {
		b, err := store.Backlog(ctx)
		if err != nil {
			return err
		}
		age := max(0, time.Since(b.Oldest)).Truncate(time.Second)
		switch {
		case cmd.JSON && b.Events == 0:
			_, err = fmt.Fprintln(out, `{"events":0}`)
		case cmd.JSON:
			err = json.NewEncoder(out).Encode(struct {
				Events  int       `json:"events"`
				Oldest  time.Time `json:"oldest"`
				Seconds int       `json:"seconds"`
			}{b.Events, b.Oldest, int(age.Seconds())})
		case b.Events == 0:
			_, err = fmt.Fprintln(out, "no events wait to be published")
		default:
			_, err = fmt.Fprintf(out, "events that wait to be published: %d, the oldest for %s, since %s\n", b.Events, age, when(b.Oldest))
		}
		return err
	})
}

func (cmd outboxRepublish) Run(ctx context.Context, out io.Writer) error {
	since, err := pastTime(cmd.Since)
	if err != nil {
		return err
	}
	return cmd.withStore(ctx, func(store *persistence.Store) error {
		n, err := store.Republish(ctx, since, cmd.Mails)
		if err != nil {
			return err
		}
		what := "events that will be published"
		if cmd.Mails {
			what = "mails that will be sent"
		}
		fmt.Fprintf(out, "%s once more: %d; a running instance does so within a second\n", what, n)
		if n > 0 {
			fmt.Fprintln(out, "The stream drops those that it has had within the last half hour.")
		}
		return nil
	})
}
