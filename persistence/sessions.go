package persistence

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/gcra"
)

type sessionRow struct {
	bun.BaseModel `bun:"table:login_sessions,alias:s"`

	ID           string      `bun:"id,pk"`
	UserID       auth.UserID `bun:"user_id"`
	Generation   int64       `bun:"generation"`
	AMR          string      `bun:"amr"` // space-separated
	CreatedAt    time.Time   `bun:"created_at"`
	CreatedIP    string      `bun:"created_ip"`
	CreatedAgent string      `bun:"created_agent"`
	UsedAt       time.Time   `bun:"used_at"`
	UsedIP       string      `bun:"used_ip"`
	UsedAgent    string      `bun:"used_agent"`
	ExpiresAt    time.Time   `bun:"expires_at"`
	DeadlineAt   time.Time   `bun:"deadline_at"`
	RevokedAt    time.Time   `bun:"revoked_at,nullzero"`
	RevokeReason string      `bun:"revoke_reason,nullzero"`
	Carrier      string      `bun:"carrier"`
	SweepAt      time.Time   `bun:"sweep_at"` // no clean-up reads the row before
	RefreshDue   int64       `bun:"refresh_due"`
	Epoch        int64       `bun:"epoch"`

	IsOfLiveUser bool  `bun:"is_of_live_user,scanonly"`
	Longest      int64 `bun:"longest,scanonly"` // lifetime of access tokens, in microseconds
}

// sessionColumns names every column: the columns of a prepared statement must not change when "*"
// includes a new one.
const sessionColumns = "id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent, " +
	"expires_at, deadline_at, revoked_at, revoke_reason, carrier, sweep_at, refresh_due, epoch"

// Session is a login and its current state.
type Session struct {
	ID         string
	UserID     auth.UserID
	Generation int64     // of the current refresh token, from 1
	AMR        []string  // RFC 8176
	CreatedAt  time.Time // when the user authenticated
	Created    auth.ClientInfo
	UsedAt     time.Time // when the current refresh token was issued
	Used       auth.ClientInfo
	ExpiresAt  time.Time // of the current refresh token
	DeadlineAt time.Time // no refresh extends the session beyond it
	RevokedAt  time.Time // zero until the row is ended
	Reason     auth.Reason
	Carrier    auth.Carrier
	RefreshDue time.Time // theoretical arrival time of a refresh; see package gcra

	// UserEnded means that all sessions of the user have ended since this one began, or that the user
	// is disabled or deleted. The row may not be ended yet. Only Store.Session sets it.
	UserEnded bool
	// TokensEndAt is an upper bound of the time at which the last access token of the session expires.
	// It is set for sessions that a statement has just ended.
	TokensEndAt time.Time
}

// HasEnded reports whether the session was ended, alone or together with all sessions of its user. An
// expired session has not ended.
func (s Session) HasEnded() bool { return !s.RevokedAt.IsZero() || s.UserEnded }

// ofLiveUser holds for a session whose user is not disabled and has not ended all sessions since
// it began. Otherwise it is false or, for a disabled or deleted user, null. With EXISTS, Postgres
// plans a join and looks up the ends of both indexes each time: planning took twice as long.
const ofLiveUser = "s.epoch = (SELECT u.session_epoch FROM users AS u WHERE u.id = s.user_id AND u.disabled_at IS NULL)"

// mayRefresh returns ofLiveUser or, if addresses have to be verified, a condition that also requires
// a verified address. Either condition reads the user's row once.
func mayRefresh(verified bool) string {
	if verified {
		return strings.TrimSuffix(ofLiveUser, ")") + " AND u.email_verified_at IS NOT NULL)"
	}
	return ofLiveUser
}

// ofEpoch is ofLiveUser for the sessions of one user, whose row is read once.
const ofEpoch = "epoch = (SELECT u.session_epoch FROM users AS u WHERE u.id = ? AND u.disabled_at IS NULL)"

// expiry is the time at which a session's refresh token expires, or null if the session was ended.
// Refreshes compare it instead of naming revoked_at: a condition "revoked_at IS NULL" lets Postgres
// read all of the partial index login_sessions_live, whose estimated cost is low while Postgres has no
// statistics of the table, for example after a restore.
const expiry = "CASE WHEN revoked_at IS NULL THEN expires_at END"

// CreateSession stores a new session in the user's current epoch. The transaction must hold the row of
// the user (HoldPassword or HoldUser): a concurrent operation that ends the user's sessions then
// either ends this session or finishes before the session begins.
func (s *Store) CreateSession(ctx context.Context, n Session) error {
	row := sessionRow{
		ID: n.ID, UserID: n.UserID, Generation: n.Generation, AMR: strings.Join(n.AMR, " "),
		CreatedAt: n.CreatedAt, CreatedIP: n.Created.IP, CreatedAgent: n.Created.UserAgent,
		UsedAt: n.UsedAt, UsedIP: n.Used.IP, UsedAgent: n.Used.UserAgent,
		ExpiresAt: n.ExpiresAt, DeadlineAt: n.DeadlineAt,
		Carrier: string(n.Carrier), SweepAt: n.ExpiresAt,
	}
	_, err := s.write.NewInsert().Model(&row).
		Value("epoch", "(SELECT session_epoch FROM users WHERE id = ?)", n.UserID).Exec(ctx)
	return s.fault("insert session", err)
}

// Session returns a session, live or ended, or auth.ErrNotFound.
func (s *Store) Session(ctx context.Context, id string) (Session, error) {
	var row sessionRow
	err := s.read.NewSelect().Model(&row).ColumnExpr("s.*").ColumnExpr("COALESCE("+ofLiveUser+", FALSE) AS is_of_live_user").Where("s.id = ?", id).Scan(ctx)
	if err != nil {
		return Session{}, s.fault("select session", err)
	}
	session := row.session()
	session.UserEnded = !row.IsOfLiveUser
	return session, nil
}

// Step is one refresh.
type Step struct {
	SessionID  string
	Generation int64     // of the token presented
	At         time.Time // now
	ExpiresAt  time.Time // of the next token, unless the deadline is earlier
	Carrier    auth.Carrier
	Client     auth.ClientInfo
	Limit      gcra.Limit
	Verified   bool // the address of the session's user has to be verified; the same for all steps of a process
}

// AdvanceSession moves the session of a current refresh token to its next generation, in one
// statement, so that only one of several concurrent calls succeeds. It returns the updated session. It
// returns auth.ErrNotFound if the token is not the current one of a live session, if the user has
// ended all sessions since it began or is disabled, if Verified requires a verified address and the
// user has none, or if the limit refuses the refresh.
func (s *Store) AdvanceSession(ctx context.Context, step Step) (Session, error) {
	if s.refreshes == nil {
		return s.advanceAlone(ctx, step)
	}
	return s.refreshes.advance(ctx, s, step)
}

func (s *Store) advanceAlone(ctx context.Context, step Step) (Session, error) {
	var row sessionRow
	p := s.prepareAlone()
	at, expires := p.value(step.At), p.value(step.ExpiresAt)
	q := s.write.NewUpdate().Model(&row).
		Set("generation = generation + 1").
		Set("used_at = ?", at).
		Set("used_ip = ?", p.value(step.Client.IP)).
		Set("used_agent = ?", p.value(step.Client.UserAgent)).
		Set("expires_at = CASE WHEN deadline_at < ? THEN deadline_at ELSE ? END", expires, expires).
		Where("id = ? AND generation = ?", p.value(step.SessionID), p.value(step.Generation)).
		Where("carrier = ? AND "+expiry+" > ?", p.value(string(step.Carrier)), at).
		Where(mayRefresh(step.Verified)).
		Returning(sessionColumns)
	if limit := step.Limit; limit.Interval > 0 {
		// gcra.Limit's rule in SQL: to read the row first would cost another round trip.
		due := p.value(micros(step.At))
		q = q.Where("refresh_due <= ?", p.value(micros(step.At)+limit.Slack().Microseconds())).
			Set("refresh_due = CASE WHEN refresh_due > ? THEN refresh_due ELSE ? END + ?", due, due, p.value(limit.Interval.Microseconds()))
	}
	if err := p.run(q).Scan(ctx); err != nil {
		return Session{}, s.fault("advance session", err)
	}
	return row.session(), nil
}

// CapRefreshDue moves the theoretical arrival time of a session's refresh back to latest if it is
// later (see gcra.Limit.Cap).
func (s *Store) CapRefreshDue(ctx context.Context, id string, latest time.Time) error {
	_, err := s.write.NewUpdate().Model((*sessionRow)(nil)).Set("refresh_due = ?", micros(latest)).
		Where("id = ? AND refresh_due > ?", id, micros(latest)).Exec(ctx)
	return s.fault("cap refresh limit", err)
}

// SetUsedAt moves the issue time of a session's current refresh token back to at, if the token still
// has that generation and the stored time is later: a clock that was ahead wrote it.
func (s *Store) SetUsedAt(ctx context.Context, id string, generation int64, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*sessionRow)(nil)).Set("used_at = ?", at).
		Where("id = ? AND generation = ? AND used_at > ?", id, generation, at).Exec(ctx)
	return s.fault("set use of session", err)
}

// EndSession ends a session and returns it. It returns no session if it had ended before or does not
// exist.
func (s *Store) EndSession(ctx context.Context, id string, reason auth.Reason, at time.Time) ([]Session, error) {
	return s.endSessions(ctx, reason, at, "id = ?", id)
}

// liveOf selects the sessions of a user that have neither ended nor expired.
func (s *Store) liveOf(user auth.UserID, now time.Time) *bun.SelectQuery {
	return s.read.NewSelect().Model((*sessionRow)(nil)).
		Where("user_id = ? AND revoked_at IS NULL AND expires_at > ?", user, now).Where(ofEpoch, user)
}

// LiveSessions returns sessions of a user that have neither ended nor expired, at most n, newest
// first. It returns only sessions older than the session before, unless before is "".
func (s *Store) LiveSessions(ctx context.Context, user auth.UserID, before string, n int, now time.Time) ([]Session, error) {
	var rows []sessionRow
	q := s.liveOf(user, now).Order("id DESC").Limit(int64(n)) // ids sort by time of creation
	if before != "" {
		q = q.Where("id < ?", before)
	}
	if err := q.Scan(ctx, &rows); err != nil {
		return nil, s.fault("select sessions", err)
	}
	sessions := make([]Session, len(rows))
	for i, row := range rows {
		sessions[i] = row.session()
	}
	return sessions, nil
}

// SessionAddresses returns the IP addresses from which the newest live sessions of a user, at most n,
// were created and last used. It may return an address twice.
func (s *Store) SessionAddresses(ctx context.Context, user auth.UserID, n int, now time.Time) ([]string, error) {
	var rows []sessionRow
	err := s.liveOf(user, now).Column("created_ip", "used_ip").Order("id DESC").Limit(int64(n)).Scan(ctx, &rows)
	addresses := make([]string, 0, 2*len(rows))
	for _, r := range rows {
		addresses = append(addresses, r.CreatedIP, r.UsedIP)
	}
	return addresses, s.fault("select addresses of sessions", err)
}

// EndSessionOf ends a session of a user and returns it. It returns no session if it had ended before
// or does not belong to the user.
func (s *Store) EndSessionOf(ctx context.Context, user auth.UserID, id string, reason auth.Reason, at time.Time) ([]Session, error) {
	return s.endSessions(ctx, reason, at, "user_id = ? AND id = ?", user, id)
}

// EndOldestSessions ends live sessions of a user, except the session newest and the keep newest of the
// others. It ends at most n and returns them. The transaction must hold the user's row.
func (s *Store) EndOldestSessions(ctx context.Context, user auth.UserID, newest string, keep, n int, reason auth.Reason, at time.Time) ([]Session, error) {
	oldest := s.liveOf(user, at).Column("id").Where("id <> ?", newest).Order("created_at DESC", "id DESC").Offset(int64(keep)).Limit(int64(n))
	return s.endSessions(ctx, reason, at, "id IN (?)", oldest)
}

// SweepSessions deletes sessions that ended or expired before a time, in one small batch. It returns
// how many rows it read (fewer than the batch means that none is left) and how many it deleted. It
// holds no lock longer than one statement, and concurrent sweeps are safe.
func (s *Store) SweepSessions(ctx context.Context, before time.Time, batch int64) (looked, deleted int, err error) {
	var rows []sessionRow
	err = s.read.NewSelect().Model(&rows).Column("id", "revoked_at", "expires_at").
		Where("sweep_at <= ?", before).Order("sweep_at").Limit(batch).Scan(ctx)
	if err != nil {
		return 0, 0, s.fault("select sessions to sweep", err)
	}
	var over, refreshed []string
	for _, r := range rows {
		if r.RevokedAt.IsZero() && r.ExpiresAt.After(before) {
			refreshed = append(refreshed, r.ID)
			continue
		}
		over = append(over, r.ID)
	}
	if len(refreshed) > 0 {
		_, err := s.write.NewUpdate().Model((*sessionRow)(nil)).Set("sweep_at = expires_at").
			Where("id IN (?) AND revoked_at IS NULL", bun.List(refreshed)).Exec(ctx)
		if err != nil {
			return 0, 0, s.fault("put off sweeping sessions", err)
		}
	}
	if len(over) == 0 {
		return len(rows), 0, nil
	}
	result, err := s.write.NewDelete().Model((*sessionRow)(nil)).Where("id IN (?)", bun.List(over)).Exec(ctx)
	deleted, err = count(result, s.fault("delete sessions", err))
	return len(rows), deleted, err
}

// endSessions ends the sessions that meet the condition and returns them, oldest first. It also ends
// expired sessions: one of their access tokens may still be valid.
func (s *Store) endSessions(ctx context.Context, reason auth.Reason, at time.Time, condition string, args ...any) ([]Session, error) {
	var rows []sessionRow
	err := s.write.NewUpdate().Model(&rows).
		Set("revoked_at = ?", at).Set("revoke_reason = ?", reason).Set("sweep_at = ?", at).
		Where("revoked_at IS NULL").Where(condition, args...).Returning("*, " + longestLifetime + " AS longest").Scan(ctx)
	if err != nil {
		return nil, s.fault("end sessions", err)
	}
	ended := make([]Session, len(rows))
	for i, row := range rows {
		ended[i] = row.session()
		ended[i].TokensEndAt = ended[i].RevokedAt.Add(time.Duration(row.Longest) * time.Microsecond)
		if deadline := ended[i].DeadlineAt; deadline.Before(ended[i].TokensEndAt) {
			ended[i].TokensEndAt = deadline
		}
	}
	slices.SortFunc(ended, func(a, b Session) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return ended, nil
}

func (r sessionRow) session() Session {
	return Session{
		ID: r.ID, UserID: r.UserID, Generation: r.Generation, AMR: strings.Fields(r.AMR),
		CreatedAt: r.CreatedAt.UTC(), Created: auth.ClientInfo{IP: r.CreatedIP, UserAgent: r.CreatedAgent},
		UsedAt: r.UsedAt.UTC(), Used: auth.ClientInfo{IP: r.UsedIP, UserAgent: r.UsedAgent},
		ExpiresAt: r.ExpiresAt.UTC(), DeadlineAt: r.DeadlineAt.UTC(), RevokedAt: r.RevokedAt.UTC(),
		Reason: auth.Reason(r.RevokeReason), Carrier: auth.Carrier(r.Carrier), RefreshDue: fromMicros(r.RefreshDue),
	}
}

// CountLiveSessions returns how many sessions of a user have neither ended nor expired.
func (s *Store) CountLiveSessions(ctx context.Context, user auth.UserID, now time.Time) (int, error) {
	n, err := s.liveOf(user, now).Count(ctx)
	return int(n), s.fault("count sessions", err)
}
