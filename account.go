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
	Origin
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

// AccountDeleteRequest deletes the account of the access token's user, with its sessions.
// The password may be left out if the user authenticated within REAUTH_WINDOW.
type AccountDeleteRequest struct {
	Bearer
	Password string `json:"password,omitempty"`
	Origin
}

// AccountDeleted is empty: the account is gone.
type AccountDeleted struct{}

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

// User is an account as operators and services that keep a list of users see it.
type User struct {
	Account
	DisabledAt time.Time `json:"disabledAt,omitzero"` // absent while the user may log in
}

// UsersSnapshotRequest asks for a page of all accounts, for a service that keeps its own list
// of users: it reads all pages and then follows the events. See events.Subscribe.
type UsersSnapshotRequest struct {
	After UserID `json:"after,omitzero"` // the page begins behind it; 0 is the first page
	Limit int    `json:"limit,omitzero"` // most accounts in it, up to 500; 0 is 100
}

// UsersSnapshotReply is a page of accounts in the order of their ids.
type UsersSnapshotReply struct {
	Users []User `json:"users"`
	Next  UserID `json:"next,omitzero"` // After of the next page; absent if this is the last one
	// Sequence is a number in the stream of events: whatever this page does not know yet has a
	// higher one. Whoever reads several pages continues behind the Sequence of the first.
	Sequence uint64 `json:"sequence"`
}
