package handlers

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/email"
)

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

// checkAddress reads an address of a request.
func checkAddress(member, text string) (email.Address, error) {
	address, err := email.Parse(text)
	switch {
	case text == "":
		return email.Address{}, auth.ErrInvalid.With(auth.Field{Field: member, Reason: reasonRequired})
	case err != nil:
		return email.Address{}, auth.ErrInvalid.With(auth.Field{Field: member, Reason: reasonInvalid})
	}
	return address, nil
}
