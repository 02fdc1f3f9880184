package secret

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
)

// knownParts are parts of secrets from documentation, templates and tutorials. They are long enough
// that fewer than one in a million random secrets in base64 contains one.
var knownParts = []string{
	"secret", "password", "changeme", "change-me", "change_me", "changethis", "change-this", "example", "default",
	"your-", "your_", "keyboard cat", "12345678", "abcdefgh", "qwerty", "asdfgh", "zxcvbn", "1q2w3e", "placeholder",
	"insecure", "unsafe", "verysafe", "letmein", "iloveyou", "foobar", "tutorial", "development", "lorem ipsum",
}

// published holds SHA-256 digests of secrets printed in public documents: digests of the text in lower case,
// and of the bytes that the text encodes.
var published = map[string]bool{
	"c1d2e8726375f11fda33d032c5d84eec753aba4bad251dfdfaf8bdd8c4d26243": true, // RFC 7515 A.1, RFC 7517 A.3
	"c8ecc9361a05e285f04c26f9572131a6deab07e9e2b865053c6f75a4d8bd2b32": true, // RFC 7515 A.1, RFC 7517 A.3, decoded
	"7d33b0eec25c14a7db05bebec238f2c271ae7f3aff1c6375c6b63d31f29ea334": true, // RFC 7520 3.5
	"5b4e7d98128a2b10d0e09a4304b03aae03433da6c1ce44fec688c0e085d34df2": true, // RFC 7520 3.5, decoded
	"5b8d3fb264e6cad78f7360de363ee1e193cb4d28773dcae1c9be75c2479bfa7c": true, // RFC 7520 3.6
	"2cd6f10056d08e10430ad5658b5565056c93fcde047563f7e53a56452467c050": true, // RFC 7520 3.6, decoded
	"837e8e636d452b6133d5a5c56de1eb57c08a94bbe632804fa621a49014c5c034": true, // NIST SP 800-38A F.1.5
	"b93c72b74bc8487d29827005f80d635918f91bc22b14d7ed05714d58f96702dd": true, // NIST SP 800-38A F.1.5, decoded
	"2ef2503d964e9668092e6878d3c390ca7909bbbffabd781857115e3be4bb3e5a": true, // NIST SP 800-38A F.1.1
	"d4ffb8b77f7d6b26196e9a070e983f6701a4c42dec813d4de1a535d20a7df536": true, // NIST SP 800-38A F.1.1, decoded
	"96e343b8707fbf145ad26e3c8d138032c76028cce1a3a3d45fe481dc644e5aff": true, // RFC 8439 A.5
	"b2fc17bf5e95289cefb59ca945471f60dd000eb17a59c23a3deb85a76929a2ce": true, // RFC 8439 A.5, decoded
	"099da475a54aacbacabde231639eed7b00b0a9359cddd2598004bd8b8ad23237": true, // RFC 8032 7.1
	"644d50ab64864c20a12b3c4656d46b4a48f69ef7c47ecdc8415cd28316b22ef5": true, // RFC 8032 7.1, decoded
	"570dad43de1af4c925f92c16a68a50936da42b7dd6fdeb24850507a1199aac89": true, // tutorial of FastAPI
	"4d0f8dec4515d07a611c502f22adb95c854d943d6122fb8f96c9503b42356bac": true, // tutorial of FastAPI, decoded
	"2598f7d6adc142d88161630f3db12ab2bd3403521c281811e5e1ce60d4ac5d76": true, // documentation of Flask
	"a5aa976fe0932dfa4e28efad79b2bdf0ab22a79a346ed3fe9e0aeda30ab3fd1d": true, // documentation of Flask, decoded
	"2b1fa627178e3424e20ffd0e18b7440c322ad538d3c96aef1e3f60d99951c23c": true, // tutorials of Spring Security
	"136cb1c5a79bc9d943efda382fde1bfa26e0e140ff444657cf7fb056e2977b1c": true, // tutorials of Spring Security, decoded
	"e86a1dc8a1eb5666311d00328cb5ddaf787b523f0a625cf8a967766ec167265b": true, // tutorials of Spring Security
	"4725c0cf9340118947f3b35c8fe62dbad92e441a474c9755f896bd17c4f54741": true, // tutorials of Spring Security, decoded
	"fd4dec75abc2df7e4f8776e246ce733d29690230695c4ce8ea7a207eb3a939ab": true, // documentation of PostgREST
	"a59e993b12b84cd042858443749443fbe38d1e32fbab430e2b9e328e24290ebc": true, // documentation of Hasura
	"9e3d98cb865eaebb0f83ee8e3cb2fe28d855fdc26c36926a40d5f3ad4daeb9fa": true, // documentation of NestJS
	"465d9ad5d5528ebe287b5dce4fb51620833d09b290e49ddcc70ca6c4a0aea01b": true, // jwt.io
	"a064b502e61d27e94b8717290e5e1b32e36720e9fbdf952ec81a84c07128cb37": true, // samples of Supabase
	"8a7bacca975323a5421e30ab0a62e70fb0e3a6b55daa7ff02da288ea1a4b65b4": true, // documentation of Ory
}

// maxDecodings is how many nested forms Guessable checks: the value and the decodings inside it.
const maxDecodings = 3

// Guessable reports whether an attacker may know or guess a secret: the secret, or the bytes that it encodes
// in hex or base64, are published, contain a part of published secrets, or are too regular to come
// from a random generator (RFC 8725 §3.5).
func Guessable(value []byte) bool {
	forms := [][]byte{value}
	for range maxDecodings {
		var inner [][]byte
		for _, form := range forms {
			if isKnown(form) || isRegular(form) {
				return true
			}
			inner = append(inner, decoded(form)...)
		}
		forms = inner
	}
	return false
}

// decoded returns the distinct bytes that the text encodes in hex and in each kind of base64.
func decoded(text []byte) (forms [][]byte) {
	s := string(bytes.TrimSpace(text))
	if raw, err := hex.DecodeString(s); err == nil && len(raw) > 0 {
		forms = append(forms, raw)
	}
	for _, encoding := range []*base64.Encoding{
		base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
	} {
		raw, err := encoding.DecodeString(s)
		if err == nil && len(raw) > 0 && !slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Equal(f, raw) }) {
			forms = append(forms, raw)
		}
	}
	return forms
}

// isKnown reports whether a secret is published or contains a known part.
func isKnown(form []byte) bool {
	lower := bytes.ToLower(bytes.TrimSpace(form))
	for _, text := range [][]byte{form, lower} {
		sum := sha256.Sum256(text)
		if published[hex.EncodeToString(sum[:])] {
			return true
		}
	}
	return slices.ContainsFunc(knownParts, func(part string) bool { return bytes.Contains(lower, []byte(part)) })
}

// isRegular reports whether the bytes almost certainly do not come from a random generator: there are fewer
// than 8, fewer than a third of them, counting at most 32, are distinct (for 32 random bytes the probability
// is 2^-60), they repeat a shorter text, or at least half of the steps between neighbors are equal. It
// returns false for no bytes.
func isRegular(form []byte) bool {
	n := len(form)
	if n < 8 {
		return n > 0
	}
	distinct, steps := map[byte]bool{}, map[byte]int{}
	for i, b := range form {
		distinct[b] = true
		if i > 0 {
			steps[b-form[i-1]]++
		}
	}
	if len(distinct) < min(n, Size)/3 {
		return true
	}
	for _, count := range steps {
		if count >= n/2 {
			return true
		}
	}
	for period := 1; period <= n/2; period++ {
		if bytes.Equal(form[period:], form[:n-period]) {
			return true
		}
	}
	return false
}
