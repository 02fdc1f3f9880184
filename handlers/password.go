package handlers

import (
	"context"
	"strings"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/persistence"
)

// ChangePassword answers auth.password.change: it sets a new password. It requires the current password,
// even after a recent login. All sessions end, and a new session with the same carrier replaces the caller's,
// so that a copy of the former session's tokens is refused. It returns auth.ErrInvalidCredentials for a wrong
// password, auth.ErrRateLimited after too many attempts, and auth.ErrInvalid for a new password that is
// rejected.
func (a *Accounts) ChangePassword(ctx context.Context, req auth.PasswordChangeRequest) (auth.PasswordChangeReply, error) {
	tried := auditEvent{subject: string(auth.PasswordChange), method: byPassword, client: req.Client}
	return audited(ctx, a.Log, tried, req, a.changePassword)
}

func (a *Accounts) changePassword(ctx context.Context, req auth.PasswordChangeRequest, tried *auditEvent) (auth.PasswordChangeReply, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	tried.user = user.UserID
	if err := a.Sessions.checkVerified(ctx, user.UserID); err != nil { // otherwise the new session would outlive one that refresh refuses
		return auth.PasswordChangeReply{}, err
	}
	account, stored, err := a.own(ctx, user.UserID)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	if reason := a.checkNew(ctx, req.NewPassword, account); reason != "" {
		return auth.PasswordChangeReply{}, auth.ErrInvalid.With(auth.Field{Field: "newPassword", Reason: reason})
	}
	ctx, leave, err := a.admitted(ctx, account, req.Sender)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	defer leave()
	attempt, err := a.confirm(ctx, account, req.Sender, stored, req.CurrentPassword)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	fresh, err := a.Passwords.Hash(ctx, req.NewPassword)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	from, _ := client(req.Client) // confirm has checked it
	var ended int
	var session persistence.Session
	err = a.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		former, err := a.Sessions.holdFor(ctx, tx, user, stored)
		if err != nil {
			return err
		}
		if ended, err = a.renewPassword(ctx, tx, account, fresh, from); err != nil {
			return err
		}
		session = a.Sessions.successor(former, from)
		if err := a.Sessions.store(ctx, tx, session); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	tokens, err := a.Sessions.tokens(session, session.CreatedAt)
	if err != nil {
		return auth.PasswordChangeReply{}, err
	}
	return auth.PasswordChangeReply{SessionsEnded: auth.SessionsEnded{Ended: ended}, Carrier: session.Carrier, Tokens: tokens}, nil
}

// renewPassword stores a new password of an account, ends all of its sessions and notifies the owner. The
// transaction must hold the account's row. It returns the count of EndAll.
func (a *Accounts) renewPassword(ctx context.Context, tx *persistence.Store, account auth.Account, fresh string, from auth.ClientInfo) (int, error) {
	now := a.Clock.Now()
	if err := tx.SetPassword(ctx, account.UserID, fresh, now); err != nil {
		return 0, err
	}
	if err := tx.Emit(ctx, now, events.UserPasswordChanged{UserID: account.UserID, ChangedAt: now}); err != nil {
		return 0, err
	}
	ended, err := a.Sessions.EndAll(ctx, tx, account.UserID, "", auth.ReasonPasswordChanged)
	if err != nil {
		return 0, err
	}
	return ended, a.passwordChanged(ctx, tx, auth.User{Account: account}, from)
}

// passwordChanged voids the links and codes that were made before a change of the password, except
// those of undoPurposes, and notifies the owner.
func (a *Accounts) passwordChanged(ctx context.Context, tx *persistence.Store, user auth.User, from auth.ClientInfo) error {
	if err := tx.VoidOneTimes(ctx, user.UserID, undoPurposes...); err != nil {
		return err
	}
	return a.Notices.passwordChanged(ctx, tx, user, from)
}

// checkNew returns why a new password of an account is rejected, or "". It may send a request to another
// server, so it must not run in a transaction.
func (a *Accounts) checkNew(ctx context.Context, plain string, account auth.Account) string {
	if plain == "" {
		return reasonRequired
	}
	local, _, _ := strings.Cut(account.Email, "@")
	return a.Passwords.Check(ctx, plain, account.Email, email.Unicode(account.Email), local, account.Name)
}
