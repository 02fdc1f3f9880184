package password

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/scrypt"
)

// Bounds of what others stored. The upper ones keep an import from planting strings that cost
// more than a second or so of a core, or 128 MiB; the lower ones are the algorithms' own
// or those of their RFC.
const (
	minSaltBytes, maxSaltBytes = 8, 64
	minKeyBytes, maxKeyBytes   = 16, 64
	maxLanes                   = 16        // p; more of them do not make it cost more
	maxMemory                  = 128 << 10 // KiB at once
	maxArgon2Passes            = 10
	maxArgon2Work              = 512 << 10 // KiB written over all passes
	minScryptLogN              = 10
	maxScryptWork              = 256 << 10 // KiB written for all p
	minPBKDF2Iterations        = 1_000     // RFC 8018 §4.2
	maxPBKDF2Work              = 2_000_000 // iterations, for each block of output
)

// derived is a stored string whose scheme derives a key from the password as it was typed. It
// has been read, and its cost is within bounds.
type derived struct {
	salt, key []byte
	derive    derivation
}

// derivation makes a key of so many bytes.
type derivation func(password string, salt []byte, length int) ([]byte, error)

// readDerived reads the strings of argon2id, scrypt and PBKDF2:
//
//	$argon2id$v=19$m=65536,t=3,p=4$<salt>$<key>
//	$scrypt$ln=16,r=8,p=1$<salt>$<key>
//	$pbkdf2-sha256$i=600000$<salt>$<key>           i=600000,l=32, too, where l is the key's length
//	$pbkdf2-sha256$29000$<salt>$<key>              as passlib writes it; also with sha512
//
// That is the PHC string format: salt and key are base64 without padding, parameters stand in
// this order. Passlib has a base64 of its own, with . for +. Each string has one spelling. It
// returns ErrStored for everything else, and for costs out of bounds.
//
// https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
// https://passlib.readthedocs.io/en/stable/lib/passlib.hash.pbkdf2_digest.html
func readDerived(stored string) (derived, error) {
	const most = 6 // parts, of which the first is empty
	part := strings.SplitN(stored, "$", most+1)
	if part[0] != "" || len(part) < most-1 {
		return derived{}, fmt.Errorf("%w: unknown scheme", ErrStored)
	}
	scheme, rest := part[1], part[2:]
	switch {
	case scheme == "argon2id" && len(rest) == 4 && rest[0] == "v=19":
		return readArgon2id(rest[1], rest[2], rest[3])
	case scheme == "scrypt" && len(rest) == 3:
		return readScrypt(rest[0], rest[1], rest[2])
	case scheme == "pbkdf2-sha256" && len(rest) == 3:
		return readPBKDF2(sha256.New, sha256.Size, rest[0], rest[1], rest[2])
	case scheme == "pbkdf2-sha512" && len(rest) == 3:
		return readPBKDF2(sha512.New, sha512.Size, rest[0], rest[1], rest[2])
	}
	return derived{}, fmt.Errorf("%w: unknown scheme", ErrStored)
}

func readArgon2id(parameters, salt, key string) (derived, error) {
	n, err := numbers(parameters, "m=", "t=", "p=")
	if err != nil {
		return derived{}, err
	}
	memory, passes, lanes := n[0], n[1], n[2]
	if lanes > maxLanes || memory < 8*lanes || memory > maxMemory || passes > maxArgon2Passes || memory*passes > maxArgon2Work {
		return derived{}, errCost
	}
	return newDerived(base64.RawStdEncoding, salt, key, func(password string, salt []byte, length int) ([]byte, error) {
		return argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(lanes), uint32(length)), nil
	})
}

func readScrypt(parameters, salt, key string) (derived, error) {
	n, err := numbers(parameters, "ln=", "r=", "p=")
	if err != nil {
		return derived{}, err
	}
	logN, r, lanes := n[0], n[1], n[2]
	if logN < minScryptLogN || r > maxMemory*8>>logN || lanes > maxLanes {
		return derived{}, errCost
	}
	if memory := r << logN / 8; memory*lanes > maxScryptWork { // KiB: 128 bytes for each of N times r
		return derived{}, errCost
	}
	return newDerived(base64.RawStdEncoding, salt, key, func(password string, salt []byte, length int) ([]byte, error) {
		return scrypt.Key([]byte(password), salt, 1<<logN, r, lanes, length)
	})
}

// passlibBase64 is what passlib calls ab64.
var passlibBase64 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./").WithPadding(base64.NoPadding)

func readPBKDF2(digest func() hash.Hash, size int, parameters, salt, key string) (derived, error) {
	encoding := base64.RawStdEncoding
	if !strings.HasPrefix(parameters, "i=") {
		encoding, parameters = passlibBase64, "i="+parameters
	}
	parameters, length, hasLength := strings.Cut(parameters, ",")
	n, err := numbers(parameters, "i=")
	if err != nil {
		return derived{}, err
	}
	iterations := n[0]
	d, err := newDerived(encoding, salt, key, func(password string, salt []byte, length int) ([]byte, error) {
		return pbkdf2.Key(digest, password, salt, iterations, length)
	})
	if err != nil {
		return derived{}, err
	}
	if hasLength && (encoding == passlibBase64 || length != fmt.Sprintf("l=%d", len(d.key))) {
		return derived{}, errMalformed
	}
	blocks := (len(d.key) + size - 1) / size
	if iterations < minPBKDF2Iterations || iterations > maxPBKDF2Work/blocks {
		return derived{}, errCost
	}
	return d, nil
}

var (
	errCost      = fmt.Errorf("%w: cost out of bounds", ErrStored)
	errMalformed = fmt.Errorf("%w: malformed", ErrStored)
)

func newDerived(encoding *base64.Encoding, salt, key string, derive derivation) (d derived, err error) {
	if d.salt, err = decode(encoding, salt, minSaltBytes, maxSaltBytes); err != nil {
		return derived{}, err
	}
	if d.key, err = decode(encoding, key, minKeyBytes, maxKeyBytes); err != nil {
		return derived{}, err
	}
	d.derive = derive
	return d, nil
}

// decode reads base64 in its only spelling: the decoder itself passes over line ends and
// unused bits.
func decode(encoding *base64.Encoding, text string, low, high int) ([]byte, error) {
	if len(text) < encoding.EncodedLen(low) || len(text) > encoding.EncodedLen(high) {
		return nil, errMalformed
	}
	b, err := encoding.DecodeString(text)
	if err != nil || encoding.EncodeToString(b) != text {
		return nil, errMalformed
	}
	return b, nil
}

// numbers reads parameters as in m=65536,t=3,p=4: positive decimals below 2³¹, all of the names
// in this order, without signs or leading zeros.
func numbers(text string, names ...string) ([]int, error) {
	fields := strings.SplitN(text, ",", len(names)+1)
	if len(fields) != len(names) {
		return nil, errMalformed
	}
	values := make([]int, len(names))
	for i, field := range fields {
		digits, named := strings.CutPrefix(field, names[i])
		n, err := strconv.ParseUint(digits, 10, 31)
		if !named || err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
			return nil, errMalformed
		}
		values[i] = int(n)
	}
	return values, nil
}

// matches tells whether the key was derived from the password.
func (d derived) matches(password string) (bool, error) {
	key, err := d.derive(password, d.salt, len(d.key))
	if err != nil {
		return false, fmt.Errorf("derive key: %w", err)
	}
	return subtle.ConstantTimeCompare(key, d.key) == 1, nil
}

// isBcrypt tells whether a stored string is one of ours or says that it is plain bcrypt.
func isBcrypt(stored string) bool {
	return strings.HasPrefix(stored, scheme) || strings.HasPrefix(stored, "$2")
}

// CheckStored returns ErrStored unless Compare would understand the string as other services
// store it: plain bcrypt, argon2id, scrypt or PBKDF2, of bounded cost. Strings that Hash made
// are refused: outside of this service nobody has any.
func CheckStored(stored string) error {
	if !strings.HasPrefix(stored, "$2") {
		_, err := readDerived(stored)
		return err
	}
	if _, err := costOf(stored); err != nil {
		return err
	}
	if strings.Trim(stored[7:], alphabet) != "" {
		return fmt.Errorf("%w: not bcrypt's alphabet", ErrStored)
	}
	return nil
}
