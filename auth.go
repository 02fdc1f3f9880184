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

// Op is a request-reply subject whose requests are Req and whose replies are Resp.
type Op[Req, Resp any] string

// The subjects the service answers.
const (
	Register   Op[RegisterRequest, RegisterReply]     = "auth.register"
	Login      Op[LoginRequest, LoginReply]           = "auth.login"
	Verify     Op[VerifyRequest, VerifyReply]         = "auth.verify"
	Refresh    Op[RefreshRequest, RefreshReply]       = "auth.refresh"
	Logout     Op[LogoutRequest, LogoutReply]         = "auth.logout"
	Keys       Op[KeysRequest, KeysReply]             = "auth.keys"
	AccountGet Op[AccountGetRequest, AccountGetReply] = "auth.account.get"

	AccountUpdate  Op[AccountUpdateRequest, AccountUpdateReply]   = "auth.account.update"
	AccountDelete  Op[AccountDeleteRequest, AccountDeleteReply]   = "auth.account.delete"
	PasswordChange Op[PasswordChangeRequest, PasswordChangeReply] = "auth.password.change"

	// These need mail, and are ErrNotFound without it.
	EmailVerify    Op[EmailVerifyRequest, EmailVerifyReply]       = "auth.email.verify"
	EmailResend    Op[EmailResendRequest, EmailResendReply]       = "auth.email.resend"
	EmailChange    Op[EmailChangeRequest, EmailChangeReply]       = "auth.email.change"
	EmailConfirm   Op[EmailConfirmRequest, EmailConfirmReply]     = "auth.email.confirm"
	EmailUndo      Op[EmailUndoRequest, EmailUndoReply]           = "auth.email.undo"
	PasswordForgot Op[PasswordForgotRequest, PasswordForgotReply] = "auth.password.forgot"
	PasswordReset  Op[PasswordResetRequest, PasswordResetReply]   = "auth.password.reset"
	NotMe          Op[NotMeRequest, NotMeReply]                   = "auth.password.not_me"
	LoginCode      Op[LoginCodeRequest, LoginCodeReply]           = "auth.login.code"

	SessionsList         Op[SessionsListRequest, SessionsListReply]                 = "auth.sessions.list"
	SessionsRevoke       Op[SessionsRevokeRequest, SessionsRevokeReply]             = "auth.sessions.revoke"
	SessionsRevokeOthers Op[SessionsRevokeOthersRequest, SessionsRevokeOthersReply] = "auth.sessions.revoke_others"

	Revocations   Op[RevocationsRequest, RevocationsReply]     = "auth.revocations"
	UsersSnapshot Op[UsersSnapshotRequest, UsersSnapshotReply] = "auth.users.snapshot"

	Health Op[HealthRequest, HealthReply] = "auth.health"
)

// The subjects for operators. Only the role admin may ask them.
const (
	AdminUsersList        Op[AdminUsersListRequest, AdminUsersListReply]               = "auth.admin.users.list"
	AdminUsersGet         Op[AdminUsersGetRequest, AdminUsersGetReply]                 = "auth.admin.users.get"
	AdminUsersDisable     Op[AdminUsersDisableRequest, AdminUsersDisableReply]         = "auth.admin.users.disable"
	AdminUsersEnable      Op[AdminUsersEnableRequest, AdminUsersEnableReply]           = "auth.admin.users.enable"
	AdminUsersEndSessions Op[AdminUsersEndSessionsRequest, AdminUsersEndSessionsReply] = "auth.admin.users.end_sessions"
	AdminUsersSetPassword Op[AdminUsersSetPasswordRequest, AdminUsersSetPasswordReply] = "auth.admin.users.set_password"
)
