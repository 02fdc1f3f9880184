package handlers

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/persistence"
)

// Verification determines whether an address has to be verified.
type Verification string

// The kinds of Verification; "" is VerificationOff.
const (
	VerificationOff      Verification = "off"      // a registration sends no mail
	VerificationOptional Verification = "optional" // a registration sends a mail; the account is usable before verification
	VerificationRequired Verification = "required" // as optional, but without an account or a login before verification
)

// remindEvery is the minimum interval between the mails that logins with an unverified address send.
const remindEvery = time.Minute

// Emails verifies and changes the addresses of accounts. Store, Accounts and Sessions are required.
// Without OneTimes the service sends no mail, and every method returns auth.ErrNotFound.
type Emails struct {
	Store    *persistence.Store
	OneTimes *OneTimeTokens
	Accounts *Accounts
	Sessions *Sessions
	Limits   *ratelimit.Limiter
	Log      *slog.Logger // of outcomes; nil logs none
	Clock    clock.Func
}

// Verify answers auth.email.verify: it verifies the address of an account, or creates the account of
// a pending registration. In addition to the link or code it requires an ownership; see that type. It
// returns auth.ErrInvalidToken for a link or code that is not valid now, auth.ErrReauthentication
// without an ownership, auth.ErrInvalid for a rejected password, auth.ErrConflict if the account
// changed concurrently, and auth.ErrRateLimited after too many attempts. After any error the link or
// code stays valid.
func (e *Emails) Verify(ctx context.Context, req auth.EmailVerifyRequest) (auth.EmailVerifyReply, error) {
	a := auditEvent{subject: string(auth.EmailVerify), method: byLink, address: req.Email, client: req.Client}
	if req.Token == "" {
		a.method = byCode
	}
	return audited(ctx, e.Log, a, req, e.verify)
}

func (e *Emails) verify(ctx context.Context, req auth.EmailVerifyRequest, a *auditEvent) (auth.EmailVerifyReply, error) {
	if e.OneTimes == nil {
		return auth.EmailVerifyReply{}, auth.ErrNotFound
	}
	one, attempt, err := e.presented(ctx, req)
	if err != nil {
		return auth.EmailVerifyReply{}, err
	}
	a.presents(one)
	own, attempt, err := e.establish(ctx, req, one, attempt)
	if err != nil {
		return auth.EmailVerifyReply{}, err
	}
	return auth.EmailVerifyReply{}, e.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		proved, err := e.prove(ctx, tx, user, one, own)
		if err != nil {
			return err
		}
		a.user = proved
		return attempt.Succeed(ctx, tx)
	})
}

// presented returns the row of a link or code. It counts an attempt at a code.
func (e *Emails) presented(ctx context.Context, req auth.EmailVerifyRequest) (persistence.OneTime, *ratelimit.Reservation, error) {
	from, faults := client(req.Client)
	switch {
	case req.Token != "" && req.Email+req.Code != "":
		return persistence.OneTime{}, nil, auth.ErrTwoCredentials
	case req.Token == "" && req.Email+req.Code == "":
		faults = append(faults, auth.Field{Field: "token", Reason: reasonRequired})
	case req.Token == "" && req.Email == "":
		faults = append(faults, auth.Field{Field: "email", Reason: reasonRequired})
	case req.Token == "" && req.Code == "":
		faults = append(faults, auth.Field{Field: "code", Reason: reasonRequired})
	}
	if faults != nil {
		return persistence.OneTime{}, nil, auth.ErrInvalid.With(faults...)
	}
	if req.Token != "" {
		one, err := e.OneTimes.find(ctx, purposeVerify, req.Token)
		return one, nil, err
	}
	attempt, err := e.Limits.ReserveCode(ctx, req.Email, from)
	if err != nil {
		return persistence.OneTime{}, nil, err
	}
	one, err := e.OneTimes.findCode(ctx, purposeVerify, email.ParseOrZero(req.Email), req.Code)
	return one, attempt, err
}

// create creates the account of a registration, with the address of one and the password, name and
// locale of payload. It voids the other registrations of the address.
func (e *Emails) create(ctx context.Context, tx *persistence.Store, one, payload persistence.OneTime) (auth.UserID, error) {
	now := e.Clock.Now()
	id, err := tx.CreateUser(ctx, persistence.NewUser{
		Email: one.Email, EmailKey: one.EmailKey, Password: payload.Password, Name: payload.Name, Locale: payload.Locale, At: now, Verified: true,
	})
	switch {
	case errors.Is(err, auth.ErrEmailTaken): // a registration without a mail has taken the address
		return 0, auth.ErrInvalidToken
	case err != nil:
		return 0, err
	}
	if err := tx.VoidAddress(ctx, purposeVerify, one.EmailKey); err != nil {
		return 0, err
	}
	err = tx.Emit(ctx, now,
		events.UserRegistered{UserID: id, Email: one.Email, Name: payload.Name, CreatedAt: now},
		events.UserEmailVerified{UserID: id, Email: one.Email, VerifiedAt: now})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// Resend answers auth.email.resend: it sends another mail to verify an address that is not verified.
// The reply is the same for every address. It returns auth.ErrRateLimited after too many requests.
func (e *Emails) Resend(ctx context.Context, req auth.EmailResendRequest) (auth.MailSent, error) {
	a := auditEvent{subject: string(auth.EmailResend), method: byMail, address: req.Email, client: req.Client}
	return audited(ctx, e.Log, a, req, e.resend)
}

func (e *Emails) resend(ctx context.Context, req auth.EmailResendRequest, _ *auditEvent) (auth.MailSent, error) {
	if e.OneTimes == nil {
		return auth.MailSent{}, auth.ErrNotFound
	}
	from, err := e.OneTimes.reserveMail(ctx, e.Limits, req.Email, req.Client)
	if err != nil {
		return auth.MailSent{}, err
	}
	if err := e.OneTimes.verifyAgain(ctx, email.ParseOrZero(req.Email), from, always); err != nil {
		return auth.MailSent{}, err
	}
	return auth.MailSent{Message: mailSent}, nil
}

// Change answers auth.email.change: it sends a mail to the new address; the change takes effect when
// the reader of the mail confirms it. If another account has the address, its owner gets a notice
// instead, and the reply is the same. It returns auth.ErrInvalidCredentials for a wrong password,
// which counts as a login attempt, auth.ErrInvalid for an invalid address, and auth.ErrRateLimited.
func (e *Emails) Change(ctx context.Context, req auth.EmailChangeRequest) (auth.MailSent, error) {
	return audited(ctx, e.Log, auditEvent{subject: string(auth.EmailChange), method: byPassword, client: req.Client}, req, e.change)
}

func (e *Emails) change(ctx context.Context, req auth.EmailChangeRequest, a *auditEvent) (auth.MailSent, error) {
	access, err := e.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.MailSent{}, err
	}
	a.user = access.UserID
	if e.OneTimes == nil {
		return auth.MailSent{}, auth.ErrNotFound
	}
	address, err := checkAddress("newEmail", req.NewEmail)
	if err != nil {
		return auth.MailSent{}, err
	}
	account, stored, err := e.Accounts.own(ctx, access.UserID)
	if err != nil {
		return auth.MailSent{}, err
	}
	ctx, leave, err := e.Accounts.admitted(ctx, account, req.Sender) // before reserveMail counts a mail
	if err != nil {
		return auth.MailSent{}, err
	}
	defer leave()
	from, err := e.OneTimes.reserveMail(ctx, e.Limits, req.NewEmail, req.Client)
	if err != nil {
		return auth.MailSent{}, err
	}
	attempt, err := e.Accounts.confirm(ctx, account, req.Sender, stored, req.Password)
	if err != nil {
		return auth.MailSent{}, err
	}
	err = e.OneTimes.withAddressLock(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		user, err := tx.HoldUser(ctx, access.UserID)
		if err != nil {
			return gone(err)
		}
		if _, err := e.Sessions.holdFor(ctx, tx, access, stored); err != nil {
			return err
		}
		if err := e.askNew(ctx, tx, user, address, access.SessionID, from); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
	if err != nil {
		return auth.MailSent{}, err
	}
	return auth.MailSent{Message: mailSent}, nil
}

// askNew sends a mail to confirm a new address. If another account has the address, it sends a notice to
// that account's owner instead, or a decoy if that account is disabled.
func (e *Emails) askNew(ctx context.Context, tx *persistence.Store, user auth.User, address email.Address, session string, from auth.ClientInfo) error {
	other, to, err := e.OneTimes.occupant(ctx, tx, address)
	switch {
	case errors.Is(err, auth.ErrNotFound), err == nil && other.UserID == user.UserID:
		return e.OneTimes.send(ctx, tx, mailRequest{
			kind: events.MailChange, purpose: purposeChange, to: recipient{address, user}, client: from,
			payload: persistence.OneTime{SessionID: session},
		})
	case err != nil:
		return err
	case !other.DisabledAt.IsZero():
		return e.OneTimes.sendDecoy(ctx, tx, address)
	}
	return e.OneTimes.send(ctx, tx, mailRequest{kind: events.MailTaken, to: to, client: from})
}

// Confirm answers auth.email.confirm: it gives the account the address that the mail went to, and ends
// all sessions except the one that requested the change. It notifies the former address; if that was
// verified, the notice has a link to undo the change. In addition to the link it requires a live
// session of the account or its password. It returns auth.ErrInvalidToken for a link that is not valid
// now or whose session has ended, auth.ErrReauthentication without a session or password,
// auth.ErrInvalidCredentials for a wrong password, which counts as a login attempt,
// auth.ErrRateLimited, auth.ErrConflict if the password changed concurrently, and auth.ErrEmailTaken
// if another account has taken the address. After any error the link stays valid.
func (e *Emails) Confirm(ctx context.Context, req auth.EmailConfirmRequest) (auth.EmailConfirmReply, error) {
	return audited(ctx, e.Log, auditEvent{subject: string(auth.EmailConfirm), method: byLink, client: req.Client}, req, e.confirm)
}

func (e *Emails) confirm(ctx context.Context, req auth.EmailConfirmRequest, a *auditEvent) (auth.EmailConfirmReply, error) {
	one, from, err := e.OneTimes.present(ctx, purposeChange, req.Token, req.Client)
	if err != nil {
		return auth.EmailConfirmReply{}, err
	}
	a.presents(one)
	own, attempt, err := e.establishOwner(ctx, req, one)
	if err != nil {
		return auth.EmailConfirmReply{}, err
	}
	return auth.EmailConfirmReply{}, e.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		if err := e.checkPending(ctx, tx, one); err != nil {
			return err
		}
		if err := e.recheck(ctx, tx, own); err != nil {
			return err
		}
		if err := e.move(ctx, tx, user, one); err != nil {
			return err
		}
		if err := tx.VoidOneTimes(ctx, user.UserID, purposeUndo); err != nil {
			return err
		}
		if _, err := e.Sessions.EndAll(ctx, tx, user.UserID, one.SessionID, auth.ReasonEmailChanged); err != nil {
			return err
		}
		told := mailRequest{kind: events.MailChanged, purpose: purposeUndo, to: owner(user), client: from, address: one.Email}
		if !user.EmailVerified { // an unverified address may belong to a stranger
			told.purpose = ""
		}
		if err := e.OneTimes.send(ctx, tx, told); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
}

// checkPending returns auth.ErrInvalidToken if the session that requested a change of address has ended.
func (e *Emails) checkPending(ctx context.Context, tx *persistence.Store, change persistence.OneTime) error {
	live, err := e.Sessions.isLive(ctx, tx, change.SessionID, change.UserID)
	if err == nil && !live {
		return auth.ErrInvalidToken
	}
	return err
}

// move gives a user the address of a link.
func (e *Emails) move(ctx context.Context, tx *persistence.Store, user auth.User, one persistence.OneTime) error {
	now := e.Clock.Now()
	if err := tx.SetEmail(ctx, user.UserID, one.Email, one.EmailKey, now); err != nil {
		return err
	}
	return tx.Emit(ctx, now, events.UserEmailChanged{UserID: user.UserID, Email: one.Email, ChangedAt: now})
}

// Undo answers auth.email.undo: it restores the former address of the account and contains the
// account, because the request for the change carried its password. It notifies the other address. It
// returns auth.ErrInvalidToken for a link that is not valid now, and auth.ErrEmailTaken if another
// account has the former address.
func (e *Emails) Undo(ctx context.Context, req auth.EmailUndoRequest) (auth.EmailUndoReply, error) {
	return audited(ctx, e.Log, auditEvent{subject: string(auth.EmailUndo), method: byLink, client: req.Client}, req, e.undo)
}

func (e *Emails) undo(ctx context.Context, req auth.EmailUndoRequest, a *auditEvent) (auth.EmailUndoReply, error) {
	one, from, err := e.OneTimes.present(ctx, purposeUndo, req.Token, req.Client)
	if err != nil {
		return auth.EmailUndoReply{}, err
	}
	a.presents(one)
	return auth.EmailUndoReply{}, e.OneTimes.take(ctx, one, func(ctx context.Context, tx *persistence.Store, user auth.User) error {
		if err := e.move(ctx, tx, user, one); err != nil {
			return err
		}
		// An older link restores an earlier address, so an intruder who undoes a change must not void it.
		if err := tx.VoidOneTimesSince(ctx, user.UserID, purposeUndo, one.CreatedAt); err != nil {
			return err
		}
		if user.Email != one.Email {
			if err := e.OneTimes.send(ctx, tx, mailRequest{kind: events.MailChanged, to: owner(user), client: from, address: one.Email}); err != nil {
				return err
			}
		}
		user.Email = one.Email
		return e.Accounts.contain(ctx, tx, user, auth.ReasonEmailChanged, from)
	})
}
