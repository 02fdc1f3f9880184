package events

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
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

// Mail is what mail.requested asks for: everything that the text of the mail needs. It is sealed on its
// way, in the outbox and in the stream AUTH_MAIL: see OpenMail.
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
	CodeExpiresAt time.Time       `json:"codeExpiresAt,omitzero"`
	Address       string          `json:"address,omitempty"` // that the account has now
	Client        auth.ClientInfo `json:"client,omitzero"`   // where what it tells of came from
	Device        string          `json:"device,omitempty"`  // the client in words, as in "Firefox on Linux"
	At            time.Time       `json:"at"`                // when that was
}

// MailRequested is the data of mail.requested: a Mail, sealed, since a copy of the database or of the
// stream must not let anybody in. UserID is 0 for a registration. In the outbox the Mail is sealed with the
// key of the database's other secrets; in the stream as SealMail does.
type MailRequested struct {
	UserID auth.UserID `json:"userId"`
	Sealed []byte      `json:"sealed"`
}

// Type is MailType.
func (MailRequested) Type() string { return MailType }

// Subject is the id of the user.
func (d MailRequested) Subject() string { return fmt.Sprint(d.UserID) }

// ErrMailSealed means that none of the keys opens a mail.
var ErrMailSealed = errors.New("sealed with another mail key, or damaged")

// SealMail returns a mail.requested whose data is a Mail, in JSON, as it goes to the stream AUTH_MAIL: with
// AES-256-GCM under a key of 32 bytes, the nonce of 12 bytes before the ciphertext, and bound to the id of
// the event (the additional data is "mail.requested/" and the id), so that it opens in no other message.
func SealMail(e Event, key []byte) (Event, error) {
	var mail struct {
		UserID auth.UserID `json:"userId"`
	}
	if err := json.Unmarshal(e.Data, &mail); err != nil {
		return Event{}, fmt.Errorf("seal mail %s: %w", e.ID, err)
	}
	aead, err := mailAEAD(key)
	if err != nil {
		return Event{}, fmt.Errorf("seal mail %s: %w", e.ID, err)
	}
	data, err := json.Marshal(MailRequested{UserID: mail.UserID, Sealed: aead.Seal(nil, nil, e.Data, mailBinding(e))})
	if err != nil {
		return Event{}, fmt.Errorf("seal mail %s: %w", e.ID, err)
	}
	e.Data = data
	return e, nil
}

// OpenMail returns the Mail of an event from the stream AUTH_MAIL. The keys are those that "authd keys
// mail-key" prints, in any order. It returns ErrMailSealed if none of them opens the mail, with the UserID
// alone. A mail of a version that did not seal mails there is in clear, and needs no key.
func OpenMail(e Event, keys ...[]byte) (m Mail, err error) {
	var data struct {
		Mail
		Sealed []byte `json:"sealed"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return Mail{}, fmt.Errorf("open mail %s: %w", e.ID, err)
	}
	if data.Sealed == nil {
		return data.Mail, nil
	}
	for _, key := range keys {
		aead, err := mailAEAD(key)
		if err != nil {
			return Mail{}, fmt.Errorf("open mail %s: %w", e.ID, err)
		}
		plain, err := aead.Open(nil, nil, data.Sealed, mailBinding(e))
		if err != nil {
			continue
		}
		if err := json.Unmarshal(plain, &m); err != nil {
			return Mail{}, fmt.Errorf("open mail %s: %w", e.ID, err)
		}
		return m, nil
	}
	return Mail{UserID: data.UserID}, fmt.Errorf("open mail %s: %w", e.ID, ErrMailSealed)
}

func mailAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// mailBinding is the additional data of a sealed mail.
func mailBinding(e Event) []byte { return []byte(MailType + "/" + e.ID) }
