// Package email reads addresses and says when two are one mailbox.
//
// An address is compared by Unicode's full case folding in composed form (NFC), with its domain
// in ASCII form (RFC 5891). Nothing that merely looks like an address ever equals it: a character
// that would turn into an ASCII letter on the way, such as the Kelvin sign, is refused, and ß
// stays ß. So are characters that nobody sees. Sub-addresses (a+b@…) stay distinct.
package email

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
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
	key := fold(local)
	// In every form: I and a dot above it make İ, and ẛ is made of a long s.
	if becomesASCII(text[:at]) || becomesASCII(local) || becomesASCII(norm.NFD.String(local)) || !isDotAtom(local) || max(len(local), len(key)) > maxLocalBytes {
		return Address{}, ErrInvalid
	}
	domain, ok := asciiDomain(text[at+1:])
	if !ok || max(len(local), len(key))+1+len(domain) > MaxBytes {
		return Address{}, ErrInvalid
	}
	return Address{Display: local + "@" + domain, Key: key + "@" + domain}, nil
}

// ParseOrZero returns the address of a text, or the zero Address, which no account has, for an invalid
// one. So a request for an invalid address takes as long as one for an unknown address.
func ParseOrZero(text string) Address {
	address, err := Parse(text)
	if err != nil {
		return Address{}
	}
	return address
}

// fold writes the local part as it is compared: canonical caseless matching (Unicode §3.13,
// D145), in composed form. ß is not folded to the ASCII letters ss, which would make straße@ the
// same as strasse@; its capital becomes ß.
func fold(local string) string {
	var out strings.Builder
	for _, r := range norm.NFD.String(local) {
		out.WriteString(foldRune(r))
	}
	return norm.NFC.String(out.String())
}

func foldRune(r rune) string {
	switch {
	case r == 'ß' || r == 'ẞ':
		return "ß"
	case unicode.Is(unicode.Cherokee, r): // folds to capitals, which package cases gets wrong
		return string(unicode.ToUpper(r))
	}
	return cases.Fold().String(string(r))
}

// becomesASCII reports whether a character that is not ASCII would become, or begin with, one
// that is: then a look-alike would equal somebody else's address.
func becomesASCII(text string) bool {
	for _, r := range text {
		if r < utf8.RuneSelf {
			continue
		}
		for _, form := range []string{norm.NFC.String(string(r)), norm.NFC.String(foldRune(r))} {
			if strings.ContainsFunc(form, func(r rune) bool { return r < utf8.RuneSelf }) {
				return true
			}
		}
	}
	return false
}

// isDotAtom tells whether s is atoms joined by single dots.
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtomText) {
			return false
		}
	}
	return true
}

// notAtomText is what RFC 5322 keeps out of an atom and, beyond ASCII, what nobody sees: only
// letters, marks, numbers, punctuation and symbols are taken, and of those no character that is
// ignored in display (Default_Ignorable_Code_Point) or blank.
func notAtomText(r rune) bool {
	if r < utf8.RuneSelf {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
	}
	return r == utf8.RuneError || r == brailleBlank || !unicode.IsGraphic(r) || unicode.IsSpace(r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// brailleBlank is a symbol without dots.
const brailleBlank = '\u2800'

// domains is IDNA2008 for registration: it maps nothing, so that what does not already
// read as the domain is not turned into it.
var domains = idna.New(idna.ValidateForRegistration(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// Unicode is an address with its domain as people write it (RFC 5890 §2.3.2.1). An address whose
// domain is none stays as it is.
func Unicode(address string) string {
	local, domain, _ := strings.Cut(address, "@")
	written, err := domains.ToUnicode(domain)
	if err != nil {
		return address
	}
	return local + "@" + written
}

// asciiDomain lowers the domain: DNS has no folding, and ς and σ are names of their own there.
func asciiDomain(text string) (string, bool) {
	if becomesASCII(text) {
		return "", false
	}
	domain, err := domains.ToASCII(norm.NFC.String(strings.ToLower(text)))
	if err != nil {
		return "", false
	}
	top := domain[strings.LastIndexByte(domain, '.')+1:]
	numeric := strings.Trim(top, "0123456789") == ""
	return domain, len(top) < len(domain) && !numeric
}
