// Package handlers is what the service does: one method for each subject, whatever the way
// in, over package persistence.
//
// A login, for example: the try is counted (see Limits), and goes on unless there were too many;
// the address is brought into the form that is compared, the stored password is fetched (or,
// for an unknown address, a dummy that costs the same), and the password is compared outside of
// any transaction, since that takes long on purpose. Then one transaction makes sure that the
// password is still the one that was compared, stores a new session and takes the count back. Of
// it the tokens are made: the access token, which anybody with the public keys can read, and the
// refresh token, which names the session and its generation and is kept nowhere.
//
// Refreshing moves the session from its generation to the next in one conditional update.
// Whoever presents the immediate predecessor within the grace window, as a second tab or a
// retry after a lost reply does, gets the same successor, since it is made from what the
// row keeps. Any other spent token was stolen from one side or the other: the session
// ends for both.
//
// What needs the owner's mailbox (email.go, recovery.go, logincode.go) is asked for with an
// address, whoever it belongs to, and done with what the mail to it carries (onetime.go). The
// mail is an event, committed with what it is about; who gets one shows in no answer.
//
// Rules live here once. The package knows neither HTTP nor the bus; what it returns are
// the root package's types and errors.
package handlers

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// newID makes an id that nobody can guess: 128 random bits, behind 48 bits of time in
// milliseconds so that new rows stand together in the index. It is 36 letters and digits,
// which sort as the times do.
func newID(now time.Time) string {
	var id [22]byte
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(now.UnixMilli()))
	copy(id[:], millis[2:])
	rand.Read(id[6:]) // never fails
	return strings.ToLower(idEncoding.EncodeToString(id[:]))
}

// sessionIDLength is the length of what newID makes.
const sessionIDLength = 36

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)
