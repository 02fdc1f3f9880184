package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// amrPassword is how a login by password is told (RFC 8176 §2).
const amrPassword = "pwd"

// Sessions makes, continues and ends logins. All fields but Clock, Steady, Grace, Limit,
// Limits, OneTimes, Required, Notices and Log are required.
type Sessions struct {
	Store     *persistence.Store
	Passwords *password.Hasher
	Keys      *Keys
	Issuer    token.Issuer
	Refreshes []token.Key   // sign refresh tokens; the first signs new ones
	AccessTTL time.Duration // of an access token; Keys notes it for as long as it matters
	IdleTTL   time.Duration // of a refresh token, and so of a session that is not refreshed
	MaxAge    time.Duration // of a session, however often it is refreshed
	Grace     time.Duration // in which a spent refresh token gets its successor again; 0 is strict
	Limit     int           // of a user's live sessions; the oldest end first; 0 is none
	Limits    *Limits       // of tries at passwords and of refreshes; nil is none
	OneTimes  *OneTimes     // needed if Required
	Required  bool          // nobody logs in before the address is verified
	Notices   *Notices      // nil is none
	Log       *slog.Logger  // of outcomes; nil is none
	Clock     Clock
	Steady    func() time.Duration // for how long Clock has not jumped; nil if it never does
}

// loggedIn is the message of a login.
const loggedIn = "Login successful"

// Login answers auth.login: it begins a session. Whatever is wrong with address or
// password, the answer is auth.ErrInvalidCredentials; after too many tries it is
// auth.ErrRateLimited, whether the password is right or not.
func (s *Sessions) Login(ctx context.Context, req auth.LoginRequest) (auth.LoginReply, error) {
	a := attempt{subject: string(auth.Login), method: byPassword, address: req.Email, client: req.Client}
	return logged(ctx, s.Log, a, req, s.login)
}

func (s *Sessions) login(ctx context.Context, req auth.LoginRequest, a *attempt) (auth.LoginReply, error) {
	from, err := origin(req.Client, req.Carrier)
	if err != nil {
		return auth.LoginReply{}, err
	}
	ctx, leave, err := s.Limits.guessing(req.Email, from.client).admitted(ctx, s.Passwords.Pool, from.client, false)
	if err != nil {
		return auth.LoginReply{}, err
	}
	defer leave()
	try, err := s.Limits.guess(ctx, req.Email, from.client)
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
	session, err := s.begin(ctx, user, from, try)
	if errors.Is(err, errPasswordMoved) {
		if user, err = s.check(ctx, req.Email, req.Password, a); err == nil {
			session, err = s.begin(ctx, user, from, try)
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

// check returns the user whom address and password belong to, or auth.ErrInvalidCredentials.
func (s *Sessions) check(ctx context.Context, address, plain string, a *attempt) (persistence.Credentials, error) {
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
	case user.Disabled: // which is told after the same work
		return persistence.Credentials{}, errDisabled
	case s.Required && !user.Verified:
		return persistence.Credentials{}, errUnverified
	case found.Stale:
		return s.rehash(ctx, user, address, plain, a)
	}
	return user, nil
}

// credentials returns what is stored for the address; nothing, which no password matches, if it
// has no account or is not valid. For an address that waits to be verified it returns the password
// of the newest registration, so that its owner can be sent another mail.
func (s *Sessions) credentials(ctx context.Context, address string) (persistence.Credentials, error) {
	key := mailbox(address).Key // nobody's if that is none; the database is asked all the same
	user, err := s.Store.Credentials(ctx, key)
	if err != nil && !errors.Is(err, auth.ErrNotFound) {
		return persistence.Credentials{}, err
	}
	if !s.Required {
		return user, nil
	}
	waiting, err := s.Store.LatestRegistration(ctx, purposeVerify, key, s.Clock.now())
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

// Why a login is refused. errUnverified means that the password is right, and the address not
// verified.
var (
	errUnknown       = &refusal{auth.ErrInvalidCredentials, reasonUnknown}
	errWrongPassword = &refusal{auth.ErrInvalidCredentials, reasonWrongPassword}
	errDisabled      = &refusal{auth.ErrInvalidCredentials, reasonDisabled}
	errUnverified    = &refusal{auth.ErrInvalidCredentials, reasonUnverified}
)

// remind sends another mail to verify the address with if that is all a login lacked, once a
// minute. It returns refused, and takes as long if the login lacked something else.
func (s *Sessions) remind(ctx context.Context, address string, from auth.ClientInfo, refused error) error {
	if !s.Required {
		return refused
	}
	unverified := errors.Is(refused, errUnverified)
	err := s.OneTimes.verifyAgain(ctx, mailbox(address), from, func(last persistence.OneTime) bool {
		return unverified && s.Clock.now().Sub(last.CreatedAt) >= remindEvery
	})
	if err != nil {
		return err
	}
	return refused
}

// rehash stores a password afresh that matched a string of another scheme, pepper or cost.
// If somebody else stored another one meanwhile, that one decides.
func (s *Sessions) rehash(ctx context.Context, user persistence.Credentials, address, plain string, a *attempt) (persistence.Credentials, error) {
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

// errPasswordMoved means that another string is stored than the one that was compared: the
// password was changed, or another login stored the same one afresh.
var errPasswordMoved = &refusal{auth.ErrInvalidCredentials, reasonMoved}

// begin stores a new session, if the password that was compared is still the user's, and
// settles the try that began it; it returns errPasswordMoved if it is not, and
// auth.ErrInvalidCredentials if the user was disabled or deleted meanwhile.
func (s *Sessions) begin(ctx context.Context, user persistence.Credentials, from source, try *charge) (persistence.Session, error) {
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
		return try.settle(ctx, tx)
	})
	return session, err
}

// next is a new session of a user.
func (s *Sessions) next(user auth.UserID, amr string, from source) persistence.Session {
	now := s.Clock.now()
	deadline := now.Add(s.MaxAge)
	return persistence.Session{
		ID: newID(now), UserID: user, Generation: 1, AMR: []string{amr},
		CreatedAt: now, Created: from.client, UsedAt: now, Used: from.client, Carrier: from.carrier,
		ExpiresAt: earlier(now.Add(s.IdleTTL), deadline), DeadlineAt: deadline,
	}
}

// limitBatch is how many sessions beyond SESSION_LIMIT a login ends at most. More are there only
// after the limit was lowered; the following logins end the rest.
const limitBatch = 100

// store stores a session, with its event. The transaction must hold the user's row.
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
// The transaction must hold the user's row, so that logins at the same moment count each other's
// sessions.
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

// tellEnded emits the events of sessions that one statement has just ended. Access tokens of them
// may have been issued with another ACCESS_TOKEN_TTL than this instance's.
func (s *Sessions) tellEnded(ctx context.Context, tx *persistence.Store, ended []persistence.Session) error {
	if len(ended) == 0 {
		return nil
	}
	data := make([]events.Data, len(ended))
	for i, e := range ended {
		own := earlier(e.RevokedAt.Add(s.AccessTTL), e.DeadlineAt)
		data[i] = events.SessionRevoked{
			UserID: e.UserID, SessionID: e.ID, Reason: e.Reason, RevokedAt: e.RevokedAt, ExpiresAt: later(own, e.TokensEndAt),
		}
	}
	return tx.Emit(ctx, ended[0].RevokedAt, data...)
}

// end ends the sessions that a statement ends, with their events, and returns how many.
func (s *Sessions) end(ctx context.Context, statement func(context.Context, *persistence.Store, time.Time) ([]persistence.Session, error)) (n int, err error) {
	now := s.Clock.now()
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

// Refresh answers auth.refresh: the next tokens of a session. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired or auth.ErrTokenRevoked; a spent token ends
// its session although the request fails. Too many are auth.ErrRateLimited, and the token
// stays as good as it was.
func (s *Sessions) Refresh(ctx context.Context, req auth.RefreshRequest) (auth.Tokens, error) {
	a := attempt{subject: string(auth.Refresh), method: byRefreshToken, client: req.Client}
	return logged(ctx, s.Log, a, req, s.refresh)
}

func (s *Sessions) refresh(ctx context.Context, req auth.RefreshRequest, a *attempt) (auth.Tokens, error) {
	from, err := origin(req.Client, req.Carrier)
	if err != nil {
		return auth.Tokens{}, err
	}
	now := s.Clock.now()
	presented, err := token.ReadRefresh(req.RefreshToken, s.Refreshes, now)
	if err != nil {
		return auth.Tokens{}, err
	}
	a.user = presented.UserID
	step := persistence.Step{
		SessionID: presented.SessionID, Generation: presented.Generation,
		At: now, ExpiresAt: now.Add(s.IdleTTL), Carrier: from.carrier, Client: from.client,
		Limit: s.Limits.refreshes(), Verified: s.Required,
	}
	session, err := s.Store.AdvanceSession(ctx, step)
	for tries := 1; errors.Is(err, auth.ErrNotFound) && tries < refreshTries; tries++ {
		session, err = s.repeat(ctx, presented, from.carrier)
		if errors.Is(err, errStillCurrent) {
			session, err = s.Store.AdvanceSession(ctx, step)
		}
	}
	if errors.Is(err, auth.ErrNotFound) {
		return auth.Tokens{}, fmt.Errorf("%w: session %s is changed again and again", auth.ErrUnavailable, presented.SessionID)
	}
	if err != nil {
		return auth.Tokens{}, err
	}
	return s.tokens(session, now)
}

// refreshTries is how often a refresh tries to move its session, whose row or whose user's row
// may change between two statements.
const refreshTries = 3

// errStillCurrent means that a refresh token is the current one after all: an operation that
// keeps its session, or one that has failed, was under way.
var errStillCurrent = errors.New("the refresh token is current")

// repeat decides about a token that did not move its session. The immediate predecessor of the
// current token within the grace window is answered again; any other spent token ends the session.
// A token that came in another carrier than its own has no effect. The current token is here if
// it came too soon, or if the session was being changed: then it is errStillCurrent.
func (s *Sessions) repeat(ctx context.Context, presented token.Refresh, carrier auth.Carrier) (persistence.Session, error) {
	if err := s.checkVerified(ctx, presented.UserID); err != nil {
		return persistence.Session{}, err
	}
	session, err := s.Store.Session(ctx, presented.SessionID)
	now := s.Clock.now() // not before the session was read, which another request may just have refreshed
	limit := s.Limits.refreshes()
	wait := limit.Wait(session.RefreshDue, now)
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return persistence.Session{}, auth.ErrTokenRevoked // deleted, with or without its user
	case err != nil:
		return persistence.Session{}, err
	case session.Carrier != carrier:
		return persistence.Session{}, &refusal{auth.ErrInvalidToken, reasonCarrier}
	case session.HasEnded():
		return persistence.Session{}, auth.ErrTokenRevoked
	case !now.Before(session.ExpiresAt):
		return persistence.Session{}, auth.ErrTokenExpired
	case presented.Generation == session.Generation && wait > 0:
		s.Limits.refused("refresh")
		if latest := limit.Cap(session.RefreshDue, now); latest.Before(session.RefreshDue) {
			if err := s.Store.CapRefreshDue(ctx, session.ID, latest); err != nil {
				return persistence.Session{}, err
			}
		}
		return persistence.Session{}, auth.ErrRateLimited.After(wait)
	case presented.Generation == session.Generation:
		return persistence.Session{}, errStillCurrent
	case s.Grace > 0 && presented.Generation == session.Generation-1:
		return s.repeatPredecessor(ctx, session, now)
	}
	return persistence.Session{}, s.endStolen(ctx, session)
}

// clockSkew is how far the clocks of instances on one database may differ.
const clockSkew = 2 * time.Second

// repeatPredecessor decides about the immediate predecessor of a session's current token. The age
// of that token decides, and where the clock does not tell it there is neither a successor nor a
// theft: an honest second tab is not to end the session because a clock was set.
func (s *Sessions) repeatPredecessor(ctx context.Context, session persistence.Session, now time.Time) (persistence.Session, error) {
	age := now.Sub(session.UsedAt)
	switch {
	case age < -clockSkew:
		// It was refreshed by a clock that was ahead. Its grace must not begin when that time comes.
		if err := s.Store.SetUsedAt(ctx, session.ID, session.Generation, now.Add(-s.Grace-time.Microsecond)); err != nil {
			return persistence.Session{}, err
		}
		return persistence.Session{}, errUncertain
	case age <= s.Grace:
		return session, nil // and not counted: the limit is not to send away a tab or a retry
	case s.Steady != nil && s.Steady() <= s.Grace:
		return persistence.Session{}, errUncertain // the clock jumped, and may have passed over the grace
	}
	return persistence.Session{}, s.endStolen(ctx, session)
}

// errUncertain refuses a spent token of which the clock does not tell how long ago it was spent.
var errUncertain = &refusal{auth.ErrInvalidToken, reasonUncertain}

// endStolen ends a session of which a spent token was presented, and returns the refusal.
func (s *Sessions) endStolen(ctx context.Context, session persistence.Session) error {
	if err := s.endOne(ctx, session.ID, auth.ReasonTokenReuse); err != nil {
		return err
	}
	return &refusal{auth.ErrTokenRevoked, reasonTokenReuse}
}

// checkVerified refuses to prolong the sessions of a user whose address is not verified, if it has
// to be: they began before that was required. The next login sends a mail to verify it.
func (s *Sessions) checkVerified(ctx context.Context, id auth.UserID) error {
	if !s.Required {
		return nil
	}
	user, err := s.Store.User(ctx, id)
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return auth.ErrTokenRevoked
	case err == nil && !user.EmailVerified:
		return &refusal{auth.ErrTokenRevoked, reasonUnverified}
	}
	return err
}

// tokens writes the tokens of a session as it is. The refresh token depends on the row
// alone; the access token is new each time and ends with the session at the latest. It is issued
// as of now, which must not be later than the moment at which the database knew the session to be
// live: a revocation is kept for the lifetime of what was issued before it.
func (s *Sessions) tokens(session persistence.Session, now time.Time) (auth.Tokens, error) {
	expires := earlier(now.Add(s.AccessTTL), session.DeadlineAt)
	jti, err := uuid.NewRandom()
	if err != nil {
		return auth.Tokens{}, fmt.Errorf("make jti: %w", err)
	}
	access, err := s.Issuer.Sign(s.Keys.signing(), token.Access{
		ID: jti.String(), UserID: session.UserID, SessionID: session.ID,
		AMR: session.AMR, AuthTime: session.CreatedAt, IssuedAt: now, ExpiresAt: expires,
	})
	if err != nil {
		return auth.Tokens{}, fmt.Errorf("sign access token: %w", err)
	}
	refresh, err := token.SignRefresh(s.Refreshes[0], token.Refresh{
		UserID: session.UserID, SessionID: session.ID, Generation: session.Generation,
		IssuedAt: session.UsedAt, ExpiresAt: session.ExpiresAt,
	})
	if err != nil {
		return auth.Tokens{}, fmt.Errorf("sign refresh token: %w", err)
	}
	return auth.Tokens{
		AccessToken: access, RefreshToken: refresh, TokenType: "Bearer",
		ExpiresIn: int64(expires.Sub(now) / time.Second), SessionID: session.ID,
	}, nil
}

// Logout answers auth.logout: it ends the session of either token. A session that is gone
// already is as good; a token that is not valid is an error, though a refresh token may be
// of any age.
func (s *Sessions) Logout(ctx context.Context, req auth.LogoutRequest) (auth.LogoutReply, error) {
	a := attempt{subject: string(auth.Logout), method: byAccessToken, client: req.Client}
	if req.RefreshToken != "" {
		a.method = byRefreshToken
	}
	return logged(ctx, s.Log, a, req, s.logout)
}

func (s *Sessions) logout(ctx context.Context, req auth.LogoutRequest, a *attempt) (auth.LogoutReply, error) {
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

// sessionToEnd is what the token of a request names.
func (s *Sessions) sessionToEnd(ctx context.Context, req auth.LogoutRequest) (user auth.UserID, session string, err error) {
	switch {
	case req.AccessToken != "" && req.RefreshToken != "":
		return 0, "", auth.ErrTwoCredentials
	case req.RefreshToken != "":
		presented, err := token.ReadRefreshToEnd(req.RefreshToken, s.Refreshes)
		return presented.UserID, presented.SessionID, err
	case req.AccessToken != "":
		access, err := s.Issuer.Read(req.AccessToken, s.Keys.find(ctx), s.Clock.now())
		return access.UserID, access.SessionID, err
	}
	return 0, "", auth.ErrUnauthenticated
}

// Verify answers auth.verify: what a token says that is valid now. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired or auth.ErrTokenRevoked for any other, and
// auth.ErrInsufficientScope if it lacks a scope that is asked for.
func (s *Sessions) Verify(ctx context.Context, req auth.VerifyRequest) (auth.VerifyReply, error) {
	access, err := s.authenticate(ctx, req.Token)
	if err != nil {
		return auth.VerifyReply{}, err
	}
	reply := auth.VerifyReply{Principal: access.Principal()}
	if err := reply.Require(req.Scopes...); err != nil {
		return auth.VerifyReply{}, err
	}
	return reply, nil
}

// user is authenticate for requests on behalf of a user, which need a token.
func (s *Sessions) user(ctx context.Context, b auth.Bearer) (token.Access, error) {
	if b.AccessToken == "" {
		return token.Access{}, auth.ErrUnauthenticated
	}
	return s.authenticate(ctx, b.AccessToken)
}

// authenticate reads an access token and returns auth.ErrTokenRevoked if its session has ended.
func (s *Sessions) authenticate(ctx context.Context, text string) (token.Access, error) {
	access, err := s.Issuer.Read(text, s.Keys.find(ctx), s.Clock.now())
	if err != nil {
		return token.Access{}, err
	}
	if _, err := live(ctx, s.Store, access.SessionID); err != nil {
		return token.Access{}, err
	}
	return access, nil
}

// live returns a session that has not ended, or auth.ErrTokenRevoked.
func live(ctx context.Context, store *persistence.Store, id string) (persistence.Session, error) {
	session, err := store.Session(ctx, id)
	if errors.Is(err, auth.ErrNotFound) || err == nil && session.HasEnded() {
		return persistence.Session{}, auth.ErrTokenRevoked
	}
	return session, err
}

// isLive reports whether a session of a user has neither ended nor expired.
func (s *Sessions) isLive(ctx context.Context, tx *persistence.Store, id string, user auth.UserID) (bool, error) {
	session, err := live(ctx, tx, id)
	if errors.Is(err, auth.ErrTokenRevoked) {
		return false, nil
	}
	return session.UserID == user && s.Clock.now().Before(session.ExpiresAt), err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
