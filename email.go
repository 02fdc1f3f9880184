package auth

// EmailVerifyRequest proves that mail to an address reaches its owner: by the token of the
// link in a mail, or by the address and the code. It also has to show that the owner of the
// mailbox chose the password that comes into force: by a live session of the account, by the
// secret of a registration, or by the password itself.
type EmailVerifyRequest struct {
	Bearer        // of the account; a session of another one, or one that has ended, counts as none
	Token  string `json:"token,omitempty"`
	Email  string `json:"email,omitempty"`
	Code   string `json:"code,omitempty"` // 8 digits
	// Password becomes the account's, if it is not yet. It is checked as at registration.
	Password string `json:"password,omitempty"`
	// Registration is the secret of a RegistrationProof. Over HTTP it travels in a cookie.
	Registration string `json:"registration,omitempty"`
	Sender
}

// EmailVerifyReply is empty: the address is verified.
type EmailVerifyReply struct{}

// EmailResendRequest asks for another mail to verify an address with. It voids the one before.
type EmailResendRequest struct {
	Email string `json:"email"`
	Sender
}

// EmailResendReply does not reveal whether a mail was sent.
type EmailResendReply = MailSent

// MailSent says nothing but that: whether there is anybody to send a mail to, and which mail,
// only its reader knows.
type MailSent struct {
	Message string `json:"message"` // "If there is an account for it, a mail is on its way"
}

// EmailChangeRequest asks for another address, which counts once a mail to it was answered.
type EmailChangeRequest struct {
	Bearer
	NewEmail string `json:"newEmail"` // at most 254 bytes
	Password string `json:"password"` // however recent the login
	Sender
}

// EmailChangeReply does not reveal whether the new address has an account.
type EmailChangeReply = MailSent

// EmailConfirmRequest changes the address of an account to the one that the mail went to. Beside
// the token of the link it needs a live session of the account, or its password: the mail proves
// the mailbox alone, and the account may be a stranger's.
type EmailConfirmRequest struct {
	Bearer          // of the account; a session of another one, or one that has ended, counts as none
	Token    string `json:"token"`
	Password string `json:"password,omitempty"` // the current one; not needed with a session
	Sender
}

// EmailConfirmReply is empty: the address is the account's.
type EmailConfirmReply struct{}

// EmailUndoRequest takes a change of the address back, by the token of the link that the
// former address was sent. All sessions end.
type EmailUndoRequest struct {
	Token string `json:"token"`
	Sender
}

// EmailUndoReply is empty: the former address is the account's again.
type EmailUndoReply struct{}
