package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// amrPassword is the amr value of a login by password (RFC 8176 §2).
const amrPassword = "pwd"

// Sessions starts, refreshes and ends sessions. All fields but Clock, Steady, Grace, Limit,
// Limits, OneTimes, Required, Notices and Log are required.
type Sessions struct {
	Store     *persistence.Store
	Passwords *password.Hasher
	Keys      *keyring.Keys
	Issuer    token.Issuer
	Refreshes []token.Key        // sign refresh tokens; the first signs new ones
	AccessTTL time.Duration      // of an access token; Keys records it while such tokens may be valid
	IdleTTL   time.Duration      // of a refresh token, and so of a session that is not refreshed
	MaxAge    time.Duration      // of a session, regardless of refreshes
	Grace     time.Duration      // in which a spent refresh token gets its successor again; 0 is strict
	Limit     int                // of a user's live sessions; the oldest end first; 0 is none
	Limits    *ratelimit.Limiter // of password attempts and of refreshes; nil is none
	OneTimes  *OneTimeTokens     // required if Required is set
	Required  bool               // a login requires a verified address
	Notices   *Notices           // nil sends none
	Log       *slog.Logger       // of outcomes; nil is none
	Clock     clock.Func
	Steady    func() time.Duration // time since Clock last jumped; nil if it never does
}

// loggedIn is the message of a login.
const loggedIn = "Login successful"

// Login answers auth.login: it starts a session. For any fault of the address or password it returns
// auth.ErrInvalidCredentials; after too many attempts it returns auth.ErrRateLimited, whether the password
// is right or not.
func (s *Sessions) Login(ctx context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
	a := auditEvent{subject: string(auth.Login), method: byPassword, address: req.Email, client: req.Client}
	return audited(ctx, s.Log, a, req, s.login)
}

func (s *Sessions) login(ctx context.Context, req auth.LoginRequest, a *auditEvent) (auth.LoginReply, error) {
	from, err := origin(req.Client, req.Carrier)
	if err != nil {
		return auth.LoginReply{}, err
	}
	ctx, leave, err := s.Limits.AdmitLogin(ctx, s.Passwords.Pool, req.Email, from.client, false)
	if err != nil {
		return auth.LoginReply{}, err
	}
	defer leave()
	attempt, err := s.Limits.ReserveLogin(ctx, req.Email, from.client)
	if err != nil {
		return auth.LoginReply{}, err
	}
	user, err := s.check(ctx, req.Email, req.Password, a)
	if errors.Is(err, auth.ErrInvalidCredentials) {
		err = s.remind(ctx, req.Email, from.client, err)
	}
	if err != nil {
		return auth.LoginReply{}, err
	}
	session, err := s.begin(ctx, user, from, attempt)
	if errors.Is(err, errPasswordMoved) {
		if user, err = s.check(ctx, req.Email, req.Password, a); err == nil {
			session, err = s.begin(ctx, user, from, attempt)
		}
	}
	if err != nil {
		return auth.LoginReply{}, err
	}
	tokens, err := s.tokens(session, session.CreatedAt)
	if err != nil {
		return auth.LoginReply{}, err
	}
	return auth.LoginReply{Message: loggedIn, UserID: user.UserID, Tokens: tokens}, nil
}

// check returns the user that the address and password belong to, or auth.ErrInvalidCredentials.
func (s *Sessions) check(ctx context.Context, address, plain string, a *auditEvent) (persistence.Credentials, error) {
	user, err := s.credentials(ctx, address)
	if err != nil {
		return persistence.Credentials{}, err
	}
	a.user = user.UserID
	found, err := s.Passwords.Compare(ctx, user.Password, plain)
	switch {
	case err != nil:
		return persistence.Credentials{}, fmt.Errorf("user %d: %w", user.UserID, err)
	case !found.Match && user.UserID == 0:
		return persistence.Credentials{}, errUnknown
	case !found.Match:
		return persistence.Credentials{}, errWrongPassword
	case user.Disabled: // checked after the comparison, so that the refusal takes as long
		return persistence.Credentials{}, errDisabled
	case s.Required && !user.Verified:
		return persistence.Credentials{}, errUnverified
	case found.Stale:
		return s.rehash(ctx, user, address, plain, a)
	}
	return user, nil
}

// credentials returns the stored credentials of the address, or empty ones, which no password matches, if the
// address has no account or is not valid. For an address with a pending registration and no account it returns
// the password of the newest registration, so that the service can send another mail to its owner.
func (s *Sessions) credentials(ctx context.Context, address string) (persistence.Credentials, error) {
	key := email.ParseOrZero(address).Key // empty for an address that is not valid; the query runs for it too
	user, err := s.Store.Credentials(ctx, key)
	if err != nil && !errors.Is(err, auth.ErrNotFound) {
		return persistence.Credentials{}, err
	}
	if !s.Required {
		return user, nil
	}
	waiting, err := s.Store.LatestRegistration(ctx, purposeVerify, key, s.Clock.Now())
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return user, nil
	case err != nil:
		return persistence.Credentials{}, err
	case user.UserID == 0:
		user.Password = waiting.Password
	}
	return user, nil
}

// Reasons to refuse a login. errUnverified means that the password is right, but the address is not
// verified.
var (
	errUnknown       = &refusal{auth.ErrInvalidCredentials, reasonUnknown}
	errWrongPassword = &refusal{auth.ErrInvalidCredentials, reasonWrongPassword}
	errDisabled      = &refusal{auth.ErrInvalidCredentials, reasonDisabled}
	errUnverified    = &refusal{auth.ErrInvalidCredentials, reasonUnverified}
)

// remind sends another mail to verify the address, at most once in remindEvery, if the login failed only with
// errUnverified. It returns refused. For any other refusal it takes equally long.
func (s *Sessions) remind(ctx context.Context, address string, from auth.ClientInfo, refused error) error {
	if !s.Required {
		return refused
	}
	unverified := errors.Is(refused, errUnverified)
	err := s.OneTimes.verifyAgain(ctx, email.ParseOrZero(address), from, func(last persistence.OneTime) bool {
		return unverified && s.Clock.Now().Sub(last.CreatedAt) >= remindEvery
	})
	if err != nil {
		return err
	}
	return refused
}

// rehash hashes and stores a password again after it matched a string of another scheme, pepper or cost.
// If another request has replaced the stored string since, rehash checks the password against the new string.
func (s *Sessions) rehash(ctx context.Context, user persistence.Credentials, address, plain string, a *auditEvent) (persistence.Credentials, error) {
	fresh, err := s.Passwords.Hash(ctx, plain)
	if err != nil {
		return persistence.Credentials{}, err
	}
	replaced, err := s.Store.ReplacePassword(ctx, user.UserID, user.Password, fresh)
	if err != nil {
		return persistence.Credentials{}, err
	}
	if !replaced {
		return s.check(ctx, address, plain, a)
	}
	user.Password = fresh
	return user, nil
}

// errPasswordMoved means that the stored string has changed since the comparison: the password was
// changed, or another login rehashed the same password.
var errPasswordMoved = &refusal{auth.ErrInvalidCredentials, reasonMoved}

// begin stores a new session and settles the reservation of its attempt. It returns errPasswordMoved if the
// stored password is no longer the compared one, and auth.ErrInvalidCredentials if the user has been disabled
// or deleted since.
func (s *Sessions) begin(ctx context.Context, user persistence.Credentials, from source, attempt *ratelimit.Reservation) (persistence.Session, error) {
	session := s.next(user.UserID, amrPassword, from)
	err := s.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		stored, err := tx.HoldPassword(ctx, user.UserID)
		switch {
		case errors.Is(err, auth.ErrNotFound):
			return auth.ErrInvalidCredentials
		case err != nil:
			return err
		case stored != user.Password:
			return errPasswordMoved
		}
		if err := s.create(ctx, tx, session); err != nil {
			return err
		}
		return attempt.Succeed(ctx, tx)
	})
	return session, err
}

// next returns a new session of a user, not yet stored.
func (s *Sessions) next(user auth.UserID, amr string, from source) persistence.Session {
	now := s.Clock.Now()
	deadline := now.Add(s.MaxAge)
	return persistence.Session{
		ID: newID(now), UserID: user, Generation: 1, AMR: []string{amr},
		CreatedAt: now, Created: from.client, UsedAt: now, Used: from.client, Carrier: from.carrier,
		ExpiresAt: clock.Earlier(now.Add(s.IdleTTL), deadline), DeadlineAt: deadline,
	}
}

// limitBatch is the maximum number of sessions beyond SESSION_LIMIT that a login ends. There are more only
// after the limit was lowered; the following logins end the rest.
const limitBatch = 100

// store stores a session and emits its event. The transaction must hold the user's row.
func (s *Sessions) store(ctx context.Context, tx *persistence.Store, session persistence.Session) error {
	if err := tx.CreateSession(ctx, session); err != nil {
		return err
	}
	return tx.Emit(ctx, session.CreatedAt, events.SessionCreated{
		UserID: session.UserID, SessionID: session.ID, AMR: session.AMR, Client: session.Created,
		CreatedAt: session.CreatedAt, ExpiresAt: session.ExpiresAt,
	})
}

// create stores the session of a login and ends the oldest sessions of its user beyond the limit.
// The transaction must hold the user's row, so that concurrent logins count each other's sessions.
func (s *Sessions) create(ctx context.Context, tx *persistence.Store, session persistence.Session) error {
	if err := s.store(ctx, tx, session); err != nil {
		return err
	}
	if err := s.Notices.login(ctx, tx, session); err != nil || s.Limit == 0 {
		return err
	}
	ended, err := tx.EndOldestSessions(ctx, session.UserID, session.ID, s.Limit-1, limitBatch, auth.ReasonSessionLimit, session.CreatedAt)
	if err != nil {
		return err
	}
	return s.tellEnded(ctx, tx, ended)
}

// tellEnded emits the events of sessions that one statement has just ended. Another instance may have issued
// their access tokens with an ACCESS_TOKEN_TTL that differs from this instance's.
func (s *Sessions) tellEnded(ctx context.Context, tx *persistence.Store, ended []persistence.Session) error {
	if len(ended) == 0 {
		return nil
	}
	data := make([]events.Data, len(ended))
	for i, e := range ended {
		own := clock.Earlier(e.RevokedAt.Add(s.AccessTTL), e.DeadlineAt)
		data[i] = events.SessionRevoked{
			UserID: e.UserID, SessionID: e.ID, Reason: e.Reason, RevokedAt: e.RevokedAt, ExpiresAt: clock.Later(own, e.TokensEndAt),
		}
	}
	return tx.Emit(ctx, ended[0].RevokedAt, data...)
}

// end runs a statement that ends sessions, emits their events, and returns the number of sessions.
func (s *Sessions) end(ctx context.Context, statement func(context.Context, *persistence.Store, time.Time) ([]persistence.Session, error)) (n int, err error) {
	now := s.Clock.Now()
	err = s.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		ended, err := statement(ctx, tx, now)
		if err != nil {
			return err
		}
		n = len(ended)
		return s.tellEnded(ctx, tx, ended)
	})
	return n, err
}

// endOne ends a session by its id.
func (s *Sessions) endOne(ctx context.Context, id string, reason auth.Reason) error {
	_, err := s.end(ctx, func(ctx context.Context, tx *persistence.Store, now time.Time) ([]persistence.Session, error) {
		return tx.EndSession(ctx, id, reason, now)
	})
	return err
}

// Logout answers auth.logout: it ends the session of an access token or a refresh token. It succeeds if the
// session has already ended. It returns an error for a token that is not valid; a refresh token may be
// of any age.
func (s *Sessions) Logout(ctx context.Context, req auth.LogoutRequest) (auth.LogoutReply, error) {
	a := auditEvent{subject: string(auth.Logout), method: byAccessToken, client: req.Client}
	if req.RefreshToken != "" {
		a.method = byRefreshToken
	}
	return audited(ctx, s.Log, a, req, s.logout)
}

func (s *Sessions) logout(ctx context.Context, req auth.LogoutRequest, a *auditEvent) (auth.LogoutReply, error) {
	if _, faults := client(req.Client); faults != nil {
		return auth.LogoutReply{}, auth.ErrInvalid.With(faults...)
	}
	user, session, err := s.sessionToEnd(ctx, req)
	if err != nil {
		return auth.LogoutReply{}, err
	}
	a.user = user
	return auth.LogoutReply{}, s.endOne(ctx, session, auth.ReasonLogout)
}

// sessionToEnd returns the user and session that the token of a request names. It returns
// auth.ErrTwoCredentials for two tokens, auth.ErrUnauthenticated for none, and the errors of reading the token.
func (s *Sessions) sessionToEnd(ctx context.Context, req auth.LogoutRequest) (user auth.UserID, session string, err error) {
	switch {
	case req.AccessToken != "" && req.RefreshToken != "":
		return 0, "", auth.ErrTwoCredentials
	case req.RefreshToken != "":
		presented, err := token.ReadRefreshToEnd(req.RefreshToken, s.Refreshes)
		return presented.UserID, presented.SessionID, err
	case req.AccessToken != "":
		access, err := s.Issuer.Read(req.AccessToken, s.Keys.Find(ctx), s.Clock.Now())
		return access.UserID, access.SessionID, err
	}
	return 0, "", auth.ErrUnauthenticated
}

// holdFor locks the row of a token's user for a change that a password confirmed, and returns the session of
// the token. Earlier reads may be outdated, since comparing the password takes time: holdFor
// returns auth.ErrTokenRevoked if the session has ended or the user is disabled or deleted, and
// auth.ErrConflict if the stored password has changed.
func (s *Sessions) holdFor(ctx context.Context, tx *persistence.Store, user token.Access, password string) (persistence.Session, error) {
	stored, err := tx.HoldPassword(ctx, user.UserID)
	if err != nil {
		return persistence.Session{}, gone(err)
	}
	session, err := live(ctx, tx, user.SessionID)
	switch {
	case err != nil:
		return persistence.Session{}, err
	case stored != password:
		return persistence.Session{}, auth.ErrConflict
	}
	return session, nil
}

// successor returns a new session for the client of a former one, whose user has just confirmed the password.
func (s *Sessions) successor(former persistence.Session, from auth.ClientInfo) persistence.Session {
	if from == (auth.ClientInfo{}) {
		from = former.Used
	}
	return s.next(former.UserID, amrPassword, source{client: from, carrier: former.Carrier})
}

// takeOver verifies the address of an account. It voids the links and codes that were sent before,
// and ends all sessions but keep, the session that proved the ownership of the account; "" keeps none.
func (s *Sessions) takeOver(ctx context.Context, tx *persistence.Store, user auth.User, keep string, reason auth.Reason) error {
	now := s.Clock.Now()
	if err := tx.SetVerified(ctx, user.UserID, now); err != nil {
		return err
	}
	if err := tx.VoidOneTimes(ctx, user.UserID); err != nil {
		return err
	}
	if err := tx.VoidAddress(ctx, purposeVerify, email.ParseOrZero(user.Email).Key); err != nil {
		return err
	}
	if err := tx.Emit(ctx, now, events.UserEmailVerified{UserID: user.UserID, Email: user.Email, VerifiedAt: now}); err != nil {
		return err
	}
	_, err := s.EndAll(ctx, tx, user.UserID, keep, reason)
	return err
}
