package auth

import (
	"slices"
	"time"
)

// Carrier is what brings a session's tokens back: the requests themselves, or a browser's
// cookies. A refresh token is good in its own alone.
type Carrier string

// The carriers.
const (
	CarrierBody   Carrier = "body" // and the header Authorization
	CarrierCookie Carrier = "cookie"
)

// LoginRequest asks for a session.
type LoginRequest struct {
	Email    string  `json:"email"`
	Password string  `json:"password"`
	Carrier  Carrier `json:"carrier,omitempty"` // "body" if it is not there
	Origin
}

// LoginReply is a new session with its first tokens.
type LoginReply struct {
	Message string `json:"message"` // "Login successful"
	UserID  UserID `json:"userId"`
	Tokens
}

// Tokens is what a session hands out at login and at each refresh.
type Tokens struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken"`
	TokenType    string `json:"tokenType"` // "Bearer" (RFC 6750)
	ExpiresIn    int64  `json:"expiresIn"` // seconds the access token is good for
	SessionID    string `json:"sessionId"`
}

// VerifyRequest asks whether an access token is valid now.
type VerifyRequest struct {
	Token  string   `json:"token"`
	Scopes []string `json:"scopes,omitempty"` // all of them are required of the token
}

// VerifyReply is what a valid access token says.
type VerifyReply struct {
	UserID    UserID    `json:"userId"`
	SessionID string    `json:"sessionId"`
	Scopes    []string  `json:"scopes"`
	AMR       []string  `json:"amr"`      // how the user authenticated (RFC 8176)
	AuthTime  time.Time `json:"authTime"` // when the user authenticated
	IssuedAt  time.Time `json:"issuedAt"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// Require returns ErrInsufficientScope unless the token has all the scopes.
func (r VerifyReply) Require(scopes ...string) error {
	for _, scope := range scopes {
		if !slices.Contains(r.Scopes, scope) {
			return ErrInsufficientScope
		}
	}
	return nil
}

// RefreshRequest exchanges a refresh token for the session's next tokens.
type RefreshRequest struct {
	RefreshToken string  `json:"refreshToken"`
	Carrier      Carrier `json:"carrier,omitempty"` // that the token came in; "body" if it is not there
	Origin
}

// LogoutRequest ends the session of a refresh token or of an access token, not both.
type LogoutRequest struct {
	Bearer
	RefreshToken string `json:"refreshToken,omitempty"`
	Origin
}

// LogoutReply is empty: the session is gone, whether it was there or not.
type LogoutReply struct{}

// SessionsListRequest asks for a page of the live sessions of the access token's user.
type SessionsListRequest struct {
	Bearer
	After string `json:"after,omitempty"` // Next of the page before; "" is the first page
	Limit int    `json:"limit,omitzero"`  // most sessions in it, up to 100; 0 is 100
}

// SessionList is a page of a user's live sessions, newest first. A session that lives from the
// first page to the last is on exactly one of them.
type SessionList struct {
	Sessions []Session `json:"sessions"`
	Next     string    `json:"next,omitempty"` // After of the next page; absent if this is the last one
}

// Session is a login as its user may see it.
type Session struct {
	SessionID        string    `json:"sessionId"`
	CreatedAt        time.Time `json:"createdAt"`
	LastUsedAt       time.Time `json:"lastUsedAt"` // when it was last refreshed
	ExpiresAt        time.Time `json:"expiresAt"`  // unless it is refreshed
	IP               string    `json:"ip"`         // of the last use; "" if unknown, as are those below
	UserAgent        string    `json:"userAgent"`
	Device           string    `json:"device"` // the user agent for people, as in "Firefox 128 on Windows"
	CreatedIP        string    `json:"createdIp"`
	CreatedUserAgent string    `json:"createdUserAgent"`
	CreatedDevice    string    `json:"createdDevice"`
	Current          bool      `json:"current"` // the one that asks
}

// SessionsRevokeRequest ends one session of the access token's user.
type SessionsRevokeRequest struct {
	Bearer
	SessionID string `json:"sessionId"`
}

// SessionsRevokeOthersRequest ends all sessions of the access token's user but the one that
// asks.
type SessionsRevokeOthersRequest struct {
	Bearer
}

// SessionsEnded says how many sessions a request ended. Of more than 1,000 sessions, all of which end
// at once, it counts 1,000; the events of the others follow.
type SessionsEnded struct {
	Ended int `json:"ended"`
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

// KeySet is a JSON Web Key Set (RFC 7517 §5). It is empty when access tokens are HS256.
type KeySet struct {
	Keys []Key `json:"keys"`
}

// Key is the public half of an Ed25519 signing key (RFC 7517 §4, RFC 8037 §2).
type Key struct {
	KeyType   string `json:"kty"` // "OKP"
	Curve     string `json:"crv"` // "Ed25519"
	X         string `json:"x"`   // 32 bytes, base64url
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"` // "EdDSA"
	Use       string `json:"use"` // "sig"
}

// Reason says why a session ended.
type Reason string

// The reasons that other services may see.
const (
	ReasonLogout          Reason = "logout"
	ReasonEndedByUser     Reason = "ended_by_user" // from the list of sessions
	ReasonPasswordChanged Reason = "password_changed"
	ReasonPasswordReset   Reason = "password_reset" // by a link in a mail
	ReasonEmailChanged    Reason = "email_changed"  // the address, or that it is verified
	ReasonTokenReuse      Reason = "token_reuse"    // a spent refresh token was presented: theft
	ReasonSessionLimit    Reason = "session_limit"  // the user began a newer one than SESSION_LIMIT allows
	ReasonUserDisabled    Reason = "user_disabled"  // an operator disabled the account
	ReasonUserDeleted     Reason = "user_deleted"   // the account is gone
	ReasonAdmin           Reason = "admin"          // an operator ended it, or set another password
)
