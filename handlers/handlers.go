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
	"errors"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"

	"github.com/zyotra/auth"
)

// Clock tells the time; the zero value is the system's. Times are UTC, cut to the
// microseconds that the databases keep.
type Clock func() time.Time

func (c Clock) now() time.Time {
	if c == nil {
		c = time.Now
	}
	return c().UTC().Truncate(time.Microsecond)
}

// Bounds of what is taken from a request, beside those of addresses and passwords.
const (
	maxNameLength = 200 // code points
	maxAgentBytes = 512 // the rest is cut off

	maxLocaleBytes = 35 // RFC 5646 §4.4.1
)

// Reasons for which a member is not taken.
const (
	reasonRequired = "required"
	reasonInvalid  = "invalid"
	reasonTooLong  = "too_long"
)

// checkName returns why a name is not taken, or "".
func checkName(name string) string {
	switch {
	case utf8.RuneCountInString(name) > maxNameLength:
		return reasonTooLong
	case strings.ContainsFunc(name, unicode.IsControl):
		return reasonInvalid
	}
	return ""
}

// checkLocale returns why a language is not taken, or "". Its form alone counts (RFC 5646 §2.1):
// a language that is not known here may have templates elsewhere.
func checkLocale(locale string) string {
	switch {
	case len(locale) > maxLocaleBytes:
		return reasonTooLong
	case locale == "":
		return ""
	}
	if _, err := language.Parse(locale); errors.As(err, new(language.ValueError)) || err == nil {
		return ""
	}
	return reasonInvalid
}

// source is where a session's tokens are asked for, and what carries them.
type source struct {
	client  auth.ClientInfo
	carrier auth.Carrier
}

// origin reads the source of a request. It returns an auth.ErrInvalid error that names the
// members at fault.
func origin(c *auth.ClientInfo, carrier auth.Carrier) (source, error) {
	kept, faults := client(c)
	switch carrier {
	case auth.CarrierBody, auth.CarrierCookie:
	case "":
		carrier = auth.CarrierBody
	default:
		faults = append(faults, auth.Field{Field: "carrier", Reason: reasonInvalid})
	}
	if faults != nil {
		return source{}, auth.ErrInvalid.With(faults...)
	}
	return source{client: kept, carrier: carrier}, nil
}

// client reads where a request says that it comes from, and returns the members at fault.
// No client is an empty one.
func client(c *auth.ClientInfo) (auth.ClientInfo, []auth.Field) {
	if c == nil {
		return auth.ClientInfo{}, nil
	}
	kept := auth.ClientInfo{UserAgent: cut(c.UserAgent)}
	if c.IP == "" {
		return kept, nil
	}
	ip, err := netip.ParseAddr(c.IP)
	if err != nil {
		return auth.ClientInfo{}, []auth.Field{{Field: "client.ip", Reason: reasonInvalid}}
	}
	kept.IP = ip.Unmap().WithZone("").String()
	return kept, nil
}

// cut shortens a user agent to what is kept, without splitting a character, and drops
// control characters, which have no business in a log or a terminal.
func cut(agent string) string {
	agent = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, agent)
	return truncate(agent, maxAgentBytes)
}

// truncate shortens a text to n bytes at most, without splitting a character.
func truncate(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

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
