package events

import (
	"errors"
	"fmt"
	"time"

	"github.com/zyotra/auth"
)

// MailType is the type of the event that asks for a mail, and its subject. It is not one of
// those that other services may hear: it holds a link or a code that lets in.
const MailType = "mail.requested"

// MailFailedType is the type of the event that tells of a mail that was given up, and its subject.
// It is for operators; its data is mail.Failed.
const MailFailedType = "mail.failed"

// MailKind names what a mail is for, and its template.
type MailKind string

// The kinds of mails. What of Mail each has besides is in brackets.
const (
	MailVerify          MailKind = "verify_email"     // [Link Code] the address of a registration
	MailTaken           MailKind = "email_taken"      // somebody wanted an address that has an account
	MailReset           MailKind = "password_reset"   // [Link] to set another password
	MailPasswordChanged MailKind = "password_changed" // [Link] that it was not the owner
	MailChange          MailKind = "email_change"     // [Link] to the new address, to confirm it
	MailChanged         MailKind = "email_changed"    // [Address, Link if it can be undone] to the former address
	MailLoginCode       MailKind = "login_code"       // [Code]
	MailNewDevice       MailKind = "new_device"       // [Link] that it was not the owner
	MailNone            MailKind = "none"             // is not sent: whoever asks in vain is not to notice by the time
)

// ErrNobody means of an event that it goes to nobody and is not published.
var ErrNobody = errors.New("for nobody")

// Mail is what mail.requested asks for, in the stream AUTH_MAIL: everything that its text needs.
type Mail struct {
	Kind      MailKind    `json:"kind"`
	UserID    auth.UserID `json:"userId"`
	To        string      `json:"to"` // the stored address, never one that was typed
	Name      string      `json:"name,omitempty"`
	Locale    string      `json:"locale,omitempty"` // BCP 47; "" is the default
	Link      string      `json:"link,omitempty"`   // below PUBLIC_URL
	Code      string      `json:"code,omitempty"`
	ExpiresAt time.Time   `json:"expiresAt,omitzero"` // of the link, or of the code if there is none; not sent after it
	// CodeExpiresAt is when the code ends, if that is before the link does.
	CodeExpiresAt time.Time   `json:"codeExpiresAt,omitzero"`
	Address       string      `json:"address,omitempty"` // that the account has now
	Client        auth.Client `json:"client,omitzero"`   // where what it tells of came from
	Device        string      `json:"device,omitempty"`  // the client in words, as in "Firefox on Linux"
	At            time.Time   `json:"at"`                // when that was
}

// MailRequested is the data of mail.requested as it waits in the outbox: a Mail, sealed, since
// a copy of the database must not let anybody in. UserID is 0 for a registration.
type MailRequested struct {
	UserID auth.UserID `json:"userId"`
	Sealed []byte      `json:"sealed"`
}

// Type is MailType.
func (MailRequested) Type() string { return MailType }

// Subject is the id of the user.
func (d MailRequested) Subject() string { return fmt.Sprint(d.UserID) }
