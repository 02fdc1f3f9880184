package handlers

import (
	"context"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// List answers auth.sessions.list: the live sessions of the token's user, the one used last
// first. It returns the errors of Verify for tokens that are not valid now.
func (s *Sessions) List(ctx context.Context, req auth.SessionsListRequest) (auth.SessionList, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionList{}, err
	}
	live, err := s.Store.LiveSessions(ctx, access.UserID, s.Clock.now())
	if err != nil {
		return auth.SessionList{}, err
	}
	list := auth.SessionList{Sessions: make([]auth.Session, len(live))}
	for i, l := range live {
		list.Sessions[i] = auth.Session{
			SessionID: l.ID, CreatedAt: l.CreatedAt, LastUsedAt: l.UsedAt, ExpiresAt: l.ExpiresAt,
			IP: l.Used.IP, UserAgent: l.Used.UserAgent, Device: device(l.Used.UserAgent),
			CreatedIP: l.Created.IP, CreatedUserAgent: l.Created.UserAgent, CreatedDevice: device(l.Created.UserAgent),
			Current: l.ID == access.SessionID,
		}
	}
	return list, nil
}

// Revoke answers auth.sessions.revoke: it ends one session of the token's user, the one that
// asks included. It returns auth.ErrNotFound for one that has ended or is not theirs.
func (s *Sessions) Revoke(ctx context.Context, req auth.SessionsRevokeRequest) (auth.SessionsEnded, error) {
	return logged(ctx, s.Log, attempt{subject: string(auth.SessionsRevoke), method: byAccessToken}, req, s.revoke)
}

func (s *Sessions) revoke(ctx context.Context, req auth.SessionsRevokeRequest, a *attempt) (auth.SessionsEnded, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	a.user = access.UserID
	n, err := s.end(ctx, func(ctx context.Context, tx *persistence.Store, now time.Time) ([]persistence.Session, error) {
		return tx.EndSessionOf(ctx, access.UserID, req.SessionID, auth.ReasonEndedByUser, now)
	})
	if err == nil && n == 0 {
		err = auth.ErrNotFound
	}
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	return auth.SessionsEnded{Ended: n}, nil
}

// RevokeOthers answers auth.sessions.revoke_others: it ends all sessions of the token's user
// but the one that asks.
func (s *Sessions) RevokeOthers(ctx context.Context, req auth.SessionsRevokeOthersRequest) (auth.SessionsEnded, error) {
	return logged(ctx, s.Log, attempt{subject: string(auth.SessionsRevokeOthers), method: byAccessToken}, req, s.revokeOthers)
}

func (s *Sessions) revokeOthers(ctx context.Context, req auth.SessionsRevokeOthersRequest, a *attempt) (auth.SessionsEnded, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	a.user = access.UserID
	n, err := s.end(ctx, func(ctx context.Context, tx *persistence.Store, now time.Time) ([]persistence.Session, error) {
		return tx.EndOtherSessions(ctx, access.UserID, access.SessionID, auth.ReasonEndedByUser, now)
	})
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	return auth.SessionsEnded{Ended: n}, nil
}
