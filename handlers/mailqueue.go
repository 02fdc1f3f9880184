package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/persistence"
)

// mailRow is the row name that sealed mails are bound to.
const mailRow = "outbox/" + events.MailType

// Mails requests, seals and opens mails. No request sends a mail itself: a mail is an event in the
// outbox, committed together with the change that causes it, and a mailer takes it from the stream
// AUTH_MAIL and sends it.
type Mails struct {
	Keys secret.Keys // the keys that seal mails are derived from them
}

// request stores mails in the outbox, in the transaction of the change that causes them.
func (m *Mails) request(ctx context.Context, tx *persistence.Store, at time.Time, mails ...events.Mail) error {
	data := make([]events.Data, len(mails))
	for i, mail := range mails {
		plain, err := json.Marshal(mail)
		if err != nil {
			return fmt.Errorf("encode mail: %w", err)
		}
		sealed, err := m.Seal(plain)
		if err != nil {
			return err
		}
		data[i] = events.MailRequested{UserID: mail.UserID, Sealed: sealed}
	}
	return tx.Emit(ctx, at, data...)
}

// Seal seals a mail in JSON, for the outbox and for the storage of abandoned mails.
func (m *Mails) Seal(plain []byte) ([]byte, error) {
	sealed, err := m.Keys.Seal(plain, mailRow)
	if err != nil {
		return nil, fmt.Errorf("seal mail: %w", err)
	}
	return sealed, nil
}

// Reseal returns an event in its published form: it seals a mail for the mailers, and returns any other
// event unchanged. It returns events.ErrNobody for a mail of kind events.MailNone. The relay calls it.
func (m *Mails) Reseal(e events.Event) (events.Event, error) {
	e, err := m.Open(e)
	if err != nil || e.Type != events.MailType {
		return e, err
	}
	return events.SealMail(e, m.Keys[0].Derive(secret.LabelMail))
}

// Read returns the mail of a published event. The mailer calls it.
func (m *Mails) Read(e events.Event) (events.Mail, error) {
	return events.OpenMail(e, m.Keys.DeriveAll(secret.LabelMail)...)
}

// Open opens an event of the outbox: it unseals a mail, and returns any other event unchanged. It
// returns events.ErrNobody for a mail of kind events.MailNone.
func (m *Mails) Open(e events.Event) (events.Event, error) {
	if e.Type != events.MailType {
		return e, nil
	}
	var waiting events.MailRequested
	if err := json.Unmarshal(e.Data, &waiting); err != nil {
		return events.Event{}, fmt.Errorf("mail %s: %w", e.ID, err)
	}
	plain, err := m.Keys.Open(waiting.Sealed, mailRow)
	if err != nil {
		return events.Event{}, fmt.Errorf("mail %s: %w", e.ID, err)
	}
	e.Data = plain
	var mail struct{ Kind events.MailKind }
	if err := json.Unmarshal(plain, &mail); err != nil {
		return events.Event{}, fmt.Errorf("mail %s: %w", e.ID, err)
	}
	if mail.Kind == events.MailNone {
		return events.Event{}, events.ErrNobody
	}
	return e, nil
}
