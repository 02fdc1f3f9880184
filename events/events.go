// Package events publishes changes of accounts and sessions to other services.
//
// The transaction that makes a change also writes its event into the database (the
// outbox). A Relay publishes the events from the outbox to the stream AUTH_EVENTS of NATS JetStream:
//
//	user.registered user.updated user.password_changed
//	user.email_verified user.email_changed
//	user.disabled user.enabled user.locked user.deleted
//	session.created session.revoked
//	key.rotated
//
// Guarantee: an event exists if and only if its change was committed. It is published at
// least once, in order for each user; the stream drops repeats within half an hour. So a
// receiver stores the ids of the events that it has handled, together with its results, and
// skips events with a known id.
//
// A service that must not miss an event gives Subscribe a function for each event type that it
// handles. The stream stores the position of the service, so events wait up to thirty days
// while the service is unreachable. A failed event is retried with increasing back-off and holds
// up the events behind it. After ten attempts, or immediately if it is unreadable, it becomes a
// DeadLetter and the next event follows.
//
// An event travels as CloudEvents 1.0 in binary mode (NATS protocol binding §3.1): its
// attributes are headers, its data is JSON in the body. The subject is the type; the CloudEvents
// subject is the id of the user, or of the key.
//
// Mails travel the same way, by the stream AUTH_MAIL, but other services must not receive them: see
// Mail and docs/mail.md.
//
// Other services import this package; it links neither a database nor the NATS server.
package events

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// Source is ce-source of every event. It identifies the publisher.
const Source = "/zyotra/auth"

// Event is a change of an account, a session or a key, in the form that is stored and published.
type Event struct {
	ID      string          `json:"id"`      // UUIDv7, generated with the change
	Type    string          `json:"type"`    // as in "user.registered"
	Subject string          `json:"subject"` // the user's id, or the key's
	Time    time.Time       `json:"time"`
	Data    json.RawMessage `json:"data"` // a Data of the type
	Trace   string          `json:"-"`    // traceparent of the request that made the change (W3C Trace Context), or empty
}

// Data is the data of an event. It determines the event's type and subject.
type Data interface {
	Type() string
	Subject() string
}

// UserRegistered is the data of user.registered.
type UserRegistered struct {
	UserID    auth.UserID `json:"userId"`
	Email     string      `json:"email"`
	Name      string      `json:"name"`
	CreatedAt time.Time   `json:"createdAt"`
}

// UserUpdated is the data of user.updated: the current values of the members that can change.
type UserUpdated struct {
	UserID    auth.UserID `json:"userId"`
	Name      string      `json:"name"`
	Locale    string      `json:"locale,omitempty"` // BCP 47
	UpdatedAt time.Time   `json:"updatedAt"`
}

// UserPasswordChanged is the data of user.password_changed.
type UserPasswordChanged struct {
	UserID    auth.UserID `json:"userId"`
	ChangedAt time.Time   `json:"changedAt"`
}

// UserEmailVerified is the data of user.email_verified: mail to the address reaches the user.
type UserEmailVerified struct {
	UserID     auth.UserID `json:"userId"`
	Email      string      `json:"email"`
	VerifiedAt time.Time   `json:"verifiedAt"`
}

// UserEmailChanged is the data of user.email_changed: the user has a new, verified address.
type UserEmailChanged struct {
	UserID    auth.UserID `json:"userId"`
	Email     string      `json:"email"`
	ChangedAt time.Time   `json:"changedAt"`
}

// UserDisabled is the data of user.disabled: logins of this user are refused.
type UserDisabled struct {
	UserID     auth.UserID `json:"userId"`
	DisabledAt time.Time   `json:"disabledAt"`
}

// UserEnabled is the data of user.enabled.
type UserEnabled struct {
	UserID    auth.UserID `json:"userId"`
	EnabledAt time.Time   `json:"enabledAt"`
}

// UserLocked is the data of user.locked: attempts at a password or a code, from one source or from all
// sources, have reached the limit, and the next attempt has to wait.
type UserLocked struct {
	UserID auth.UserID     `json:"userId"`
	Until  time.Time       `json:"until"`           // when the next attempt is allowed
	Client auth.ClientInfo `json:"client,omitzero"` // sender of the last attempt, if known
}

// UserDeleted is the data of user.deleted.
type UserDeleted struct {
	UserID    auth.UserID `json:"userId"`
	DeletedAt time.Time   `json:"deletedAt"`
}

// SessionCreated is the data of session.created.
type SessionCreated struct {
	UserID    auth.UserID     `json:"userId"`
	SessionID string          `json:"sessionId"`
	AMR       []string        `json:"amr"` // RFC 8176
	Client    auth.ClientInfo `json:"client"`
	CreatedAt time.Time       `json:"createdAt"`
	ExpiresAt time.Time       `json:"expiresAt"` // unless it is refreshed
}

// SessionRevoked is the data of session.revoked. A verifier may forget it after ExpiresAt.
type SessionRevoked struct {
	UserID    auth.UserID `json:"userId"`
	SessionID string      `json:"sessionId"`
	Reason    auth.Reason `json:"reason"`
	RevokedAt time.Time   `json:"revokedAt"`
	ExpiresAt time.Time   `json:"expiresAt"` // when its last access token expires
}

// KeyRotated is the data of key.rotated: a key joined the key set.
type KeyRotated struct {
	KeyID      string    `json:"kid"`
	ActiveFrom time.Time `json:"activeFrom"` // when the service begins to sign with it
}

func (UserRegistered) Type() string      { return "user.registered" }
func (UserUpdated) Type() string         { return "user.updated" }
func (UserPasswordChanged) Type() string { return "user.password_changed" }
func (UserEmailVerified) Type() string   { return "user.email_verified" }
func (UserEmailChanged) Type() string    { return "user.email_changed" }
func (UserDisabled) Type() string        { return "user.disabled" }
func (UserEnabled) Type() string         { return "user.enabled" }
func (UserLocked) Type() string          { return "user.locked" }
func (UserDeleted) Type() string         { return "user.deleted" }
func (SessionCreated) Type() string      { return "session.created" }
func (SessionRevoked) Type() string      { return "session.revoked" }
func (KeyRotated) Type() string          { return "key.rotated" }

func (d UserRegistered) Subject() string      { return fmt.Sprint(d.UserID) }
func (d UserUpdated) Subject() string         { return fmt.Sprint(d.UserID) }
func (d UserPasswordChanged) Subject() string { return fmt.Sprint(d.UserID) }
func (d UserEmailVerified) Subject() string   { return fmt.Sprint(d.UserID) }
func (d UserEmailChanged) Subject() string    { return fmt.Sprint(d.UserID) }
func (d UserDisabled) Subject() string        { return fmt.Sprint(d.UserID) }
func (d UserEnabled) Subject() string         { return fmt.Sprint(d.UserID) }
func (d UserLocked) Subject() string          { return fmt.Sprint(d.UserID) }
func (d UserDeleted) Subject() string         { return fmt.Sprint(d.UserID) }
func (d SessionCreated) Subject() string      { return fmt.Sprint(d.UserID) }
func (d SessionRevoked) Subject() string      { return fmt.Sprint(d.UserID) }
func (d KeyRotated) Subject() string          { return d.KeyID }

// The headers of a message (CloudEvents NATS binding §3.1.3.1). Names of NATS headers are
// case-sensitive.
const (
	headerVersion     = "ce-specversion"
	headerID          = "ce-id"
	headerSource      = "ce-source"
	headerType        = "ce-type"
	headerSubject     = "ce-subject"
	headerTime        = "ce-time"
	headerDataType    = "ce-datacontenttype"
	headerContentType = "Content-Type"

	specVersion = "1.0"
	contentType = "application/json"
)

// Message returns the NATS message that publishes e.
func (e Event) Message() *nats.Msg {
	m := nats.NewMsg(e.Type)
	m.Data = e.Data
	for name, value := range map[string]string{
		headerVersion: specVersion, headerID: e.ID, headerSource: Source, headerType: e.Type, headerSubject: e.Subject,
		headerTime: e.Time.UTC().Format(time.RFC3339Nano), headerDataType: contentType,
		headerContentType: contentType, nats.MsgIdHdr: e.ID,
	} {
		m.Header[name] = []string{value}
	}
	if e.Trace != "" {
		m.Header[trace.Header] = []string{e.Trace}
	}
	return m
}

// Parse reads an event from a message's headers and body. It returns an error if they are not an
// event.
func Parse(header nats.Header, data []byte) (Event, error) {
	at, err := time.Parse(time.RFC3339Nano, header.Get(headerTime))
	if err != nil {
		return Event{}, fmt.Errorf("%s: %w", headerTime, err)
	}
	e := Event{ID: header.Get(headerID), Type: header.Get(headerType), Subject: header.Get(headerSubject), Time: at.UTC(), Data: data, Trace: header.Get(trace.Header)}
	switch {
	case header.Get(headerVersion) != specVersion:
		return Event{}, fmt.Errorf("%s is not %s", headerVersion, specVersion)
	case e.ID == "" || e.Type == "":
		return Event{}, fmt.Errorf("%s or %s is missing", headerID, headerType)
	case !json.Valid(data):
		return Event{}, fmt.Errorf("data of %s is not JSON", e.Type)
	}
	return e, nil
}

// Decode reads an event with its data. It returns an error if the event is not of the type of T.
func Decode[T Data](header nats.Header, data []byte) (e Event, d T, err error) {
	if e, err = Parse(header, data); err != nil {
		return Event{}, d, err
	}
	if e.Type != d.Type() {
		return Event{}, d, fmt.Errorf("%s is not %s", e.Type, d.Type())
	}
	if err := json.Unmarshal(data, &d); err != nil {
		var none T
		return Event{}, none, fmt.Errorf("data of %s: %w", e.Type, err)
	}
	return e, d, nil
}
