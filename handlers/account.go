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

// Accounts creates, returns, changes and deletes accounts on behalf of their owners. All fields but Clock,
// Limits, OneTimes, Notices, Log and Verification are required.
type Accounts struct {
	Store     *persistence.Store
	Passwords *password.Hasher
	Sessions  *Sessions
	Reauth    time.Duration      // maximum age of a login that may delete the account without a password; 0 disables this
	Limits    *ratelimit.Limiter // of registrations and password attempts; nil sets none
	OneTimes  *OneTimeTokens     // required unless Verification is off
	Notices   *Notices           // nil sends none
	Log       *slog.Logger       // of outcomes; nil logs none
	Clock     clock.Func

	Verification Verification // of addresses
}

// Register answers auth.register: it creates an account. It returns auth.ErrEmailTaken,
// auth.ErrRateLimited after too many registrations from the source, or an auth.ErrInvalid error
// that names all invalid members; then it creates no account. With VerificationRequired it creates
// the account only after verification, and the reply is the same for an address that is taken.
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
	hash, err := a.Passwords.Hash(ctx, req.Password) // deliberately slow, so outside a transaction
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

// create stores an account. With VerificationOptional it also sends a mail to verify the address.
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

// enter keeps a registration pending until its address is verified, and sends a mail to the address.
// Only the reader of the mail learns whether the address has an account. An address can have several
// pending registrations.
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

// Get answers auth.account.get: it returns the account of the token's user. It returns the errors of
// Sessions.Verify for a token that is not valid now.
func (a *Accounts) Get(ctx context.Context, req auth.AccountGetRequest) (auth.Account, error) {
	user, err := a.Sessions.user(ctx, req.Bearer)
	if err != nil {
		return auth.Account{}, err
	}
	account, err := a.Store.Account(ctx, user.UserID)
	return account, gone(err)
}

// gone returns auth.ErrTokenRevoked for auth.ErrNotFound: the account was deleted after its token was
// verified. It returns every other error unchanged.
func gone(err error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return auth.ErrTokenRevoked
	}
	return err
}

// Update answers auth.account.update: it changes the members that the request contains, and returns
// the resulting account. It returns the errors of Sessions.Verify, auth.ErrInvalid, or
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
		if _, err := live(ctx, tx, user.SessionID); err != nil { // checked again now that the row is locked
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

// checkUpdate returns an auth.ErrInvalid error that names the invalid members, or nil.
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

// updated returns the user.updated event of an account.
func updated(a auth.Account) events.UserUpdated {
	return events.UserUpdated{UserID: a.UserID, Name: a.Name, Locale: a.Locale, UpdatedAt: a.UpdatedAt}
}

// Delete answers auth.account.delete: it deletes the account and its sessions. It returns
// auth.ErrInvalidCredentials for a wrong password, auth.ErrRateLimited after too many attempts, and
// auth.ErrReauthentication if the request has no password and the login is older than Reauth.
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
	recent := age >= -token.Leeway && age < a.Reauth // a login ahead of the clock has an unknown age
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

// delete ends the sessions of an account and deletes the account, if its stored password is still
// password; otherwise it returns auth.ErrConflict. It returns auth.ErrTokenRevoked if the caller's
// session has ended. It marks the attempt that confirmed the password as succeeded.
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

// admitted waits for a place in the hashing pool for a request of the account's owner, whose access
// token has been verified. The caller calls confirm next.
func (a *Accounts) admitted(ctx context.Context, account auth.Account, from auth.Sender) (context.Context, func(), error) {
	kept, faults := client(from.Client)
	if faults != nil {
		return ctx, func() {}, auth.ErrInvalid.With(faults...)
	}
	return a.Limits.AdmitLogin(ctx, a.Passwords.Pool, account.Email, kept, true)
}

// confirm compares plain with the account's stored password. The comparison counts as a login
// attempt. ctx is the context from admitted. It returns auth.ErrInvalidCredentials for a wrong
// password, and auth.ErrRateLimited after too many attempts.
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

// startFree sets the password, name and locale of payload on an account whose owner has just proved the
// mailbox. It removes the setup from before the proof: sessions, links, codes and known devices.
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

// contain locks out an intruder who knows the password: it removes the password, ends all sessions,
// and sends the owner a mail with a link to set a new password. Until the owner sets one, only a login
// by mail is possible. The caller has locked the user's row and voids the links and codes that were
// sent before.
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
