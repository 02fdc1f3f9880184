package secret_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/secret"
)

func TestGuessable(t *testing.T) {
	text := "correct-Secret-of-the-orders-service"
	sequence := make([]byte, 32)
	for i := range sequence {
		sequence[i] = byte(i)
	}
	for name, value := range map[string]string{
		"hex in steps":              "00112233445566778899aabbccddeeff",
		"hex in steps, longer":      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		"bytes in steps":            string(sequence),
		"bytes in steps, base64":    base64.StdEncoding.EncodeToString(sequence),
		"digits backwards":          "98765432109876543210987654321098",
		"one letter":                strings.Repeat("a", 40),
		"few letters":               "abacabadabacabaeabacabadabacabafabacabad",
		"repeated":                  strings.Repeat("x7Kq9Zp2", 4),
		"repeated, cut off":         "x7Kq9Zp2LmWv4RtYx7Kq9Zp2LmWv4RtYx7K",
		"a known part":              text,
		"a known part in hex":       hex.EncodeToString([]byte(text)),
		"a known part in base64":    base64.StdEncoding.EncodeToString([]byte(text)),
		"a known part, base64url":   base64.RawURLEncoding.EncodeToString([]byte(text + "?>")),
		"encoded twice":             base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString([]byte(text)))),
		"tutorial of FastAPI":       "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
		"that in capitals":          strings.ToUpper("09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"),
		"tutorial of Spring":        "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
		"documents of PostgREST":    "reallyreallyreallyreallyverysafe",
		"RFC 7515":                  "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
		"NIST's key":                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
		"NIST's key, base64":        "YD3rEBXKcb4rc67whX13gR81LAc7YQjXLZgQowkU3/Q=",
		"keyboard":                  "qwertyuiopasdfghjklzxcvbnm!@#$%^",
		"keyboard, in columns":      "1q2w3e4r5t6y7u8i9o0p-[=]QAZWSXEDC",
		"spaces":                    strings.Repeat(" ", 32),
		"hex of nothing but zeroes": strings.Repeat("0", 64),
	} {
		if !secret.Guessable([]byte(value)) {
			t.Errorf("%s: %q is taken", name, value)
		}
	}
}

func TestRandomSecretsAreNotGuessable(t *testing.T) {
	for range 2000 {
		raw := make([]byte, 32)
		rand.Read(raw)
		for _, value := range []string{
			string(raw), hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), rand.Text() + rand.Text(),
		} {
			if secret.Guessable([]byte(value)) {
				t.Errorf("%q is refused", value)
			}
		}
	}
}

// Encoding a secret makes it no better: what is guessable stays so.
func FuzzGuessable(f *testing.F) {
	f.Add([]byte("00112233445566778899aabbccddeeff"))
	f.Add([]byte("changeme"))
	f.Add([]byte{})
	f.Add([]byte("\xff\xfe\x00 a"))
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(bytes.TrimSpace(value)) == 0 || !secret.Guessable(value) {
			return
		}
		for _, encoded := range []string{hex.EncodeToString(value), base64.StdEncoding.EncodeToString(value), base64.RawURLEncoding.EncodeToString(value)} {
			if isEncoded(value) { // its own decoding may be one too deep
				continue
			}
			if !secret.Guessable([]byte(encoded)) {
				t.Errorf("%q is guessable, %q is not", value, encoded)
			}
		}
	})
}

// isEncoded reports whether the value may itself encode something.
func isEncoded(value []byte) bool {
	s := string(bytes.TrimSpace(value))
	_, notHex := hex.DecodeString(s)
	_, notBase64 := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(s), "="))
	return notHex == nil || notBase64 == nil
}
