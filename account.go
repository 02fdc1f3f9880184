package auth

import "time"

// UserID identifies an account. The database gives it out and never reuses it.
type UserID int64

// RegisterRequest asks for a new account.
type RegisterRequest struct {
	Email    string `json:"email"`          // at most 254 bytes
	Password string `json:"password"`       // PASSWORD_MIN_LENGTH to 256 code points
	Name     string `json:"name,omitempty"` // at most 200 code points
	// Locale is the language of mails (BCP 47), as in "de-AT"; "" is the default.
	Locale string `json:"locale,omitempty"`
	Sender
}

// RegisterReply tells the id of the new account. Where addresses have to be verified first,
// there is none yet, and the reply is the same for an address that is taken.
type RegisterReply struct {
	Message string `json:"message"` // "User registered successfully", or to look for a mail
	UserID  UserID `json:"userId,omitzero"`
	// Registration is there where a mail to verify the address was asked for, whether the address
	// is taken or not. Over HTTP it travels in the cookie __Host-registration.
	Registration *RegistrationProof `json:"registration,omitempty"`
}

// RegistrationProof proves that its holder made a registration, and so chose its password.
// EmailVerify and LoginCode take the secret instead of the password.
type RegistrationProof struct {
	Secret    string `json:"secret"`    // 130 random bits; good for the address of the registration alone
	ExpiresIn int64  `json:"expiresIn"` // seconds the secret is good for, as the link of the mail is
}

// AccountGetRequest asks for the account of the access token's user.
type AccountGetRequest struct {
	Bearer
}

// AccountGetReply is the account of the access token's user.
type AccountGetReply = Account

// Account is what a user may know of their own account.
type Account struct {
	UserID        UserID    `json:"userId"`
	Email         string    `json:"email"`
	EmailVerified bool      `json:"emailVerified"`    // mail to the address reached its owner
	Name          string    `json:"name"`             // "" if never given
	Locale        string    `json:"locale,omitempty"` // language of mails (BCP 47); "" is the default
	CreatedAt     time.Time `json:"createdAt"`
	UpdatedAt     time.Time `json:"updatedAt"`
}

// AccountUpdateRequest changes the members that are there.
type AccountUpdateRequest struct {
	Bearer
	Name   *string `json:"name,omitempty"`   // at most 200 code points
	Locale *string `json:"locale,omitempty"` // language of mails (BCP 47); "" is the default
}

// AccountUpdateReply is the account after the change.
type AccountUpdateReply = Account

// AccountDeleteRequest deletes the account of the access token's user, with its sessions.
// The password may be left out if the user authenticated within REAUTH_WINDOW.
type AccountDeleteRequest struct {
	Bearer
	Password string `json:"password,omitempty"`
	Sender
}

// AccountDeleteReply is empty: the account is gone.
type AccountDeleteReply struct{}
