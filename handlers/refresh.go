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

// Refresh answers auth.refresh: the next tokens of a session. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired or auth.ErrTokenRevoked; a spent token ends
// its session although the request fails. Too many are auth.ErrRateLimited, and the token
// stays as good as it was.
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
	now := s.Clock.Now() // not before the session was read, which another request may just have refreshed
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
