package auth

// PasswordChangeRequest sets another password. All sessions end, and a new one begins.
type PasswordChangeRequest struct {
	Bearer
	CurrentPassword string `json:"currentPassword"`
	NewPassword     string `json:"newPassword"` // as at registration
	Origin
}

// PasswordChanged has the tokens of the new session, which takes the place of the one that asked.
type PasswordChanged struct {
	SessionsEnded         // the one that asked among them
	Carrier       Carrier `json:"carrier"` // of the tokens, as of the session that asked
	Tokens
}

// PasswordForgotRequest asks for a mail with a link to set another password by.
type PasswordForgotRequest struct {
	Email string `json:"email"`
	Origin
}

// PasswordResetRequest sets another password by the token of such a link. All sessions end.
type PasswordResetRequest struct {
	Token       string `json:"token"`
	NewPassword string `json:"newPassword"` // as at registration
	Origin
}

// PasswordRenewed is empty: the new password is in force, and nobody is logged in.
type PasswordRenewed struct{}

// NotMeRequest answers a notice of something that the account's owner did not do: all
// sessions end, and a mail with a link to set another password by is sent.
type NotMeRequest struct {
	Token string `json:"token"`
	Origin
}

// NotMeReply is empty.
type NotMeReply struct{}
