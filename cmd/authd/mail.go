package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/mail"
	"github.com/zyotra/auth/persistence"
)

// mailCommand is "authd mail". It connects to the bus in the role admin. It puts abandoned mails back
// into the outbox of the database, from which the relay publishes them like every mail.
type mailCommand struct {
	Status  mailStatus  `cmd:"" help:"Show how many mails wait, and how many were given up."`
	Failed  mailFailed  `cmd:"" help:"Show the mails that were given up, the oldest first."`
	Retry   mailRetry   `cmd:"" help:"Put mails that were given up back, to be sent. One whose link or code has expired stays."`
	Preview mailPreview `cmd:"" help:"Write what each mail looks like, with sample data, as DIR/LANGUAGE/KIND.txt and .html."`
}

type (
	mailStatus struct {
		adminSettings
		JSON bool `name:"json" help:"Write JSON: {waiting,retried,oldest,failed}."`
	}
	mailFailed struct {
		adminSettings
		JSON bool `name:"json" help:"Write an object a line: {id,kind,userId,to,reason,at,expiresAt,tries}."`
	}
	mailRetry struct {
		natsSettings
		databaseSettings
		ID  string `arg:"" optional:"" help:"Id of the mail, as \"authd mail failed\" shows it."`
		All bool   `help:"All that were given up."`
	}
	mailPreview struct {
		letterSettings
		PublicURL string `name:"public-url" env:"PUBLIC_URL" default:"http://localhost:3000" placeholder:"URL" help:"Base of every link."`
		Dir       string `arg:"" help:"Directory to write to; files of these names are replaced."`
	}
)

// onMails runs fn with the JetStream of a running bus, which has the streams of mails.
func (s adminSettings) onMails(ctx context.Context, fn func(context.Context, jetstream.JetStream) error) error {
	return s.asOperator(ctx, func(ctx context.Context, conn *nats.Conn) error {
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		err = fn(ctx, js)
		where := redacted(conn.ConnectedUrl())
		switch {
		case errors.Is(context.Cause(ctx), nats.ErrPermissionViolation):
			return fmt.Errorf("only operators may look at mails at %s: NATS_CREDS or NATS_NKEY_SEED_FILE says who asks", where)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("no authd has made the queue of mails at %s yet", where)
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
			return fmt.Errorf("JetStream is not enabled at %s", where)
		}
		return err
	})
}

func (cmd mailStatus) Run(ctx context.Context, out io.Writer) error {
	return cmd.onMails(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		q, err := mail.Look(ctx, js)
		if err != nil {
			return err
		}
		if cmd.JSON {
			return json.NewEncoder(out).Encode(q)
		}
		if q.Waiting == 0 {
			fmt.Fprintln(out, "no mails wait")
		} else {
			fmt.Fprintf(out, "mails that wait: %d, the oldest since %s; tried before: %d\n", q.Waiting, when(q.Oldest), q.Retried)
		}
		_, err = fmt.Fprintf(out, "mails that were given up: %d\n", q.Failed)
		return err
	})
}

func (cmd mailFailed) Run(ctx context.Context, out io.Writer) error {
	show := failedLines(out)
	if cmd.JSON {
		show = func(f mail.Failed) error { return json.NewEncoder(out).Encode(f) }
	}
	return cmd.onMails(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		return mail.FailedMails(ctx, js, func(_ uint64, f mail.Failed) error {
			f.Sealed = nil // of no use to the reader
			return show(f)
		})
	})
}

// failedLines writes abandoned mails for people.
func failedLines(out io.Writer) func(mail.Failed) error {
	const columns = "%-36s  %-20s  %-16s  %-8s  %s"
	head := false
	return func(f mail.Failed) error {
		if !head {
			head = true
			if _, err := fmt.Fprintf(out, columns+"\n", "ID", "GIVEN UP", "KIND", "USER", "TO AND WHY"); err != nil {
				return err
			}
		}
		why := f.To + "  " + f.Reason
		if f.Expired(time.Now()) {
			why = f.To + "  (expired)  " + f.Reason
		}
		line := fmt.Sprintf(columns, printable(f.ID), when(f.At.Truncate(time.Second)), printable(string(f.Kind)), fmt.Sprint(f.UserID), printable(why))
		_, err := fmt.Fprintln(out, strings.TrimRight(line, " "))
		return err
	}
}

func (cmd mailRetry) Run(ctx context.Context, out io.Writer) error {
	if (cmd.ID == "") != cmd.All {
		return usageError("say the id of one mail, or --all")
	}
	on := adminSettings{natsSettings: cmd.natsSettings, DataDir: cmd.DataDir}
	return cmd.withStore(ctx, func(store *persistence.Store) error {
		return on.onMails(ctx, func(ctx context.Context, js jetstream.JetStream) error { return cmd.retry(ctx, out, store, js) })
	})
}

// retry puts the requested mails back, and prints their number.
func (cmd mailRetry) retry(ctx context.Context, out io.Writer, store *persistence.Store, js jetstream.JetStream) error {
	retried, expired, unreadable := 0, 0, 0
	err := mail.FailedMails(ctx, js, func(sequence uint64, f mail.Failed) error {
		switch {
		case !cmd.All && f.ID != cmd.ID:
			return nil
		case f.Expired(time.Now()):
			expired++
			return nil
		case len(f.Sealed) == 0:
			unreadable++
			return nil
		}
		if err := putBack(ctx, store, f); err != nil {
			return err
		}
		retried++
		return mail.Forget(ctx, js, sequence)
	})
	switch {
	case err != nil:
		return err
	case !cmd.All && expired > 0:
		return fmt.Errorf("mail %s has expired: nothing would be sent", cmd.ID)
	case !cmd.All && unreadable > 0:
		return fmt.Errorf("mail %s was sealed with a SECRET_KEY that the mailer does not have, and is not kept", cmd.ID)
	case !cmd.All && retried == 0:
		return fmt.Errorf("no mail %s was given up", cmd.ID)
	}
	_, err = fmt.Fprintf(out, "mails that were put back: %d; expired ones that were left: %d\n", retried, expired)
	return err
}

// putBack requests a mail again. The outbox stores the mail as it is, sealed; a running instance opens it.
func putBack(ctx context.Context, store *persistence.Store, f mail.Failed) error {
	return store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		return tx.Emit(ctx, time.Now().UTC().Truncate(time.Microsecond), events.MailRequested{UserID: f.UserID, Sealed: f.Sealed})
	})
}

func (cmd mailPreview) Run(out io.Writer) error {
	publicURL, err := webURL("PUBLIC_URL", cmd.PublicURL, "https://auth.example.com")
	if err != nil {
		return err
	}
	from, err := cmd.sender()
	if err != nil {
		return err
	}
	templates, err := cmd.templates(names(from, publicURL))
	if err != nil {
		return err
	}
	letters, err := templates.Samples()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(letters)) {
		file := filepath.Join(cmd.Dir, filepath.FromSlash(name))
		if err := writeLetter(file, letters[name]); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "mails written to %s: %d\n", cmd.Dir, len(letters))
	return err
}

// writeLetter writes a letter's text, with its subject, to file.txt and its HTML to file.html.
func writeLetter(file string, l mail.Letter) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".txt", []byte("Subject: "+l.Subject+"\n\n"+l.Text), 0o644); err != nil {
		return err
	}
	return os.WriteFile(file+".html", []byte(l.HTML), 0o644)
}
