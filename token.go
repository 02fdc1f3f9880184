package auth

import (
	"slices"
	"time"
)

// VerifyRequest asks whether an access token is valid now.
type VerifyRequest struct {
	Token  string   `json:"token"`
	Scopes []string `json:"scopes,omitempty"` // all of them are required of the token
}

// VerifyReply is the identity behind a valid access token.
type VerifyReply struct {
	Principal
}

// Principal is who makes a request, and with which rights.
type Principal struct {
	UserID    UserID    `json:"userId"`
	SessionID string    `json:"sessionId"`
	Scopes    []string  `json:"scopes"`
	AMR       []string  `json:"amr"`      // how the user authenticated (RFC 8176)
	AuthTime  time.Time `json:"authTime"` // when the user authenticated
	IssuedAt  time.Time `json:"issuedAt"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// Require returns ErrInsufficientScope unless the principal has all the scopes.
func (p Principal) Require(scopes ...string) error {
	for _, scope := range scopes {
		if !slices.Contains(p.Scopes, scope) {
			return ErrInsufficientScope
		}
	}
	return nil
}

// RevocationsRequest asks which sessions have ended, so that their access tokens can be
// refused although they have not expired.
type RevocationsRequest struct {
	Since string `json:"since,omitempty"` // the cursor of the reply before; without it, all that matter
}

// RevocationsReply is a page of sessions that have ended. The caller goes on with Cursor, at once
// if there is More. At the end Cursor leads back by a minute, since a change may be committed after
// the time that it carries, and Recent by seconds: for a caller that asks on each session.revoked
// with Recent, and now and then with Cursor.
type RevocationsReply struct {
	Revoked []Revocation `json:"revoked"`
	Cursor  string       `json:"cursor"`
	Recent  string       `json:"recent,omitempty"` // not there if there is More
	More    bool         `json:"more,omitzero"`
	Now     time.Time    `json:"now"` // by the service's clock
}

// Revocation is a session that has ended. It does not name the user: anybody on the bus may read
// the list.
type Revocation struct {
	SessionID string    `json:"sessionId"`
	RevokedAt time.Time `json:"revokedAt"`
	ExpiresAt time.Time `json:"expiresAt"` // when its last access token ends
}

// KeysRequest asks for the public keys of access tokens.
type KeysRequest struct{}

// KeysReply is the set of public keys.
type KeysReply = JWKS

// JWKS is a JSON Web JWK Set (RFC 7517 §5). It is empty when access tokens are HS256.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is the public half of an Ed25519 signing key (RFC 7517 §4, RFC 8037 §2).
type JWK struct {
	KeyType   string `json:"kty"` // "OKP"
	Curve     string `json:"crv"` // "Ed25519"
	X         string `json:"x"`   // 32 bytes, base64url
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"` // "EdDSA"
	Use       string `json:"use"` // "sig"
}
