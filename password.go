package auth

// PasswordChangeRequest sets another password. All sessions end, and a new one begins.
type PasswordChangeRequest struct {
	Bearer
	CurrentPassword string `json:"currentPassword"`
	NewPassword     string `json:"newPassword"` // as at registration
	Sender
}

// PasswordChangeReply has the tokens of the new session, which takes the place of the one that asked.
type PasswordChangeReply struct {
	SessionsEnded         // the one that asked among them
	Carrier       Carrier `json:"carrier"` // of the tokens, as of the session that asked
	Tokens
}

// PasswordForgotRequest asks for a mail with a link to set another password by.
type PasswordForgotRequest struct {
	Email string `json:"email"`
	Sender
}

// PasswordForgotReply does not reveal whether the address has an account.
type PasswordForgotReply = MailSent

// PasswordResetRequest sets another password by the token of such a link. All sessions end.
type PasswordResetRequest struct {
	Token       string `json:"token"`
	NewPassword string `json:"newPassword"` // as at registration
	Sender
}

// PasswordResetReply is empty: the new password is in force, and nobody is logged in.
type PasswordResetReply struct{}

// NotMeRequest answers a notice of something that the account's owner did not do: all
// sessions end, and a mail with a link to set another password by is sent.
type NotMeRequest struct {
	Token string `json:"token"`
	Sender
}

// NotMeReply is empty.
type NotMeReply struct{}
