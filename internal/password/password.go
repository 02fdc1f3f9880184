// Package password turns passwords into what may be stored, and compares.
//
// A password is taken as Unicode: valid UTF-8 without control characters, with every space as an
// ordinary one, in composed form (NFC), and otherwise left as it is (RFC 8265 §4.2.2). So
// canonically equivalent spellings are one password. It is then keyed
// with the pepper, which is not in the database (HMAC-SHA-256), written in base64 and
// given to bcrypt. So every byte counts, though bcrypt reads only 72 and stops at a NUL,
// and a copy of the database alone cannot be guessed against.
//
// The stored string names the scheme and the pepper:
//
//	$bcrypt-hmac-sha256$<pepper id>$2a$10$<salt and hash>
//
// Plain bcrypt strings, as the service's ancestor and imports bring them, verify too, and so
// do those of argon2id, scrypt and PBKDF2; Compare says when a string should be replaced by a
// fresh one.
//
// A new password must not be one of the commonest, nor little more than its owner's address
// or the service's name; if asked for, nor one that Pwned Passwords knows. There are no rules of composition, and nothing expires.
package password

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"

	"github.com/zyotra/auth/internal/secret"
)

// Bounds. A password of 64 code points in any script is always taken.
const (
	MinLength     = 8   // code points; the setting cannot go below
	MaxLength     = 256 // code points, before and after normalisation
	MinCost       = 10
	MaxCost       = 15
	maxPlainBytes = 72 // what bcrypt reads of a password that was not keyed first
)

// Reasons for which a password is not taken.
const (
	ReasonTooShort   = "too_short"
	ReasonTooLong    = "too_long"
	ReasonNotUnicode = "not_unicode" // invalid UTF-8 or control characters
	ReasonTooCommon  = "too_common"
	ReasonContext    = "contains_context" // little more than the owner's words or the service's name
)

// scheme begins the strings that Hash makes.
const scheme = "$bcrypt-hmac-sha256$"

// ErrStored means that a stored string is none of ours: an unknown scheme or pepper, or a
// cost out of bounds. It is the service's fault, not the user's.
var ErrStored = errors.New("stored password not understood")

// Hasher hashes and compares. Make it with New.
type Hasher struct {
	Peppers   []Pepper // the first keys new strings
	Cost      int      // bcrypt's cost, MinCost to MaxCost; the work doubles with each
	MinLength int      // code points
	Pool      *Pool    // where hashes wait for their turn; nil hashes at once
	Pwned     *Pwned   // knows passwords that became known; nil is not asked
	blocked   blocklist

	dummies [MaxCost + 1]string // by cost, matching nothing; see level.go
	worked  func(cost int)      // receives the cost of each bcrypt comparison, for tests; nil is none
}

// Pepper keys passwords before they are hashed.
type Pepper struct {
	ID  string
	Key []byte
}

// Peppers derives the peppers of the master secrets.
func Peppers(keys secret.Keys) (peppers []Pepper) {
	for _, k := range keys {
		peppers = append(peppers, Pepper{ID: k.ID, Key: k.Derive(secret.LabelPepper)})
	}
	return peppers
}

// New makes a Hasher. names are what the service is called, which makes a poor password
// there.
func New(peppers []Pepper, cost, minLength int, names ...string) (*Hasher, error) {
	h := &Hasher{Peppers: peppers, Cost: cost, MinLength: minLength, blocked: newBlocklist(names)}
	for c := bcrypt.MinCost; c <= MaxCost; c++ {
		h.dummies[c] = dummy(c)
	}
	return h, nil
}

// alphabet is bcrypt's base64.
const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// dummy is a well-formed bcrypt string that no password is known for.
func dummy(cost int) string {
	var random [53]byte
	rand.Read(random[:]) // never fails
	for i, b := range random {
		random[i] = alphabet[b%64]
	}
	random[21] = '.' // the last digit of the salt has four unused bits, that of the hash two
	random[52] = '.'
	return fmt.Sprintf("$2a$%02d$%s", cost, random[:])
}

// Check returns why a new password is not taken, or "". own are the owner's words: address,
// name and the like. With Pwned it may wait for that for a second, so it has no place in
// a transaction.
func (h *Hasher) Check(ctx context.Context, password string, own ...string) string {
	if utf8.RuneCountInString(password) > MaxLength {
		return ReasonTooLong
	}
	if !isText(password) {
		return ReasonNotUnicode
	}
	switch n := utf8.RuneCountInString(norm.NFC.String(password)); {
	case n < h.MinLength:
		return ReasonTooShort
	case n > MaxLength:
		return ReasonTooLong
	}
	switch {
	case h.blocked.isCommon(password):
		return ReasonTooCommon
	case h.blocked.isContext(password, own, h.MinLength):
		return ReasonContext
	case h.Pwned != nil && h.Pwned.knows(ctx, password): // last, since it leaves the house
		return ReasonTooCommon
	}
	return ""
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Hash returns the string to store for a password that Check takes. It costs tens of
// milliseconds of one core at cost 10, doubling with each. It returns auth.ErrOverloaded if
// too many want that at once.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	var hash []byte
	var err error
	work := func() { hash, err = bcrypt.GenerateFromPassword(h.Peppers[0].digest(normalize(password)), h.Cost) }
	if err := h.Pool.Do(ctx, work); err != nil {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return scheme + h.Peppers[0].ID + string(hash), nil
}

// normalize brings a password into the form that is hashed: spaces that are not ASCII become
// ordinary ones, then NFC.
func normalize(password string) string {
	if isASCII(password) {
		return password
	}
	return norm.NFC.String(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Zs, r) {
			return ' '
		}
		return r
	}, password))
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// spellings are the forms in which a password may have been hashed: normalized, and in NFC alone,
// as it was before spaces were mapped. They differ only if it has a space that is not ASCII.
func spellings(password string) []string {
	now, former := normalize(password), norm.NFC.String(password)
	if now == former {
		return []string{now}
	}
	return []string{now, former}
}

// digest is 44 bytes of base64, without NULs, that differ wherever normalized passwords differ.
func (p Pepper) digest(normalized string) []byte {
	mac := hmac.New(sha256.New, p.Key)
	mac.Write([]byte(normalized))
	return base64.StdEncoding.AppendEncode(nil, mac.Sum(nil))
}

// Result is what Compare found.
type Result struct {
	Match bool
	Stale bool // matches, but ought to be stored afresh: other scheme, pepper or cost
}

// Compare reports whether stored was made from password. An empty stored string, as for an
// unknown address or an account without a password, matches nothing, and neither does a
// password that could never be stored. Every comparison does the work of the current
// cost, also if it matches, and for strings of a lower cost or another scheme (see level.go). It
// returns ErrStored for strings it does not understand, and auth.ErrOverloaded if too many
// compare at once.
func (h *Hasher) Compare(ctx context.Context, stored, password string) (found Result, err error) {
	matches, current, err := h.comparison(stored, password)
	if err != nil {
		return Result{}, err
	}
	if refused := h.Pool.Do(ctx, func() { found.Match, err = matches() }); refused != nil {
		return Result{}, refused
	}
	found.Stale = found.Match && !current
	return found, err
}

// comparison returns the work of a comparison, and whether the stored string is of the current
// scheme, pepper and cost.
func (h *Hasher) comparison(stored, password string) (matches func() (bool, error), current bool, err error) {
	forms := spellings(password)
	mismatch := func() (bool, error) { return h.mismatch(len(forms)), nil }
	if stored == "" || utf8.RuneCountInString(password) > MaxLength || !isText(password) {
		return mismatch, false, nil
	}
	if !isBcrypt(stored) {
		d, err := readDerived(stored)
		return func() (bool, error) { return h.compareDerived(d, password, len(forms)) }, false, err
	}
	hash, inputs, err := h.open(stored, password, forms)
	if err != nil {
		return nil, false, err
	}
	if len(inputs[0]) > maxPlainBytes {
		return mismatch, false, nil // bcrypt would pass over the rest
	}
	cost, err := costOf(hash)
	if err != nil {
		return nil, false, err
	}
	// Of two forms the former one may be the one that matches, which is then replaced.
	current = strings.HasPrefix(stored, scheme+h.Peppers[0].ID+"$") && cost == h.Cost && len(forms) == 1
	return func() (bool, error) { return h.compareBcrypt(hash, inputs, cost), nil }, current, nil
}

// open splits a stored string into the bcrypt string and the inputs that bcrypt is to be given, one
// for each form of the password.
func (h *Hasher) open(stored, password string, forms []string) (hash string, inputs [][]byte, err error) {
	rest, ours := strings.CutPrefix(stored, scheme)
	if !ours {
		return stored, slices.Repeat([][]byte{[]byte(password)}, len(forms)), nil
	}
	id, hash, _ := strings.Cut(rest, "$")
	for _, p := range h.Peppers {
		if p.ID == id {
			for _, form := range forms {
				inputs = append(inputs, p.digest(form))
			}
			return "$" + hash, inputs, nil
		}
	}
	return "", nil, fmt.Errorf("%w: keyed with an unknown SECRET_KEY", ErrStored)
}

// costOf checks the form $2a$10$ and 53 characters, which bcrypt itself reads loosely, and
// the cost, which could otherwise occupy a core for days.
func costOf(hash string) (int, error) {
	if len(hash) != 60 || hash[0] != '$' || hash[3] != '$' || hash[6] != '$' {
		return 0, fmt.Errorf("%w: not bcrypt", ErrStored)
	}
	switch hash[1:3] {
	case "2a", "2b", "2y":
	default:
		return 0, fmt.Errorf("%w: unknown kind of bcrypt", ErrStored)
	}
	cost, err := strconv.ParseUint(hash[4:6], 10, 8)
	if err != nil || cost < uint64(bcrypt.MinCost) || cost > MaxCost {
		return 0, fmt.Errorf("%w: cost out of bounds", ErrStored)
	}
	return int(cost), nil
}
