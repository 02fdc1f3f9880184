package auth

import "time"

// AdminUsersListRequest asks for a page of all accounts, or for those with an address.
type AdminUsersListRequest struct {
	After UserID `json:"after,omitzero"`  // the page begins behind it; 0 is the first page
	Limit int    `json:"limit,omitzero"`  // most accounts in it, up to 500; 0 is 100
	Email string `json:"email,omitempty"` // only the account that a login with this address means
}

// AdminUsersListReply is a page of accounts in the order of their ids. Everybody who was there before the
// first page is on one of them, once; who registers meanwhile is on a later one, or on none.
type AdminUsersListReply struct {
	Users []User `json:"users"`
	Next  UserID `json:"next,omitzero"` // After of the next page; absent if this is the last one
}

// AdminUsersGetRequest asks for one account, by either member.
type AdminUsersGetRequest struct {
	UserID UserID `json:"userId,omitzero"`
	Email  string `json:"email,omitempty"`
}

// AdminUsersGetReply is an account with what hangs on it.
type AdminUsersGetReply struct {
	User
	Sessions int `json:"sessions"` // neither ended nor expired
}

// AdminUsersDisableRequest ends a user's sessions and keeps them from logging in.
type AdminUsersDisableRequest struct {
	UserID UserID `json:"userId"`
}

// AdminUsersDisableReply tells since when a user is disabled, and how many sessions ended now.
type AdminUsersDisableReply struct {
	DisabledAt time.Time `json:"disabledAt"` // earlier than the request if they were before
	Ended      int       `json:"ended"`
}

// AdminUsersEnableRequest lets a disabled user log in again.
type AdminUsersEnableRequest struct {
	UserID UserID `json:"userId"`
}

// AdminUsersEnableReply is empty: the user may log in, whether they were disabled or not.
type AdminUsersEnableReply struct{}

// AdminUsersEndSessionsRequest ends all sessions of a user, who may log in again.
type AdminUsersEndSessionsRequest struct {
	UserID UserID `json:"userId"`
}

// AdminUsersEndSessionsReply counts the ended sessions.
type AdminUsersEndSessionsReply = SessionsEnded

// AdminUsersSetPasswordRequest gives a user another password and ends all of their sessions. A
// disabled user stays disabled.
type AdminUsersSetPasswordRequest struct {
	UserID   UserID `json:"userId"`
	Password string `json:"password"` // as at registration
}

// AdminUsersSetPasswordReply counts the sessions that the new password ended.
type AdminUsersSetPasswordReply = SessionsEnded

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
