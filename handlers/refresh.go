package handlers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// Refresh answers auth.refresh: it returns the next tokens of a session. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired or auth.ErrTokenRevoked; a spent token ends
// its session although the request fails. After too many requests it returns auth.ErrRateLimited,
// and the token stays valid.
func (s *Sessions) Refresh(ctx context.Context, req auth.RefreshRequest) (auth.Tokens, error) {
	a := auditEvent{subject: string(auth.Refresh), method: byRefreshToken, client: req.Client}
	return audited(ctx, s.Log, a, req, s.refresh)
}

func (s *Sessions) refresh(ctx context.Context, req auth.RefreshRequest, a *auditEvent) (auth.Tokens, error) {
	from, err := origin(req.Client, req.Carrier)
	if err != nil {
		return auth.Tokens{}, err
	}
	now := s.Clock.Now()
	presented, err := token.ReadRefresh(req.RefreshToken, s.Refreshes, now)
	if err != nil {
		return auth.Tokens{}, err
	}
	a.user = presented.UserID
	step := persistence.Step{
		SessionID: presented.SessionID, Generation: presented.Generation,
		At: now, ExpiresAt: now.Add(s.IdleTTL), Carrier: from.carrier, Client: from.client,
		Limit: s.Limits.Refreshes(), Verified: s.Required,
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

// refreshTries is how many times a refresh attempts to advance its session. The session's row or its user's
// row may change between two statements.
const refreshTries = 3

// errStillCurrent means that a refresh token is still the current one: a concurrent operation blocked the
// refresh, and either keeps the session or has failed.
var errStillCurrent = errors.New("the refresh token is current")

// repeat handles a token that did not advance its session. For the immediate predecessor of the current
// token within the grace window it returns the session again; any other spent token ends the session.
// A token that arrives in a carrier other than its own has no effect. For the current token it returns
// auth.ErrRateLimited if the token came too soon, or errStillCurrent if the session was being changed.
func (s *Sessions) repeat(ctx context.Context, presented token.Refresh, carrier auth.Carrier) (persistence.Session, error) {
	if err := s.checkVerified(ctx, presented.UserID); err != nil {
		return persistence.Session{}, err
	}
	session, err := s.Store.Session(ctx, presented.SessionID)
	now := s.Clock.Now() // read after the session, which a concurrent request may just have refreshed
	limit := s.Limits.Refreshes()
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
		s.Limits.Refuse("refresh")
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

// repeatPredecessor handles the immediate predecessor of a session's current token by the time since it was
// spent. Where the clock does not show that time, it returns errUncertain and does not end the session: an
// honest second tab must not end the session because a clock was set.
func (s *Sessions) repeatPredecessor(ctx context.Context, session persistence.Session, now time.Time) (persistence.Session, error) {
	age := now.Sub(session.UsedAt)
	switch {
	case age < -clockSkew:
		// A clock that was ahead refreshed the session. The grace must not begin at that future time.
		if err := s.Store.SetUsedAt(ctx, session.ID, session.Generation, now.Add(-s.Grace-time.Microsecond)); err != nil {
			return persistence.Session{}, err
		}
		return persistence.Session{}, errUncertain
	case age <= s.Grace:
		return session, nil // not counted: the limit must not refuse a second tab or a retry
	case s.Steady != nil && s.Steady() <= s.Grace:
		return persistence.Session{}, errUncertain // the clock jumped, perhaps across the grace
	}
	return persistence.Session{}, s.endStolen(ctx, session)
}

// errUncertain refuses a spent token if the clock does not show how long ago it was spent.
var errUncertain = &refusal{auth.ErrInvalidToken, reasonUncertain}

// endStolen ends a session after a request has presented a spent token of it, and returns the refusal.
func (s *Sessions) endStolen(ctx context.Context, session persistence.Session) error {
	if err := s.endOne(ctx, session.ID, auth.ReasonTokenReuse); err != nil {
		return err
	}
	return &refusal{auth.ErrTokenRevoked, reasonTokenReuse}
}

// checkVerified returns auth.ErrTokenRevoked if the user's address must be verified and is not, or if the user
// does not exist: such a session began before verification was required, and is not prolonged. The next login
// sends a mail to verify the address.
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

// tokens returns the tokens of a session in its current state. The refresh token depends only on the
// row; the access token is new each time and expires no later than the session's deadline. Its issue time is
// now, which must not be later than the time at which the database found the session live: a revocation is
// kept for the lifetime of the access tokens issued before it.
func (s *Sessions) tokens(session persistence.Session, now time.Time) (auth.Tokens, error) {
	expires := clock.Earlier(now.Add(s.AccessTTL), session.DeadlineAt)
	jti, err := uuid.NewRandom()
	if err != nil {
		return auth.Tokens{}, fmt.Errorf("make jti: %w", err)
	}
	access, err := s.Issuer.Sign(s.Keys.Signing(), token.Access{
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
