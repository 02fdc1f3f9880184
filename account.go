package auth

import "time"

// UserID identifies an account. The database gives it out and never reuses it.
type UserID int64

// RegisterRequest asks for a new account.
type RegisterRequest struct {
	Email    string `json:"email"`          // at most 254 bytes
	Password string `json:"password"`       // PASSWORD_MIN_LENGTH to 256 code points
	Name     string `json:"name,omitempty"` // at most 200 code points
	Origin
}

// RegisterReply tells the id of the new account.
type RegisterReply struct {
	Message string `json:"message"` // "User registered successfully"
	UserID  UserID `json:"userId"`
}

// AccountGetRequest asks for the account of the access token's user.
type AccountGetRequest struct {
	Bearer
}

// Account is what a user may know of their own account.
type Account struct {
	UserID    UserID    `json:"userId"`
	Email     string    `json:"email"`
	Name      string    `json:"name"` // "" if never given
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// AccountUpdateRequest changes the members that are there.
type AccountUpdateRequest struct {
	Bearer
	Name *string `json:"name,omitempty"` // at most 200 code points
}

// AccountDeleteRequest deletes the account of the access token's user, with its sessions.
// The password may be left out if the user authenticated within REAUTH_WINDOW.
type AccountDeleteRequest struct {
	Bearer
	Password string `json:"password,omitempty"`
}

// AccountDeleted is empty: the account is gone.
type AccountDeleted struct{}

// PasswordChangeRequest sets another password. Every other session ends.
type PasswordChangeRequest struct {
	Bearer
	CurrentPassword string `json:"currentPassword"`
	NewPassword     string `json:"newPassword"` // as at registration
}

// PasswordChanged tells how many other sessions ended.
type PasswordChanged struct {
	Ended int `json:"ended"`
}
