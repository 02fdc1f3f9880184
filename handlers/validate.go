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

// Bounds of request members other than addresses and passwords.
const (
	maxNameLength = 200 // code points
	maxAgentBytes = 512 // the rest is cut off

	maxLocaleBytes = 35 // RFC 5646 §4.4.1
)

// Reasons to reject a member.
const (
	reasonRequired = "required"
	reasonInvalid  = "invalid"
	reasonTooLong  = "too_long"
)

// checkName returns why a name is rejected, or "".
func checkName(name string) string {
	switch {
	case utf8.RuneCountInString(name) > maxNameLength:
		return reasonTooLong
	case strings.ContainsFunc(name, unicode.IsControl):
		return reasonInvalid
	}
	return ""
}

// checkLocale returns why a language tag is rejected, or "". It checks only the form (RFC 5646 §2.1):
// another service may have templates for a language that is unknown here.
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

// source is the client that requests a session's tokens, and the carrier of the tokens.
type source struct {
	client  auth.ClientInfo
	carrier auth.Carrier
}

// origin returns the source of a request; the default carrier is auth.CarrierBody. It returns an
// auth.ErrInvalid error that names the invalid members.
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

// client returns the normalized client that a request names, and the invalid members.
// For nil it returns an empty client.
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

// cut drops the control characters of a user agent, which must not reach a log or a terminal, and truncates
// it to maxAgentBytes without splitting a character.
func cut(agent string) string {
	agent = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, agent)
	return truncate(agent, maxAgentBytes)
}

// truncate shortens a text to at most n bytes, without splitting a character.
func truncate(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// checkAddress parses an address of a request. It returns an auth.ErrInvalid error that names the member.
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
