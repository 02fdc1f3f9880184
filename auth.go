// Package auth is the vocabulary of Zyotra Auth: the subjects it answers, their requests
// and replies, and the errors they may return. Everything else speaks in these words.
//
// A subject carries its types, so that asking and serving cannot disagree:
//
//	reply, err := bus.Call(ctx, conn, auth.Login, auth.LoginRequest{Email: e, Password: p})
//	err = bus.Handle(server, auth.Login, sessions.Login)
//
// Members travel as JSON in camelCase, times as RFC 3339 in UTC, ids of users as integers
// and ids of sessions as strings; the HTTP edge uses the same members. The package holds
// only what crosses a package boundary, imports only the standard library and does no I/O.
package auth

import (
	"fmt"
	"strings"
)

// Op is a request-reply subject whose requests are Req and whose replies are Resp.
type Op[Req, Resp any] string

// The subjects the service answers.
const (
	Register   Op[RegisterRequest, RegisterReply] = "auth.register"
	Login      Op[LoginRequest, LoginReply]       = "auth.login"
	Verify     Op[VerifyRequest, VerifyReply]     = "auth.verify"
	Refresh    Op[RefreshRequest, Tokens]         = "auth.refresh"
	Logout     Op[LogoutRequest, LogoutReply]     = "auth.logout"
	Keys       Op[KeysRequest, KeySet]            = "auth.keys"
	AccountGet Op[AccountGetRequest, Account]     = "auth.account.get"

	AccountUpdate  Op[AccountUpdateRequest, Account]          = "auth.account.update"
	AccountDelete  Op[AccountDeleteRequest, AccountDeleted]   = "auth.account.delete"
	PasswordChange Op[PasswordChangeRequest, PasswordChanged] = "auth.password.change"

	// These need mail, and are ErrNotFound without it.
	EmailVerify    Op[EmailVerifyRequest, EmailVerified]     = "auth.email.verify"
	EmailResend    Op[EmailResendRequest, MailSent]          = "auth.email.resend"
	EmailChange    Op[EmailChangeRequest, MailSent]          = "auth.email.change"
	EmailConfirm   Op[EmailConfirmRequest, EmailConfirmed]   = "auth.email.confirm"
	EmailUndo      Op[EmailUndoRequest, EmailUndone]         = "auth.email.undo"
	PasswordForgot Op[PasswordForgotRequest, MailSent]       = "auth.password.forgot"
	PasswordReset  Op[PasswordResetRequest, PasswordRenewed] = "auth.password.reset"
	NotMe          Op[NotMeRequest, NotMeReply]              = "auth.password.not_me"
	LoginCode      Op[LoginCodeRequest, LoginCodeReply]      = "auth.login.code"

	SessionsList         Op[SessionsListRequest, SessionList]           = "auth.sessions.list"
	SessionsRevoke       Op[SessionsRevokeRequest, SessionsEnded]       = "auth.sessions.revoke"
	SessionsRevokeOthers Op[SessionsRevokeOthersRequest, SessionsEnded] = "auth.sessions.revoke_others"

	Revocations   Op[RevocationsRequest, RevocationsReply]     = "auth.revocations"
	UsersSnapshot Op[UsersSnapshotRequest, UsersSnapshotReply] = "auth.users.snapshot"

	Health Op[HealthRequest, HealthReply] = "auth.health"
)

// The subjects for operators. Only the role admin may ask them.
const (
	AdminUsersList        Op[AdminUsersListRequest, UserList]             = "auth.admin.users.list"
	AdminUsersGet         Op[AdminUsersGetRequest, UserDetails]           = "auth.admin.users.get"
	AdminUsersDisable     Op[AdminUsersDisableRequest, UserDisabled]      = "auth.admin.users.disable"
	AdminUsersEnable      Op[AdminUsersEnableRequest, UserEnabled]        = "auth.admin.users.enable"
	AdminUsersEndSessions Op[AdminUsersEndSessionsRequest, SessionsEnded] = "auth.admin.users.end_sessions"
	AdminUsersSetPassword Op[AdminUsersSetPasswordRequest, SessionsEnded] = "auth.admin.users.set_password"
)

// Bearer is embedded in requests made on behalf of a user. The access token is no member
// of the request: it travels in the header "Authorization: Bearer …", on the bus as over
// HTTP.
type Bearer struct {
	AccessToken string `json:"-"`
}

// Credential returns where the access token is kept, for whoever carries the request.
func (b *Bearer) Credential() *string { return &b.AccessToken }

// ParseBearer returns the token of an Authorization header: "Bearer", in any letter case, one or
// more spaces, and one token (RFC 6750 §2.1). ok is false for anything else.
func ParseBearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !isBearer(scheme) {
		return "", false
	}
	if token = strings.TrimLeft(token, " "); token == "" {
		return "", false
	}
	for _, not := range []string{" ", "\t", ","} { // one after the other is faster than any of them
		if strings.Contains(token, not) {
			return "", false
		}
	}
	return token, true
}

// isBearer reports whether an authentication scheme is that of RFC 6750.
func isBearer(scheme string) bool { return strings.EqualFold(scheme, "Bearer") }

// ErrTwoCredentials refuses a request that authenticates in more than one way (RFC 6750 §2).
var ErrTwoCredentials = fmt.Errorf("%w: two credentials", ErrMalformed)

// BearerToken returns the token of a request's Authorization headers, "" if it has none: another
// scheme, such as Basic, is no credential of this service. It returns ErrInvalidToken for a header
// that has no scheme or is of the scheme Bearer and without one token, and ErrTwoCredentials for more
// than one header.
func BearerToken(headers []string) (string, error) {
	switch len(headers) {
	case 0:
		return "", nil
	case 1:
		token, ok := ParseBearer(headers[0])
		if scheme, _, hasScheme := strings.Cut(headers[0], " "); !ok && hasScheme && !isBearer(scheme) {
			return "", nil
		}
		if !ok && headers[0] != "" {
			return "", ErrInvalidToken
		}
		return token, nil
	}
	return "", ErrTwoCredentials
}

// Origin is embedded in requests whose sender is worth remembering.
type Origin struct {
	Client *Client `json:"client,omitempty"`
}

// From returns where the sender is kept, for whoever carries the request.
func (o *Origin) From() **Client { return &o.Client }

// Client tells where a request comes from. The edge fills it; other callers of the bus may.
type Client struct {
	IP        string `json:"ip,omitempty"`        // IPv4 or IPv6 address in text form
	UserAgent string `json:"userAgent,omitempty"` // as sent; at most 512 bytes are kept
}

// HealthRequest asks whether requests would succeed.
type HealthRequest struct{}

// HealthReply says that they would. Otherwise the reply is ErrUnavailable, and its fields
// name the part that is away.
type HealthReply struct {
	Status   string   `json:"status"`             // "ready", or "degraded" if something has to wait
	Degraded []string `json:"degraded,omitempty"` // the parts for which something waits: "events", "jetstream"
}
