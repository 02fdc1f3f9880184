// Package token issues and reads the service's two kinds of JSON Web Token.
//
// An access token (typ "at+jwt", RFC 9068) identifies the caller. It is signed with Ed25519,
// or with HMAC-SHA-256 for compatibility with the legacy service, and every holder of the
// keys can verify it. A refresh token (typ "rt+jwt") names a session and a generation. It is
// signed with HMAC-SHA-256, and only the service reads it.
//
// Reading is strict (RFC 8725). The size is checked before anything is decoded, and each token has
// exactly one accepted encoding. The header may hold only alg, kid and typ, which excludes crit, jwk,
// jku and x5u. kid selects a key from a fixed set, and the key, not the token, determines the
// algorithm. golang-jwt implements the signatures and the checks of the registered claims.
package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/strictjson"
)

// MaxBytes is the maximum length of a token that is read, in bytes.
const MaxBytes = 4096

// Leeway is how far the issuer's clock may be ahead when iat and nbf are checked;
// RFC 7519 §4.1.5 allows "usually no more than a few minutes". exp is exact.
const Leeway = time.Minute

// MaxLifetime is the longest lifetime, exp minus iat, of an access token. No setting allows a
// longer one, so a token with a longer one was signed with a stolen key.
const MaxLifetime = 24 * time.Hour

// The values of typ.
const (
	typeAccess  = "at+jwt"
	typeRefresh = "rt+jwt"
)

// Key verifies tokens; with Private or Secret it also signs them. Each key is used with
// one algorithm: Ed25519 keys with EdDSA, secrets with HS256.
type Key struct {
	ID      string             // kid; "" only for the one secret of a set
	Public  ed25519.PublicKey  // unless Secret is set
	Private ed25519.PrivateKey // together with Public
	Secret  []byte             // alternative to Public and Private
}

// verifier returns the signing method and the key in the type that the method requires.
func (k Key) verifier() (jwt.SigningMethod, any) {
	if k.Secret != nil {
		return jwt.SigningMethodHS256, k.Secret
	}
	return jwt.SigningMethodEdDSA, k.Public
}

func (k Key) signer() (jwt.SigningMethod, any) {
	if k.Secret != nil {
		return jwt.SigningMethodHS256, k.Secret
	}
	return jwt.SigningMethodEdDSA, k.Private
}

// header holds every member of a token's header.
type header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
}

// sign returns a signed token of the type.
func sign(typ string, k Key, claims jwt.Claims) (string, error) {
	method, key := k.signer()
	t := jwt.NewWithClaims(method, claims)
	t.Header["typ"] = typ
	if k.ID != "" {
		t.Header["kid"] = k.ID
	}
	return t.SignedString(key)
}

// Find returns the keys that a kid may refer to, or none for an unknown kid, which must cost almost
// nothing. If it cannot look up the keys it returns an error, which Read returns unchanged.
type Find func(kid string) ([]Key, error)

// open checks encoding, type and signature, and returns the claims' JSON.
func open(typ, text string, find Find) ([]byte, error) {
	parts, err := split(text)
	if err != nil {
		return nil, err
	}
	var h header
	if err := strictjson.Unmarshal(parts[0], &h); err != nil {
		return nil, invalid(err)
	}
	if h.Typ != typ {
		return nil, invalid(fmt.Errorf("typ is not %q", typ))
	}
	keys, err := find(h.Kid)
	if err != nil {
		return nil, err
	}
	signed := text[:strings.LastIndexByte(text, '.')]
	for _, k := range keys {
		method, key := k.verifier()
		if h.Alg == method.Alg() && method.Verify(signed, parts[2], key) == nil {
			return parts[1], nil
		}
	}
	return nil, invalid(errors.New("signed with none of our keys"))
}

// split decodes the three parts of a token (RFC 7515 §3.1). Go's decoder ignores line breaks, so split
// rejects them itself.
func split(text string) (parts [3][]byte, err error) {
	if len(text) > MaxBytes {
		return parts, invalid(errors.New("too long"))
	}
	segments := strings.Split(text, ".")
	if len(segments) != len(parts) {
		return parts, invalid(errors.New("not three parts"))
	}
	for i, segment := range segments {
		if segment == "" || strings.ContainsAny(segment, "\r\n") {
			return parts, invalid(errors.New("not base64url"))
		}
		parts[i], err = base64.RawURLEncoding.Strict().DecodeString(segment)
		if err != nil {
			return parts, invalid(err)
		}
	}
	return parts, nil
}

// check validates the times of claims and the claims that the options require. It returns
// auth.ErrTokenExpired for a token that was valid, and auth.ErrInvalidToken for other faults.
func check(claims jwt.Claims, now time.Time, options ...jwt.ParserOption) error {
	options = append(options, jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	err := jwt.NewValidator(options...).Validate(claims)
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) && !errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Errorf("%w: %w", auth.ErrTokenExpired, err)
	default:
		return invalid(err)
	}
	if iat, err := claims.GetIssuedAt(); err != nil || iat == nil {
		return invalid(errors.New("iat is missing"))
	}
	return nil
}

func invalid(cause error) error { return fmt.Errorf("%w: %w", auth.ErrInvalidToken, cause) }

// registered holds the registered claims of both kinds of token. Times are whole seconds, the simplest form of
// NumericDate (RFC 7519 §2). A missing time is zero, and zero is rejected where the time is required.
type registered struct {
	Issuer    string `json:"iss,omitempty"`
	Audience  string `json:"aud,omitempty"`
	Subject   string `json:"sub"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf,omitempty"`
	Expires   int64  `json:"exp"`
	ID        string `json:"jti"`
	SessionID string `json:"sid"`
}

func (c registered) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c registered) GetSubject() (string, error)                  { return c.Subject, nil }
func (c registered) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }
func (c registered) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.IssuedAt), nil }
func (c registered) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.Expires), nil }

// GetNotBefore returns nbf minus Leeway. A leeway option of the validator would also
// apply to exp.
func (c registered) GetNotBefore() (*jwt.NumericDate, error) {
	if c.NotBefore == 0 {
		return nil, nil
	}
	return date(c.NotBefore - int64(Leeway/time.Second)), nil
}

func date(seconds int64) *jwt.NumericDate {
	if seconds == 0 {
		return nil
	}
	return jwt.NewNumericDate(time.Unix(seconds, 0))
}
