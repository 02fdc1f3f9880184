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
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// Accounts makes accounts and shows them to their owners. All fields but Clock, Limits,
// OneTimes, Notices, Log and Verification are required.
type Accounts struct {
	Store     *persistence.Store
	Passwords *password.Hasher
	Sessions  *Sessions
	Reauth    time.Duration      // how long a login is recent enough for what is sensitive; 0 never
	Limits    *ratelimit.Limiter // of registrations and of tries at passwords; nil is none
	OneTimes  *OneTimeTokens     // needed unless Verification is off
	Notices   *Notices           // nil is none
	Log       *slog.Logger       // of outcomes; nil is none
	Clock     clock.Func

	Verification Verification // of addresses
}

// Register answers auth.register: it creates an account. It returns auth.ErrEmailTaken,
// auth.ErrRateLimited if too many came from where the request does, or an auth.ErrInvalid error
// that names all members at fault; nothing is stored then. If addresses have to be verified
// first, there is no account before, and the answer is the same for one that is taken.
func (a *Accounts) Register(ctx context.Context, req auth.RegisterRequest) (auth.RegisterReply, error) {
	tried := auditEvent{subject: string(auth.Register), method: byPassword, address: req.Email, client: req.Client}
	return audited(ctx, a.Log, tried, req, a.register)
}

func (a *Accounts) register(ctx context.Context, req auth.RegisterRequest, tried *auditEvent) (auth.RegisterReply, error) {
	address, from, err := a.checkRegister(ctx, req)
	if err != nil {
		return auth.RegisterReply{}, err
	}
	ctx, leave, err := a.Limits.AdmitRegistration(ctx, a.Passwords.Pool, from)
	if err != nil {
		return auth.RegisterReply{}, err
	}
	defer leave()
	if err := a.Limits.ReserveRegistration(ctx, from); err != nil {
		return auth.RegisterReply{}, err
	}
	if a.Verification == VerificationRequired {
		if _, err := a.Limits.ReserveMail(ctx, req.Email, from); err != nil {
			return auth.RegisterReply{}, err
		}
	}
	hash, err := a.Passwords.Hash(ctx, req.Password) // slow on purpose, so outside of a transaction
	if err != nil {
		return auth.RegisterReply{}, err
	}
	var proof *auth.RegistrationProof
	payload := persistence.OneTime{Password: hash, Name: req.Name, Locale: req.Locale}
	if a.Verification == VerificationOptional || a.Verification == VerificationRequired {
		proof, payload.Registration = a.OneTimes.newRegistration(address.Key)
	}
	if a.Verification == VerificationRequired {
		if err := a.enter(ctx, address, payload, from); err != nil {
			return auth.RegisterReply{}, err
		}
		return auth.RegisterReply{Message: "A mail to the address tells how to go on", Registration: proof}, nil
	}
	id, err := a.create(ctx, address, payload, from)
	if err != nil {
		return auth.RegisterReply{}, err
	}
	tried.user = id
	return auth.RegisterReply{Message: "User registered successfully", UserID: id, Registration: proof}, nil
}

// create stores an account, and asks for the mail that its address may be verified by.
func (a *Accounts) create(ctx context.Context, address email.Address, payload persistence.OneTime, from auth.ClientInfo) (id auth.UserID, err error) {
	user := persistence.NewUser{
		Email: address.Display, EmailKey: address.Key, Password: payload.Password, Name: payload.Name, Locale: payload.Locale, At: a.Clock.Now(),
	}
	err = a.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if id, err = tx.CreateUser(ctx, user); err != nil {
			return err
		}
		err = tx.Emit(ctx, user.At, events.UserRegistered{UserID: id, Email: user.Email, Name: user.Name, CreatedAt: user.At})
		if err != nil || a.Verification != VerificationOptional {
			return err
		}
		to := recipient{address, auth.User{Account: auth.Account{UserID: id, Email: user.Email, Name: user.Name, Locale: user.Locale}}}
		return a.OneTimes.send(ctx, tx, mailRequest{
			kind: events.MailVerify, purpose: purposeVerify, to: to, client: from,
			payload: persistence.OneTime{Registration: payload.Registration},
		})
	})
	return id, err
}

// enter keeps a registration until its address is verified, by the mail that it asks for: only
// the reader of that mail learns whether the address has an account. Several registrations of
// an address wait side by side.
func (a *Accounts) enter(ctx context.Context, address email.Address, payload persistence.OneTime, from auth.ClientInfo) error {
	return a.OneTimes.withAddressLock(ctx, address.Key, func(ctx context.Context, tx *persistence.Store) error {
		user, to, err := a.OneTimes.occupant(ctx, tx, address)
		switch {
		case errors.Is(err, auth.ErrNotFound):
			user = auth.User{Account: auth.Account{Email: address.Display, Name: payload.Name, Locale: payload.Locale}}
		case err != nil:
			return err
		case !user.DisabledAt.IsZero():
			return a.OneTimes.sendDecoy(ctx, tx, address)
		case user.EmailVerified:
			return a.OneTimes.send(ctx, tx, mailRequest{kind: events.MailTaken, to: to, client: from})
		}
		return a.OneTimes.send(ctx, tx, mailRequest{
			kind: events.MailVerify, purpose: purposeVerify, to: owner(user), client: from, payload: payload,
		})
	})
}

func (a *Accounts) checkRegister(ctx context.Context, req auth.RegisterRequest) (email.Address, auth.ClientInfo, error) {
	var faults []auth.Field
	address, err := email.Parse(req.Email)
	switch {
	case req.Email == "":
		faults = append(faults, auth.Field{Field: "email", Reason: reasonRequired})
	case err != nil:
		faults = append(faults, auth.Field{Field: "email", Reason: reasonInvalid})
	}
	if reason := a.checkNew(ctx, req.Password, auth.Account{Email: address.Display, Name: req.Name}); reason != "" {
		faults = append(faults, auth.Field{Field: "password", Reason: reason})
	}
	if reason := checkName(req.Name); reason != "" {
		faults = append(faults, auth.Field{Field: "name", Reason: reason})
	}
	if reason := checkLocale(req.Locale); reason != "" {
		faults = append(faults, auth.Field{Field: "locale", Reason: reason})
	}
	from, wrong := client(req.Client)
	if faults = append(faults, wrong...); faults != nil {
		return email.Address{}, auth.ClientInfo{}, auth.ErrInvalid.With(faults...)
	}
	return address, from, nil
}

// Get answers auth.account.get: the account of the token's user. It returns the errors of
// Sessions.Verify for tokens that are not valid now.
func (a *Accounts) Get(ctx context.Context, req auth.AccountGetRequest) (auth.Account, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.Account{}, err
	}
	account, err := a.Store.Account(ctx, user.UserID)
	return account, gone(err)
}

// gone is the error of an account that was deleted since its token was looked at.
func gone(err error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return auth.ErrTokenRevoked
	}
	return err
}

// Update answers auth.account.update: it changes what the request names, and returns the
// account as it is then. It returns the errors of Sessions.Verify, auth.ErrInvalid, or
// auth.ErrRateLimited after too many changes of the account.
func (a *Accounts) Update(ctx context.Context, req auth.AccountUpdateRequest) (auth.Account, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.Account{}, err
	}
	if req.Name == nil && req.Locale == nil {
		account, err := a.Store.Account(ctx, user.UserID)
		return account, gone(err)
	}
	if err := checkUpdate(req); err != nil {
		return auth.Account{}, err
	}
	var account auth.Account
	var wait time.Duration
	err = a.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if wait, err = a.Limits.ReserveUpdate(ctx, tx, user.UserID); err != nil || wait > 0 {
			return err
		}
		if account, err = tx.UpdateUser(ctx, user.UserID, persistence.Change{Name: req.Name, Locale: req.Locale}, a.Clock.Now()); err != nil {
			return err
		}
		if _, err := live(ctx, tx, user.SessionID); err != nil { // now that the row is held
			return err
		}
		return tx.Emit(ctx, account.UpdatedAt, updated(account))
	})
	switch {
	case err != nil:
		return auth.Account{}, gone(err)
	case wait > 0:
		return auth.Account{}, auth.ErrRateLimited.After(wait)
	}
	return account, nil
}

// checkUpdate names the members that are not taken.
func checkUpdate(req auth.AccountUpdateRequest) error {
	var faults []auth.Field
	if req.Name != nil {
		if reason := checkName(*req.Name); reason != "" {
			faults = append(faults, auth.Field{Field: "name", Reason: reason})
		}
	}
	if req.Locale != nil {
		if reason := checkLocale(*req.Locale); reason != "" {
			faults = append(faults, auth.Field{Field: "locale", Reason: reason})
		}
	}
	if faults != nil {
		return auth.ErrInvalid.With(faults...)
	}
	return nil
}

// updated is what user.updated tells of an account.
func updated(a auth.Account) events.UserUpdated {
	return events.UserUpdated{UserID: a.UserID, Name: a.Name, Locale: a.Locale, UpdatedAt: a.UpdatedAt}
}

// Delete answers auth.account.delete: the account goes, and its sessions with it. It returns
// auth.ErrInvalidCredentials for a wrong password, auth.ErrRateLimited after too many tries, and
// auth.ErrReauthentication if there is none and the login is not recent.
func (a *Accounts) Delete(ctx context.Context, req auth.AccountDeleteRequest) (auth.AccountDeleteReply, error) {
	tried := auditEvent{subject: string(auth.AccountDelete), method: byPassword, client: req.Client}
	if req.Password == "" {
		tried.method = byAccessToken
	}
	return audited(ctx, a.Log, tried, req, a.deleteOwn)
}

func (a *Accounts) deleteOwn(ctx context.Context, req auth.AccountDeleteRequest, tried *auditEvent) (auth.AccountDeleteReply, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.AccountDeleteReply{}, err
	}
	tried.user = user.UserID
	age := a.Clock.Now().Sub(user.AuthTime)
	recent := age >= -token.Leeway && age < a.Reauth // a login ahead of the clock is of unknown age
	if req.Password == "" && !recent {
		return auth.AccountDeleteReply{}, auth.ErrReauthentication
	}
	stored, err := a.Store.Password(ctx, user.UserID)
	if err != nil {
		return auth.AccountDeleteReply{}, gone(err)
	}
	if req.Password == "" {
		return auth.AccountDeleteReply{}, a.delete(ctx, user, stored, nil)
	}
	account, err := a.Store.Account(ctx, user.UserID)
	if err != nil {
		return auth.AccountDeleteReply{}, gone(err)
	}
	ctx, leave, err := a.admitted(ctx, account, req.Sender)
	if err != nil {
		return auth.AccountDeleteReply{}, err
	}
	defer leave()
	attempt, err := a.confirm(ctx, account, req.Sender, stored, req.Password)
	if err != nil {
		return auth.AccountDeleteReply{}, err
	}
	return auth.AccountDeleteReply{}, a.delete(ctx, user, stored, attempt)
}

// delete ends the sessions of an account and deletes it with them, if the stored password is the
// one that was looked at; otherwise it returns auth.ErrConflict. It returns auth.ErrTokenRevoked if
// the session that asks has ended meanwhile. It settles the try that confirmed the password.
func (a *Accounts) delete(ctx context.Context, user token.Access, password string, attempt *ratelimit.Reservation) error {
	return a.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		if _, err := a.Sessions.holdFor(ctx, tx, user, password); err != nil {
			return err
		}
		if err := a.Sessions.endOfDeleted(ctx, tx, user.UserID); err != nil {
			return err
		}
		deleted, err := tx.DeleteUser(ctx, user.UserID, password)
		if err == nil && !deleted {
			err = auth.ErrConflict
		}
		if err != nil {
			return err
		}
		now := a.Clock.Now()
		if err := tx.Emit(ctx, now, events.UserDeleted{UserID: user.UserID, DeletedAt: now}); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
}

// own returns a user's account and stored password.
func (a *Accounts) own(ctx context.Context, id auth.UserID) (account auth.Account, stored string, err error) {
	if account, err = a.Store.Account(ctx, id); err != nil {
		return auth.Account{}, "", gone(err)
	}
	stored, err = a.Store.Password(ctx, id)
	return account, stored, gone(err)
}

// admitted waits for a place in the hashing pool for a request of an account's owner, whose access
// token has been verified. confirm comes next.
func (a *Accounts) admitted(ctx context.Context, account auth.Account, from auth.Sender) (context.Context, func(), error) {
	kept, faults := client(from.Client)
	if faults != nil {
		return ctx, func() {}, auth.ErrInvalid.With(faults...)
	}
	return a.Limits.AdmitLogin(ctx, a.Passwords.Pool, account.Email, kept, true)
}

// confirm compares the password that the account's owner gives with the stored one, which is a
// try as a login is. ctx is that of admitted. It returns auth.ErrInvalidCredentials if it is another one, and
// auth.ErrRateLimited after too many tries.
func (a *Accounts) confirm(ctx context.Context, account auth.Account, from auth.Sender, stored, plain string) (*ratelimit.Reservation, error) {
	kept, faults := client(from.Client)
	if faults != nil {
		return nil, auth.ErrInvalid.With(faults...)
	}
	attempt, err := a.Limits.ReserveLogin(ctx, account.Email, kept)
	if err != nil {
		return nil, err
	}
	found, err := a.Passwords.Compare(ctx, stored, plain)
	switch {
	case err != nil:
		return nil, err
	case !found.Match:
		return nil, errWrongPassword
	}
	return attempt, nil
}

// startFree gives an account whose mailbox was just proved the password, name and locale of grants,
// and removes everything that was set up before the proof: sessions, links, codes and known devices.
func (a *Accounts) startFree(ctx context.Context, tx *persistence.Store, user auth.User, payload persistence.OneTime, reason auth.Reason) error {
	now := a.Clock.Now()
	if err := tx.SetPassword(ctx, user.UserID, payload.Password, now); err != nil {
		return err
	}
	if err := tx.Emit(ctx, now, events.UserPasswordChanged{UserID: user.UserID, ChangedAt: now}); err != nil {
		return err
	}
	if user.Name != payload.Name || user.Locale != payload.Locale {
		account, err := tx.UpdateUser(ctx, user.UserID, persistence.Change{Name: &payload.Name, Locale: &payload.Locale}, now)
		if err != nil {
			return err
		}
		if err := tx.Emit(ctx, now, updated(account)); err != nil {
			return err
		}
	}
	if err := tx.ForgetDevices(ctx, user.UserID); err != nil {
		return err
	}
	return a.Sessions.takeOver(ctx, tx, user, "", reason)
}

// contain takes an account away from an intruder, who knows the password: the account has none from
// now on, all sessions end, and a mail with a link to set another password goes to the owner.
// Until then only mail to the address logs in. The caller has locked the user's row and voids the
// links and codes that were sent before.
func (a *Accounts) contain(ctx context.Context, tx *persistence.Store, user auth.User, reason auth.Reason, from auth.ClientInfo) error {
	now := a.Clock.Now()
	if err := tx.SetPassword(ctx, user.UserID, "", now); err != nil {
		return err
	}
	if err := tx.Emit(ctx, now, events.UserPasswordChanged{UserID: user.UserID, ChangedAt: now}); err != nil {
		return err
	}
	if _, err := a.Sessions.EndAll(ctx, tx, user.UserID, "", reason); err != nil {
		return err
	}
	return a.OneTimes.send(ctx, tx, mailRequest{kind: events.MailReset, purpose: purposeRecover, to: owner(user), client: from})
}
