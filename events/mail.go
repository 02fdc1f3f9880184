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

// MailType is the type of the event that requests a mail, and its subject. Other services must not
// receive it: it holds a link or a code that grants access.
const MailType = "mail.requested"

// MailFailedType is the type of the event that reports an abandoned mail, and its subject.
// It is for operators; its data is mail.Failed.
const MailFailedType = "mail.failed"

// MailKind names the purpose of a mail, and its template.
type MailKind string

// The kinds of mails. Brackets list the optional members of Mail that each kind sets.
const (
	MailVerify          MailKind = "verify_email"     // [Link Code] to verify the address of a registration
	MailTaken           MailKind = "email_taken"      // a request named an address that already has an account
	MailReset           MailKind = "password_reset"   // [Link] to set another password
	MailPasswordChanged MailKind = "password_changed" // [Link] to report that it was not the owner
	MailChange          MailKind = "email_change"     // [Link] to the new address, to confirm it
	MailChanged         MailKind = "email_changed"    // [Address, Link if it can be undone] to the former address
	MailLoginCode       MailKind = "login_code"       // [Code]
	MailNewDevice       MailKind = "new_device"       // [Link] to report that it was not the owner
	MailNone            MailKind = "none"             // not sent: a request without effect takes as long as one that sends a mail
)

// ErrNobody means that an event has no recipient and is not published.
var ErrNobody = errors.New("for nobody")

// Mail is the mail that mail.requested requests: everything that the text of the mail needs. It is sealed
// in the outbox and in the stream AUTH_MAIL: see OpenMail.
type Mail struct {
	Kind      MailKind    `json:"kind"`
	UserID    auth.UserID `json:"userId"`
	To        string      `json:"to"` // the stored address, never the one in the request
	Name      string      `json:"name,omitempty"`
	Locale    string      `json:"locale,omitempty"` // BCP 47; "" is the default
	Link      string      `json:"link,omitempty"`   // below PUBLIC_URL
	Code      string      `json:"code,omitempty"`
	ExpiresAt time.Time   `json:"expiresAt,omitzero"` // of the link, or of the code if there is no link; the mail is not sent later
	// CodeExpiresAt is when the code expires, if that is before the link expires.
	CodeExpiresAt time.Time       `json:"codeExpiresAt,omitzero"`
	Address       string          `json:"address,omitempty"` // the new address of the account
	Client        auth.ClientInfo `json:"client,omitzero"`   // sender of the request that caused the mail
	Device        string          `json:"device,omitempty"`  // the client in words, as in "Firefox on Linux"
	At            time.Time       `json:"at"`                // time of that request
}

// MailRequested is the data of mail.requested: a sealed Mail, since a copy of the database or of the
// stream must not grant access. UserID is 0 for a registration. In the outbox, the Mail is sealed with the
// key of the database's other secrets; in the stream, it is sealed by SealMail.
type MailRequested struct {
	UserID auth.UserID `json:"userId"`
	Sealed []byte      `json:"sealed"`
}

// Type returns MailType.
func (MailRequested) Type() string { return MailType }

// Subject returns the id of the user.
func (d MailRequested) Subject() string { return fmt.Sprint(d.UserID) }

// ErrMailSealed means that no given key opens the mail.
var ErrMailSealed = errors.New("sealed with another mail key, or damaged")

// SealMail seals the data of e, a Mail in JSON, for the stream AUTH_MAIL and returns the resulting
// mail.requested. It uses AES-256-GCM under a key of 32 bytes and puts the nonce of 12 bytes before the
// ciphertext. The additional data is "mail.requested/" and the id of the event, so the mail opens in no
// other message.
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

// OpenMail returns the Mail of an event from the stream AUTH_MAIL. The keys are the output of "authd keys
// mail-key", in any order. If none of them opens the mail, it returns ErrMailSealed and a Mail that
// holds only the UserID. Versions that did not seal mails in the stream wrote plaintext, which needs no key.
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

// mailBinding returns the additional data of a sealed mail.
func mailBinding(e Event) []byte { return []byte(MailType + "/" + e.ID) }
