package handlers

import (
	"context"
	"errors"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/persistence"
)

// ownership is the proof, beyond the mailbox, that a request presents for the account of an address, and the
// consequence for the account. The mail alone proves only the mailbox. It does not activate a password that the
// owner of the mailbox did not choose: a stranger may have registered the address.
type ownership struct {
	user   auth.UserID // account of the address when ownership was established; 0 if there was none
	stored string      // stored password of that account at that time

	// keeps means that the account stays unchanged. Otherwise it starts with payload and loses its earlier
	// setup.
	keeps   bool
	session string // live session that proved the ownership; "" if another proof did
	payload persistence.OneTime
}

// errNoOwnership means that a request presents a link or code without a session, a registration's secret or a
// password.
var errNoOwnership = auth.ErrReauthentication.With(auth.Field{Field: "password", Reason: reasonRequired})

// establish returns the ownership that a request proves by a live session of the account, the secret
// of a registration, or a password, in this order, and the reservation of the attempt. It ignores a session
// or secret that does not match. establish runs outside of a transaction because it hashes passwords; prove
// checks that the account has not changed. It returns errNoOwnership, auth.ErrInvalidToken if another request
// has used the link or code, auth.ErrInvalid for a rejected password, auth.ErrRateLimited, and
// auth.ErrOverloaded.
func (e *Emails) establish(ctx context.Context, req auth.EmailVerifyRequest, one persistence.OneTime, attempt *ratelimit.Reservation) (ownership, *ratelimit.Reservation, error) {
	account, err := e.Store.Credentials(ctx, one.EmailKey)
	if err != nil && !errors.Is(err, auth.ErrNotFound) {
		return ownership{}, nil, err
	}
	own := ownership{user: account.UserID, stored: account.Password}
	own.session, err = e.ownSession(ctx, req.AccessToken, account.UserID)
	if err != nil {
		return ownership{}, nil, err
	}
	if own.session != "" {
		own.keeps = true
		return own, attempt, nil
	}
	registered, ok, err := e.OneTimes.registration(ctx, e.Store, one.EmailKey, req.Registration)
	switch {
	case err != nil:
		return ownership{}, nil, err
	case ok:
		own.registered(registered)
		return own, attempt, nil
	case req.Password == "":
		return ownership{}, nil, e.withoutOwnership(ctx, one)
	}
	from, _ := client(req.Client)                                                          // present has checked it
	ctx, leave, err := e.Accounts.Passwords.Pool.Enter(ctx, ratelimit.ClassOf(from, true)) // the link or code proves the mailbox
	if err != nil {
		return ownership{}, nil, err
	}
	defer leave()
	if attempt == nil { // a link's token cannot be guessed, but its holder must not hash without limit
		if attempt, err = e.Limits.ReserveLink(ctx, one.Digest, from); err != nil {
			return ownership{}, nil, err
		}
	}
	err = e.byPassword(ctx, &own, one, req.Password)
	return own, attempt, err
}

// withoutOwnership returns errNoOwnership, or auth.ErrInvalidToken if another request has used the link or
// code since: that request also removed the registration that the secret of this request belongs to.
func (e *Emails) withoutOwnership(ctx context.Context, one persistence.OneTime) error {
	if _, err := e.Store.OneTime(ctx, purposeVerify, e.Clock.Now(), one.Digest); err != nil {
		return asInvalidToken(err)
	}
	return errNoOwnership
}

// ownSession returns the id of the session of an access token if the session is live and belongs to the user,
// and "" otherwise.
func (e *Emails) ownSession(ctx context.Context, token string, user auth.UserID) (string, error) {
	if token == "" || user == 0 {
		return "", nil
	}
	access, err := e.Sessions.authenticate(ctx, token)
	switch {
	case err != nil && auth.Public(err).Code.Status() == auth.CodeInvalidToken.Status(), err == nil && access.UserID != user:
		return "", nil
	case err != nil:
		return "", err
	}
	return access.SessionID, nil
}

// registered records that the request comes from the maker of a registration: either the registration that made
// the account, or a pending one.
func (own *ownership) registered(one persistence.OneTime) {
	own.keeps = one.Password == ""
	own.payload = granted(one)
}

// granted returns the password, name and locale of a registration.
func granted(one persistence.OneTime) persistence.OneTime {
	return persistence.OneTime{Password: one.Password, Name: one.Name, Locale: one.Locale}
}

// byPassword establishes the ownership by a password: the account's, the password of the registration
// that the mail belongs to, or a new one. It returns auth.ErrInvalid for a new password that is rejected.
func (e *Emails) byPassword(ctx context.Context, own *ownership, one persistence.OneTime, plain string) error {
	for _, stored := range []string{own.stored, one.Password} {
		if stored == "" {
			continue
		}
		switch found, err := e.Accounts.Passwords.Compare(ctx, stored, plain); {
		case err != nil:
			return err
		case found.Match && stored == own.stored:
			own.keeps = true
			return nil
		case found.Match:
			own.registered(one)
			return nil
		}
	}
	if reason := e.Accounts.checkNew(ctx, plain, auth.Account{Email: one.Email}); reason != "" {
		return auth.ErrInvalid.With(auth.Field{Field: "password", Reason: reason})
	}
	fresh, err := e.Accounts.Passwords.Hash(ctx, plain)
	own.payload = persistence.OneTime{Password: fresh}
	return err
}

// prove creates the account of a registration, or verifies the address of an account, and returns the
// account's id. It returns auth.ErrInvalidToken if the account is verified or disabled, auth.ErrConflict if
// it changed since its ownership was established, and errNoOwnership if the session has ended since.
func (e *Emails) prove(ctx context.Context, tx *persistence.Store, user auth.User, one persistence.OneTime, own ownership) (auth.UserID, error) {
	switch {
	case user.EmailVerified, !user.DisabledAt.IsZero():
		return 0, auth.ErrInvalidToken
	case user.UserID != own.user:
		return 0, auth.ErrConflict
	case user.UserID == 0:
		return e.create(ctx, tx, one, own.payload)
	}
	if err := e.recheck(ctx, tx, own); err != nil {
		return 0, err
	}
	if own.keeps {
		return user.UserID, e.Sessions.takeOver(ctx, tx, user, own.session, auth.ReasonEmailChanged)
	}
	return user.UserID, e.Accounts.startFree(ctx, tx, user, own.payload, auth.ReasonEmailChanged)
}

// establishOwner is establish for a change of address. The account has an owner, so it does not accept a new
// password: a live session of the account proves the ownership, or the current password, which counts as a
// login attempt. It returns auth.ErrInvalidToken if the session that requested the change has ended,
// errNoOwnership, auth.ErrInvalidCredentials, auth.ErrRateLimited, and auth.ErrOverloaded.
func (e *Emails) establishOwner(ctx context.Context, req auth.EmailConfirmRequest, one persistence.OneTime) (ownership, *ratelimit.Reservation, error) {
	if err := e.checkPending(ctx, e.Store, one); err != nil {
		return ownership{}, nil, err
	}
	account, err := e.Store.Account(ctx, one.UserID)
	if err != nil {
		return ownership{}, nil, asInvalidToken(err)
	}
	stored, err := e.Store.Password(ctx, one.UserID)
	if err != nil {
		return ownership{}, nil, asInvalidToken(err)
	}
	own := ownership{user: one.UserID, stored: stored, keeps: true}
	own.session, err = e.ownSession(ctx, req.AccessToken, one.UserID)
	switch {
	case err != nil:
		return ownership{}, nil, err
	case own.session != "":
		return own, nil, nil
	case req.Password == "":
		return ownership{}, nil, errNoOwnership
	}
	ctx, leave, err := e.Accounts.admitted(ctx, account, req.Sender)
	if err != nil {
		return ownership{}, nil, err
	}
	defer leave()
	attempt, err := e.Accounts.confirm(ctx, account, req.Sender, stored, req.Password)
	if err != nil {
		return ownership{}, nil, err
	}
	return own, attempt, nil
}

// recheck locks the account that an ownership was established for. It returns auth.ErrConflict if the stored
// password has changed since, and errNoOwnership if the session that proved the ownership has ended.
func (e *Emails) recheck(ctx context.Context, tx *persistence.Store, own ownership) error {
	stored, err := tx.HoldPassword(ctx, own.user)
	switch {
	case err != nil:
		return err
	case stored != own.stored:
		return auth.ErrConflict
	case own.session == "":
		return nil
	}
	live, err := e.Sessions.isLive(ctx, tx, own.session, own.user)
	if err == nil && !live {
		return errNoOwnership
	}
	return err
}
