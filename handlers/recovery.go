package handlers

import (
	"context"
	"errors"
	"log/slog"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/persistence"
)

// Recovery restores access for account owners who forgot the password or whose account an intruder uses.
// Accounts and Sessions are required. Without OneTimes the service sends no mail, and every method returns
// auth.ErrNotFound.
type Recovery struct {
	OneTimes *OneTimeTokens
	Accounts *Accounts
	Sessions *Sessions
	Notices  *Notices
	Limits   *ratelimit.Limiter
	Log      *slog.Logger // of outcomes; nil is none
	Clock    clock.Func
}

// Forgot answers auth.password.forgot: it sends a mail with a link to set a new password. The reply
// is the same for every address. It returns auth.ErrRateLimited after too many requests.
func (r *Recovery) Forgot(ctx context.Context, req auth.PasswordForgotRequest) (auth.MailSent, error) {
	a := auditEvent{subject: string(auth.PasswordForgot), method: byMail, address: req.Email, client: req.Client}
	return audited(ctx, r.Log, a, req, r.forgot)
}

func (r *Recovery) forgot(ctx context.Context, req auth.PasswordForgotRequest, _ *auditEvent) (auth.MailSent, error) {
	if r.OneTimes == nil {
		return auth.MailSent{}, auth.ErrNotFound
	}
	from, err := r.OneTimes.reserveMail(ctx, r.Limits, req.Email, req.Client)
	if err != nil {
		return auth.MailSent{}, err
	}
	if err := r.OneTimes.sendIfReached(ctx, req.Email, mailRequest{kind: events.MailReset, purpose: purposeReset, client: from}); err != nil {
		return auth.MailSent{}, err
	}
	return auth.MailSent{Message: mailSent}, nil
}

// Reset answers auth.password.reset: it sets a new password and ends all sessions. Of the links that Forgot
// sends only the newest is valid. Reset notifies the owner, verifies the address and starts no session. It
// returns auth.ErrInvalidToken for a link that is not valid now, and auth.ErrInvalid for a rejected
// password, after which the link stays valid.
func (r *Recovery) Reset(ctx context.Context, req auth.PasswordResetRequest) (auth.PasswordResetReply, error) {
	return audited(ctx, r.Log, auditEvent{subject: string(auth.PasswordReset), method: byLink, client: req.Client}, req, r.reset)
}

func (r *Recovery) reset(ctx context.Context, req auth.PasswordResetRequest, a *auditEvent) (auth.PasswordResetReply, error) {
	one, from, err := r.OneTimes.present(ctx, purposeReset, req.Token, req.Client)
	if errors.Is(err, auth.ErrInvalidToken) {
		one, from, err = r.OneTimes.present(ctx, purposeRecover, req.Token, req.Client)
	}
	if err != nil {
		return auth.PasswordResetReply{}, err
	}
	a.presents(one)
	account, err := r.OneTimes.Store.Account(ctx, one.UserID)
	if err != nil {
		return auth.PasswordResetReply{}, asInvalidToken(err)
	}
	if reason := r.Accounts.checkNew(ctx, req.NewPassword, account); reason != "" {
		return auth.PasswordResetReply{}, auth.ErrInvalid.With(auth.Field{Field: "newPassword", Reason: reason})
	}
	ctx, leave, err := r.Accounts.Passwords.Pool.Enter(ctx, ratelimit.ClassOf(from, true)) // the link proves the mailbox
	if err != nil {
		return auth.PasswordResetReply{}, err
	}
	defer leave()
	fresh, err := r.Accounts.Passwords.Hash(ctx, req.NewPassword)
	if err != nil {
		return auth.PasswordResetReply{}, err
	}
	return auth.PasswordResetReply{}, r.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		return r.renew(ctx, tx, user, fresh, from)
	})
}

// renew sets the password of a user whose mailbox was just proved. An account that was not verified
// loses its earlier setup (see startFree).
func (r *Recovery) renew(ctx context.Context, tx *persistence.Store, user auth.User, fresh string, from auth.ClientInfo) error {
	if !user.EmailVerified {
		if err := r.Accounts.startFree(ctx, tx, user, persistence.OneTime{Password: fresh}, auth.ReasonPasswordReset); err != nil {
			return err
		}
		user.Name, user.Locale = "", ""
		return r.Notices.passwordChanged(ctx, tx, user, from)
	}
	now := r.Clock.Now()
	if err := tx.SetPassword(ctx, user.UserID, fresh, now); err != nil {
		return err
	}
	if err := tx.Emit(ctx, now, events.UserPasswordChanged{UserID: user.UserID, ChangedAt: now}); err != nil {
		return err
	}
	if err := tx.VoidOneTimes(ctx, user.UserID, purposeUndo); err != nil {
		return err
	}
	if _, err := r.Sessions.EndAll(ctx, tx, user.UserID, "", auth.ReasonPasswordReset); err != nil {
		return err
	}
	return r.Notices.passwordChanged(ctx, tx, user, from)
}

// NotMe answers auth.password.not_me: it contains the account. It returns auth.ErrInvalidToken for a
// link that is not valid now.
func (r *Recovery) NotMe(ctx context.Context, req auth.NotMeRequest) (auth.NotMeReply, error) {
	return audited(ctx, r.Log, auditEvent{subject: string(auth.NotMe), method: byLink, client: req.Client}, req, r.notMe)
}

func (r *Recovery) notMe(ctx context.Context, req auth.NotMeRequest, a *auditEvent) (auth.NotMeReply, error) {
	one, from, err := r.OneTimes.present(ctx, purposeNotMe, req.Token, req.Client)
	if err != nil {
		return auth.NotMeReply{}, err
	}
	a.presents(one)
	return auth.NotMeReply{}, r.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		if err := tx.VoidOneTimes(ctx, user.UserID, purposeUndo); err != nil {
			return err
		}
		return r.Accounts.contain(ctx, tx, user, auth.ReasonEndedByUser, from)
	})
}
