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

// Verification says whether an address has to be proved.
type Verification string

// The kinds of Verification; "" is VerificationOff.
const (
	VerificationOff      Verification = "off"      // a registration sends no mail
	VerificationOptional Verification = "optional" // it does, and an account can be used before
	VerificationRequired Verification = "required" // there is no account before, and no login
)

// remindEvery is how often a login before the address was verified sends another mail.
const remindEvery = time.Minute

// Emails proves and changes the addresses of accounts. All fields but OneTimes, without which
// there is no mail and everything is auth.ErrNotFound, Limits, Log and Clock are required.
type Emails struct {
	Store    *persistence.Store
	OneTimes *OneTimeTokens
	Accounts *Accounts
	Sessions *Sessions
	Limits   *ratelimit.Limiter
	Log      *slog.Logger // of outcomes; nil is none
	Clock    clock.Func
}

// Verify answers auth.email.verify: it verifies the address of an account, or makes an account of
// a registration. Beside the link or code it needs an ownership; see that type. It returns
// auth.ErrInvalidToken for a link or code that is not good now, auth.ErrReauthentication without
// an ownership, auth.ErrInvalid for a password that is not accepted, auth.ErrConflict if the account
// changed at the same moment, and auth.ErrRateLimited after too many attempts. After any error
// the link or code stays valid.
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

// presented finds what a link or a code is for, and counts the try at a code.
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

// create makes an account of the address of a registration, with the password, name and locale of
// grants. The other registrations of the address are void then.
func (e *Emails) create(ctx context.Context, tx *persistence.Store, one, payload persistence.OneTime) (auth.UserID, error) {
	now := e.Clock.Now()
	id, err := tx.CreateUser(ctx, persistence.NewUser{
		Email: one.Email, EmailKey: one.EmailKey, Password: payload.Password, Name: payload.Name, Locale: payload.Locale, At: now, Verified: true,
	})
	switch {
	case errors.Is(err, auth.ErrEmailTaken): // by a registration without a mail
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

// Resend answers auth.email.resend: another mail to verify an address with, if that is not yet.
// The answer is the same for any address. It returns auth.ErrRateLimited after too many.
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

// Change answers auth.email.change: a mail goes to the new address, and nothing changes before
// it is answered. If another account has the address, its owner is told, and the answer is the
// same. It returns auth.ErrInvalidCredentials for a wrong password, which counts as a login
// does, auth.ErrInvalid for what is no address, and auth.ErrRateLimited.
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
	ctx, leave, err := e.Accounts.admitted(ctx, account, req.Sender) // before a mail is counted
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

// askNew sends the mail that a new address is confirmed by, or tells the owner of a taken one.
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

// Confirm answers auth.email.confirm: the account gets the address that the mail went to, and
// all sessions end but the one that asked for it. The former address is told, with a link to
// undo it if it was verified. Beside the link it needs a live session of the account, or its
// password. It returns auth.ErrInvalidToken for a link that is not good now, or whose session is
// over, auth.ErrReauthentication without a session or password, auth.ErrInvalidCredentials for a
// wrong password, which counts as a login does, auth.ErrRateLimited, auth.ErrConflict if the password
// changed at the same moment, and auth.ErrEmailTaken if another account was faster. After any error
// the link stays valid.
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
		if !user.EmailVerified { // then it may be anybody's
			told.purpose = ""
		}
		if err := e.OneTimes.send(ctx, tx, told); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
}

// checkPending returns auth.ErrInvalidToken if the session that requested a change of address is over.
func (e *Emails) checkPending(ctx context.Context, tx *persistence.Store, change persistence.OneTime) error {
	live, err := e.Sessions.isLive(ctx, tx, change.SessionID, change.UserID)
	if err == nil && !live {
		return auth.ErrInvalidToken
	}
	return err
}

// move gives a user the address that a link is about.
func (e *Emails) move(ctx context.Context, tx *persistence.Store, user auth.User, one persistence.OneTime) error {
	now := e.Clock.Now()
	if err := tx.SetEmail(ctx, user.UserID, one.Email, one.EmailKey, now); err != nil {
		return err
	}
	return tx.Emit(ctx, now, events.UserEmailChanged{UserID: user.UserID, Email: one.Email, ChangedAt: now})
}

// Undo answers auth.email.undo: the account gets its former address back and is contained, as the
// request for the change came with the password. The other address is notified. It returns
// auth.ErrInvalidToken for a link that is not good now, and auth.ErrEmailTaken if another account
// has the former address.
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
		// An older link leads further back: an intruder who undoes a change must not void it.
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
