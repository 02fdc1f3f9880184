// Package secret holds the master secret and the secrets derived from it.
//
// The master secret has 32 bytes. Every other secret is derived from it by HKDF-SHA-256
// (RFC 5869) with a separate label, so that no derived secret reveals another. During a
// rotation of the master secret there are two: the first derives and seals everything new, the
// second still opens values sealed with it.
package secret

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Size is the length of a master secret in bytes.
const Size = 32

// Label names the purpose of a derived secret.
type Label string

// The purposes of derived secrets. A released label never changes.
const (
	LabelID      Label = "zyotra/auth/v1/id"
	LabelPepper  Label = "zyotra/auth/v1/pepper"
	LabelRefresh Label = "zyotra/auth/v1/refresh"
	LabelLimits  Label = "zyotra/auth/v1/limits"
	LabelOneTime Label = "zyotra/auth/v1/one-time"
	LabelMail    Label = "zyotra/auth/v1/mail"
	labelSeal    Label = "zyotra/auth/v1/seal"
)

// ErrSealed means that none of the keys opens a sealed value.
var ErrSealed = errors.New("sealed with another SECRET_KEY, or damaged")

// Key is one master secret.
type Key struct {
	ID  string // identifies the key without revealing it: 8 hex digits
	raw []byte
}

// Keys are the master secrets in use, the current one first. There are one or two.
type Keys []Key

// Generate returns the text of a new master secret, as Parse reads it.
func Generate() string {
	raw := make([]byte, Size)
	rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// Parse reads one or two master secrets: base64 (standard alphabet, padded) of 32 bytes
// each, comma-separated, the current one first. It ignores a leading byte order mark. It returns an error for
// a secret that is guessable, for more than two, and for two equal ones. Errors never contain the secret.
func Parse(text string) (Keys, error) {
	var keys Keys
	for part := range strings.SplitSeq(strings.TrimSpace(strings.TrimPrefix(text, "\ufeff")), ",") {
		raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(part))
		if err != nil || len(raw) != Size {
			return nil, fmt.Errorf("is not base64 of %d bytes", Size)
		}
		if Guessable(raw) {
			return nil, errors.New("is published, or not random")
		}
		keys = append(keys, Key{ID: hex.EncodeToString(derive(raw, LabelID, 4)), raw: raw})
	}
	switch {
	case len(keys) > 2:
		return nil, errors.New("holds more than two values")
	case len(keys) == 2 && keys[0].ID == keys[1].ID:
		return nil, errors.New("holds the same value twice")
	}
	return keys, nil
}

// Derive returns the 32-byte secret of the label.
func (k Key) Derive(label Label) []byte { return derive(k.raw, label, Size) }

// DeriveShared returns the 32-byte secret of the label that all instances with these keys share,
// regardless of the order of the keys in their settings.
func (ks Keys) DeriveShared(label Label) []byte {
	return slices.MinFunc([][]byte{ks[0].Derive(label), ks[len(ks)-1].Derive(label)}, bytes.Compare)
}

func derive(raw []byte, label Label, size int) []byte {
	out, err := hkdf.Key(sha256.New, raw, nil, string(label), size)
	if err != nil {
		panic(err) // only for sizes beyond 255 hashes
	}
	return out
}

// Seal encrypts plain with the current key by AES-256-GCM and binds it to its row:
// Open fails for another row.
func (ks Keys) Seal(plain []byte, row string) ([]byte, error) {
	aead, err := ks[0].aead()
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, []byte(row)), nil
}

// Open decrypts a value that Seal returned for the row with any of the keys. It returns ErrSealed if
// no key opens it.
func (ks Keys) Open(sealed []byte, row string) ([]byte, error) {
	for _, k := range ks {
		aead, err := k.aead()
		if err != nil {
			return nil, err
		}
		if plain, err := aead.Open(nil, nil, sealed, []byte(row)); err == nil {
			return plain, nil
		}
	}
	return nil, ErrSealed
}

// DeriveAll returns the 32-byte secrets of the label, one for each key, the current key's first.
func (ks Keys) DeriveAll(label Label) (secrets [][]byte) {
	for _, k := range ks {
		secrets = append(secrets, k.Derive(label))
	}
	return secrets
}

func (k Key) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.Derive(labelSeal))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
