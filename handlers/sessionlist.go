package handlers

import (
	"context"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// maxSessions is the maximum number of sessions in a page. User agents and devices may make a session
// 8 KiB of JSON, and a NATS message carries at most 1 MiB.
const maxSessions = 100

// List answers auth.sessions.list: it returns a page of the live sessions of the token's user, newest first.
// It returns auth.ErrUnauthenticated without a token, the errors of Verify for tokens that are not valid now,
// and an auth.ErrInvalid error that names the invalid members.
func (s *Sessions) List(ctx context.Context, req auth.SessionsListRequest) (auth.SessionsListReply, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionsListReply{}, err
	}
	limit, err := sessionsLimit(req)
	if err != nil {
		return auth.SessionsListReply{}, err
	}
	live, err := s.Store.LiveSessions(ctx, access.UserID, req.After, limit+1, s.Clock.Now())
	if err != nil {
		return auth.SessionsListReply{}, err
	}
	var list auth.SessionsListReply
	if len(live) > limit {
		live, list.Next = live[:limit], live[limit-1].ID
	}
	list.Sessions = make([]auth.Session, len(live))
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

// sessionsLimit returns the requested page length, or maxSessions if the request has none. It returns an
// auth.ErrInvalid error that names the invalid members.
func sessionsLimit(req auth.SessionsListRequest) (int, error) {
	var faults []auth.Field
	if req.After != "" && !isSessionID(req.After) {
		faults = append(faults, auth.Field{Field: "after", Reason: reasonInvalid})
	}
	if req.Limit < 0 || req.Limit > maxSessions {
		faults = append(faults, auth.Field{Field: "limit", Reason: reasonInvalid})
	}
	switch {
	case faults != nil:
		return 0, auth.ErrInvalid.With(faults...)
	case req.Limit == 0:
		return maxSessions, nil
	}
	return req.Limit, nil
}

// isSessionID reports whether text has the form that newID gives session ids.
func isSessionID(text string) bool {
	return len(text) == sessionIDLength && strings.Trim(text, "0123456789abcdefghijklmnopqrstuv") == ""
}

// Revoke answers auth.sessions.revoke: it ends one session of the token's user, which may be the token's
// own. It returns auth.ErrNotFound for a session that has ended or belongs to another user.
func (s *Sessions) Revoke(ctx context.Context, req auth.SessionsRevokeRequest) (auth.SessionsEnded, error) {
	return audited(ctx, s.Log, auditEvent{subject: string(auth.SessionsRevoke), method: byAccessToken}, req, s.revoke)
}

func (s *Sessions) revoke(ctx context.Context, req auth.SessionsRevokeRequest, a *auditEvent) (auth.SessionsEnded, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	a.user = access.UserID
	if !isSessionID(req.SessionID) {
		return auth.SessionsEnded{}, auth.ErrNotFound
	}
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
// but the token's own, and returns auth.ErrTokenRevoked if the token's session has ended.
func (s *Sessions) RevokeOthers(ctx context.Context, req auth.SessionsRevokeOthersRequest) (auth.SessionsEnded, error) {
	return audited(ctx, s.Log, auditEvent{subject: string(auth.SessionsRevokeOthers), method: byAccessToken}, req, s.revokeOthers)
}

func (s *Sessions) revokeOthers(ctx context.Context, req auth.SessionsRevokeOthersRequest, a *auditEvent) (auth.SessionsEnded, error) {
	access, err := s.user(ctx, req.Bearer)
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	a.user = access.UserID
	var done auth.SessionsEnded
	err = s.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		done.Ended, err = s.EndAll(ctx, tx, access.UserID, access.SessionID, auth.ReasonEndedByUser)
		return gone(err)
	})
	if err != nil {
		return auth.SessionsEnded{}, err
	}
	return done, nil
}
