// Package email reads addresses and says when two are one mailbox.
//
// An address is compared without regard to letter case, in Unicode's composed form (NFC),
// with its domain in ASCII form (RFC 5891). Nothing that merely looks like an address
// ever equals it: a character that would turn into an ASCII letter on the way, such as
// the Kelvin sign, is refused. Sub-addresses (a+b@…) stay distinct.
package email

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// MaxBytes is the longest address that mail can be sent to: RFC 5321 §4.5.3.1.3 less the
// angle brackets.
const MaxBytes = 254

// maxLocalBytes is the longest part before the @ (RFC 5321 §4.5.3.1.1).
const maxLocalBytes = 64

// ErrInvalid means that the text is not an address this service takes.
var ErrInvalid = errors.New("not a mail address")

// Address is an address in the two forms the service keeps.
type Address struct {
	Display string // as given, in NFC and with the domain in ASCII form: where mail is sent
	Key     string // what is compared, and unique
}

// Parse reads an address: a dot-atom (RFC 5322 §3.2.3, with the characters of RFC 6531), an
// @ and a domain of at least two labels. Quoted local parts, comments and address literals
// are not taken. It returns ErrInvalid for anything else.
func Parse(text string) (Address, error) {
	if len(text) > MaxBytes || !utf8.ValidString(text) {
		return Address{}, ErrInvalid
	}
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return Address{}, ErrInvalid
	}
	local := norm.NFC.String(text[:at])
	_, asTyped := lower(text[:at])
	key, ok := lower(local) // composed, as it is stored: I and a dot above it make İ
	if !asTyped || !ok || !isDotAtom(local) || max(len(local), len(key)) > maxLocalBytes {
		return Address{}, ErrInvalid
	}
	domain, ok := asciiDomain(text[at+1:])
	if !ok || max(len(local), len(key))+1+len(domain) > MaxBytes {
		return Address{}, ErrInvalid
	}
	return Address{Display: local + "@" + domain, Key: key + "@" + domain}, nil
}

// lower folds case and composes, rune by rune. It refuses what would become ASCII without
// being it: then a look-alike would equal somebody else's address.
func lower(text string) (string, bool) {
	var out strings.Builder
	for _, r := range text {
		low := unicode.ToLower(r)
		if r >= utf8.RuneSelf && (low < utf8.RuneSelf || startsASCII(norm.NFC.String(string(r)))) {
			return "", false
		}
		out.WriteRune(low)
	}
	return norm.NFC.String(out.String()), true
}

func startsASCII(s string) bool { return s != "" && s[0] < utf8.RuneSelf }

// isDotAtom tells whether s is atoms joined by single dots.
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtomText) {
			return false
		}
	}
	return true
}

// notAtomText is what RFC 5322 keeps out of an atom and, beyond ASCII, what nobody sees:
// only letters, marks, numbers, punctuation and symbols are taken.
func notAtomText(r rune) bool {
	if r < utf8.RuneSelf {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
	}
	return r == utf8.RuneError || !unicode.IsGraphic(r) || unicode.IsSpace(r)
}

// domains is IDNA2008 for registration: it maps nothing, so that what does not already
// read as the domain is not turned into it.
var domains = idna.New(idna.ValidateForRegistration(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

func asciiDomain(text string) (string, bool) {
	low, ok := lower(text)
	if !ok {
		return "", false
	}
	domain, err := domains.ToASCII(low)
	if err != nil {
		return "", false
	}
	top := domain[strings.LastIndexByte(domain, '.')+1:]
	numeric := strings.Trim(top, "0123456789") == ""
	return domain, len(top) < len(domain) && !numeric
}
