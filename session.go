package auth

import (
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
	Sender
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

// RefreshRequest exchanges a refresh token for the session's next tokens.
type RefreshRequest struct {
	RefreshToken string  `json:"refreshToken"`
	Carrier      Carrier `json:"carrier,omitempty"` // that the token came in; "body" if it is not there
	Sender
}

// RefreshReply is the session's next tokens.
type RefreshReply = Tokens

// LogoutRequest ends the session of a refresh token or of an access token, not both.
type LogoutRequest struct {
	Bearer
	RefreshToken string `json:"refreshToken,omitempty"`
	Sender
}

// LogoutReply is empty: the session is gone, whether it was there or not.
type LogoutReply struct{}

// SessionsListRequest asks for a page of the live sessions of the access token's user.
type SessionsListRequest struct {
	Bearer
	After string `json:"after,omitempty"` // Next of the page before; "" is the first page
	Limit int    `json:"limit,omitzero"`  // most sessions in it, up to 100; 0 is 100
}

// SessionsListReply is a page of a user's live sessions, newest first. A session that lives from the
// first page to the last is on exactly one of them.
type SessionsListReply struct {
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

// SessionsRevokeReply counts 1, or 0 for a session that had already ended.
type SessionsRevokeReply = SessionsEnded

// SessionsRevokeOthersRequest ends all sessions of the access token's user but the one that
// asks.
type SessionsRevokeOthersRequest struct {
	Bearer
}

// SessionsRevokeOthersReply counts the ended sessions.
type SessionsRevokeOthersReply = SessionsEnded

// SessionsEnded says how many sessions a request ended. Of more than 1,000 sessions, all of which end
// at once, it counts 1,000; the events of the others follow.
type SessionsEnded struct {
	Ended int `json:"ended"`
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

// LoginCodeRequest asks for a mail with a code or, with the code, for a session.
type LoginCodeRequest struct {
	Email   string  `json:"email"`
	Code    string  `json:"code,omitempty"`    // 8 digits; without it one is sent
	Carrier Carrier `json:"carrier,omitempty"` // "body" if it is not there
	// Registration is the secret of a RegistrationProof: an account that was not verified then keeps
	// its password, name and locale. Over HTTP it travels in a cookie.
	Registration string `json:"registration,omitempty"`
	Sender
}

// LoginCodeReply has a message alone, as MailSent, or all members of LoginReply.
type LoginCodeReply struct {
	Message      string `json:"message"`
	UserID       UserID `json:"userId,omitzero"`
	AccessToken  string `json:"accessToken,omitempty"`
	RefreshToken string `json:"refreshToken,omitempty"`
	TokenType    string `json:"tokenType,omitempty"`
	ExpiresIn    int64  `json:"expiresIn,omitzero"`
	SessionID    string `json:"sessionId,omitempty"`
}

// Login is the reply to a login by a code; ok is false if there is no session in it.
func (r LoginCodeReply) Login() (reply LoginReply, ok bool) {
	return LoginReply{Message: r.Message, UserID: r.UserID, Tokens: Tokens{
		AccessToken: r.AccessToken, RefreshToken: r.RefreshToken,
		TokenType: r.TokenType, ExpiresIn: r.ExpiresIn, SessionID: r.SessionID,
	}}, r.SessionID != ""
}
