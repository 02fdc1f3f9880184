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

// mailRow is what sealed mails are bound to.
const mailRow = "outbox/" + events.MailType

// Mails asks for mails. They leave by a queue, not by a request: a mail is an event in the
// outbox, committed together with what causes it, and is sent by whoever takes it from the
// stream AUTH_MAIL.
type Mails struct {
	Keys secret.Keys // what seals mails is derived from them
}

// request asks for mails in the transaction of the change that causes them.
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

// Seal seals a mail in JSON, as it waits in the outbox and as it is kept when it was given up.
func (m *Mails) Seal(plain []byte) ([]byte, error) {
	sealed, err := m.Keys.Seal(plain, mailRow)
	if err != nil {
		return nil, fmt.Errorf("seal mail: %w", err)
	}
	return sealed, nil
}

// Reseal returns an event as it is published: a mail sealed for the mailers, any other as it is. It returns
// events.ErrNobody for a mail to nobody. It is for the relay.
func (m *Mails) Reseal(e events.Event) (events.Event, error) {
	e, err := m.Open(e)
	if err != nil || e.Type != events.MailType {
		return e, err
	}
	return events.SealMail(e, m.Keys[0].Derive(secret.LabelMail))
}

// Read returns the mail of an event that was published. It is for the mailer.
func (m *Mails) Read(e events.Event) (events.Mail, error) {
	return events.OpenMail(e, m.Keys.DeriveAll(secret.LabelMail)...)
}

// Open returns an event of the outbox: a mail without its seal, any other as it is. It returns
// events.ErrNobody for a mail to nobody.
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
