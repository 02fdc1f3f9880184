package handlers

import (
	"context"
	"errors"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// Verify answers auth.verify: it returns the principal of a token that is valid now. It returns
// auth.ErrInvalidToken, auth.ErrTokenExpired or auth.ErrTokenRevoked for any other token, and
// auth.ErrInsufficientScope if the token lacks a requested scope.
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

// user is authenticate for requests on behalf of a user. It returns auth.ErrUnauthenticated without a token.
func (s *Sessions) user(ctx context.Context, b auth.Bearer) (token.Access, error) {
	if b.AccessToken == "" {
		return token.Access{}, auth.ErrUnauthenticated
	}
	return s.authenticate(ctx, b.AccessToken)
}

// authenticate returns the claims of an access token. It returns the errors of token.Issuer.Read, and
// auth.ErrTokenRevoked if the session has ended.
func (s *Sessions) authenticate(ctx context.Context, text string) (token.Access, error) {
	access, err := s.Issuer.Read(text, s.Keys.Find(ctx), s.Clock.Now())
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
	return session.UserID == user && s.Clock.Now().Before(session.ExpiresAt), err
}
