// Package handlers implements the service: one method for each subject, independent of the transport, on top
// of package persistence.
//
// A login, for example, works as follows. The rate limiter counts the attempt (see package ratelimit) and
// refuses it after too many. The service normalizes the address and reads the stored password; for an unknown
// address it uses a dummy that costs the same. It compares the password outside of any transaction, since
// hashing is slow by design. Then one transaction checks that the stored password has not changed, stores a
// new session and takes the count back. The tokens are made from the session: the access token, which
// every holder of the public keys can verify, and the refresh token, which names the session and its
// generation and is not stored.
//
// A refresh advances the session from its generation to the next in one conditional update.
// A client that presents the immediate predecessor within the grace window (a second tab, or a retry after
// a lost reply) receives the same successor, since the token is derived from the row. Any other
// spent token means that the client or an attacker holds a stolen token: the session ends for both.
//
// An operation that needs the owner's mailbox (email.go, recovery.go, logincode.go) has two steps: a request
// names any address, and a second request presents the link or code of the mail (onetime.go). The mail is an
// event, committed together with its cause. No reply reveals whether an address receives a mail.
//
// Each rule is implemented here once. The package imports neither HTTP nor the bus; it returns the root
// package's types and errors.
package handlers

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// newID returns an id that cannot be guessed: 48 bits of time in milliseconds, so that new rows are adjacent
// in the index, followed by 128 random bits. It has 36 lower-case letters and digits and sorts by time.
func newID(now time.Time) string {
	var id [22]byte
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(now.UnixMilli()))
	copy(id[:], millis[2:])
	rand.Read(id[6:]) // never fails
	return strings.ToLower(idEncoding.EncodeToString(id[:]))
}

// sessionIDLength is the length of an id of newID, in characters.
const sessionIDLength = 36

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)
