package handlers

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/persistence"
)

// byOperators is the hashing pool's class for requests that operators send on the bus.
var byOperators = password.Class{Network: byOperator, Known: true}

// Admin serves the requests of operators. All fields but Log and Clock are required.
//
// Every change first locks the user's row, as a login does; see Sessions.EndAll.
type Admin struct {
	Store    *persistence.Store
	Accounts *Accounts // checks and hashes new passwords
	Sessions *Sessions
	Log      *slog.Logger // of outcomes; nil logs none
	Clock    clock.Func
}

// List answers auth.admin.users.list: it returns a page of accounts in the order of their ids, or
// an auth.ErrInvalid error that names the invalid members.
func (a *Admin) List(ctx context.Context, req auth.AdminUsersListRequest) (auth.AdminUsersListReply, error) {
	limit, err := pageLimit(req.After, req.Limit)
	if err != nil {
		return auth.AdminUsersListReply{}, err
	}
	if req.Email != "" {
		return a.listOne(ctx, req)
	}
	users, next, err := userPage(ctx, a.Store, req.After, limit)
	if err != nil {
		return auth.AdminUsersListReply{}, err
	}
	return auth.AdminUsersListReply{Users: users, Next: next}, nil
}

// listOne returns the page of accounts with an address: at most one.
func (a *Admin) listOne(ctx context.Context, req auth.AdminUsersListRequest) (auth.AdminUsersListReply, error) {
	user, err := a.byEmail(ctx, req.Email)
	switch {
	case errors.Is(err, auth.ErrNotFound), err == nil && user.UserID <= req.After:
		return auth.AdminUsersListReply{Users: []auth.User{}}, nil
	case err != nil:
		return auth.AdminUsersListReply{}, err
	}
	return auth.AdminUsersListReply{Users: []auth.User{user}}, nil
}

// Get answers auth.admin.users.get: it returns the account with an id or an address. It returns
// auth.ErrNotFound, or auth.ErrInvalid unless the request has exactly one of the two.
func (a *Admin) Get(ctx context.Context, req auth.AdminUsersGetRequest) (auth.AdminUsersGetReply, error) {
	user, err := a.find(ctx, req)
	if err != nil {
		return auth.AdminUsersGetReply{}, err
	}
	n, err := a.Store.CountLiveSessions(ctx, user.UserID, a.Clock.Now())
	if err != nil {
		return auth.AdminUsersGetReply{}, err
	}
	return auth.AdminUsersGetReply{User: user, Sessions: n}, nil
}

func (a *Admin) find(ctx context.Context, req auth.AdminUsersGetRequest) (auth.User, error) {
	switch {
	case req.Email == "":
		if err := checkID(req.UserID); err != nil {
			return auth.User{}, err
		}
		return a.Store.User(ctx, req.UserID)
	case req.UserID != 0:
		return auth.User{}, auth.ErrInvalid.With(
			auth.Field{Field: "userId", Reason: reasonInvalid}, auth.Field{Field: "email", Reason: reasonInvalid})
	}
	return a.byEmail(ctx, req.Email)
}

func (a *Admin) byEmail(ctx context.Context, text string) (auth.User, error) {
	address, err := email.Parse(text)
	if err != nil {
		return auth.User{}, auth.ErrInvalid.With(auth.Field{Field: "email", Reason: reasonInvalid})
	}
	return a.Store.UserByEmail(ctx, address.Key)
}

// checkID returns an auth.ErrInvalid error for an id that no user can have.
func checkID(id auth.UserID) error {
	switch {
	case id == 0:
		return auth.ErrInvalid.With(auth.Field{Field: "userId", Reason: reasonRequired})
	case id < 0:
		return auth.ErrInvalid.With(auth.Field{Field: "userId", Reason: reasonInvalid})
	}
	return nil
}

// Disable answers auth.admin.users.disable: it ends the user's sessions and prevents new ones. It
// returns auth.ErrNotFound. A user who is already disabled keeps the earlier DisabledAt.
func (a *Admin) Disable(ctx context.Context, req auth.AdminUsersDisableRequest) (auth.AdminUsersDisableReply, error) {
	return audited(ctx, a.Log, auditEvent{subject: string(auth.AdminUsersDisable), method: byOperator, user: req.UserID}, req, a.disable)
}

func (a *Admin) disable(ctx context.Context, req auth.AdminUsersDisableRequest, _ *auditEvent) (done auth.AdminUsersDisableReply, err error) {
	err = a.change(ctx, req.UserID, func(ctx context.Context, tx *persistence.Store, user auth.User, now time.Time) error {
		if user.DisabledAt.IsZero() {
			user.DisabledAt = now
			if err := tx.SetDisabled(ctx, user.UserID, now, now); err != nil {
				return err
			}
			if err := tx.Emit(ctx, now, events.UserDisabled{UserID: user.UserID, DisabledAt: now}); err != nil {
				return err
			}
		}
		done.DisabledAt = user.DisabledAt
		done.Ended, err = a.Sessions.EndAll(ctx, tx, user.UserID, "", auth.ReasonUserDisabled)
		return err
	})
	if err != nil {
		return auth.AdminUsersDisableReply{}, err
	}
	return done, nil
}

// Enable answers auth.admin.users.enable: it lets the user log in again. It returns
// auth.ErrNotFound. No other operation enables a user.
func (a *Admin) Enable(ctx context.Context, req auth.AdminUsersEnableRequest) (auth.AdminUsersEnableReply, error) {
	return audited(ctx, a.Log, auditEvent{subject: string(auth.AdminUsersEnable), method: byOperator, user: req.UserID}, req, a.enable)
}

func (a *Admin) enable(ctx context.Context, req auth.AdminUsersEnableRequest, _ *auditEvent) (auth.AdminUsersEnableReply, error) {
	err := a.change(ctx, req.UserID, func(ctx context.Context, tx *persistence.Store, user auth.User, now time.Time) error {
		if user.DisabledAt.IsZero() {
			return nil
		}
		if err := tx.SetDisabled(ctx, user.UserID, time.Time{}, now); err != nil {
			return err
		}
		return tx.Emit(ctx, now, events.UserEnabled{UserID: user.UserID, EnabledAt: now})
	})
	return auth.AdminUsersEnableReply{}, err
}

// EndSessions answers auth.admin.users.end_sessions: it ends all sessions of the user. It returns
// auth.ErrNotFound.
func (a *Admin) EndSessions(ctx context.Context, req auth.AdminUsersEndSessionsRequest) (auth.SessionsEnded, error) {
	return audited(ctx, a.Log, auditEvent{subject: string(auth.AdminUsersEndSessions), method: byOperator, user: req.UserID}, req, a.endSessions)
}

func (a *Admin) endSessions(ctx context.Context, req auth.AdminUsersEndSessionsRequest, _ *auditEvent) (done auth.SessionsEnded, err error) {
	err = a.change(ctx, req.UserID, func(ctx context.Context, tx *persistence.Store, user auth.User, _ time.Time) error {
		done.Ended, err = a.Sessions.EndAll(ctx, tx, user.UserID, "", auth.ReasonAdmin)
		return err
	})
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	return done, nil
}

// SetPassword answers auth.admin.users.set_password: it sets a password and ends all sessions of the
// user. It returns auth.ErrNotFound, and auth.ErrInvalid for a rejected password. It resets the rate
// limits of failed logins, so that the user can log in. A disabled user stays disabled.
func (a *Admin) SetPassword(ctx context.Context, req auth.AdminUsersSetPasswordRequest) (auth.SessionsEnded, error) {
	return audited(ctx, a.Log, auditEvent{subject: string(auth.AdminUsersSetPassword), method: byOperator, user: req.UserID}, req, a.setPassword)
}

func (a *Admin) setPassword(ctx context.Context, req auth.AdminUsersSetPasswordRequest, _ *auditEvent) (done auth.SessionsEnded, err error) {
	if err := checkID(req.UserID); err != nil {
		return auth.SessionsEnded{}, err
	}
	account, err := a.Store.Account(ctx, req.UserID)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	if reason := a.Accounts.checkNew(ctx, req.Password, account); reason != "" {
		return auth.SessionsEnded{}, auth.ErrInvalid.With(auth.Field{Field: "password", Reason: reason})
	}
	ctx, leave, err := a.Accounts.Passwords.Pool.Enter(ctx, byOperators)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	defer leave()
	fresh, err := a.Accounts.Passwords.Hash(ctx, req.Password)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	var address string
	err = a.change(ctx, req.UserID, func(ctx context.Context, tx *persistence.Store, user auth.User, now time.Time) error {
		if err := tx.SetPassword(ctx, user.UserID, fresh, now); err != nil {
			return err
		}
		if err := tx.Emit(ctx, now, events.UserPasswordChanged{UserID: user.UserID, ChangedAt: now}); err != nil {
			return err
		}
		if done.Ended, err = a.Sessions.EndAll(ctx, tx, user.UserID, "", auth.ReasonAdmin); err != nil {
			return err
		}
		if err := a.Accounts.Limits.Reset(ctx, tx, user.Email); err != nil {
			return err
		}
		address = user.Email
		return a.Accounts.passwordChanged(ctx, tx, user, auth.ClientInfo{})
	})
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	a.Accounts.Limits.Forget(address)
	return done, nil
}

// change runs fn in a transaction that has locked the user's row, and passes it the current user. It
// returns auth.ErrInvalid for an invalid id, and auth.ErrNotFound.
func (a *Admin) change(ctx context.Context, id auth.UserID, fn func(context.Context, *persistence.Store, auth.User, time.Time) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	return a.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		user, err := tx.HoldUser(ctx, id)
		if err != nil {
			return err
		}
		return fn(ctx, tx, user, a.Clock.Now())
	})
}
