package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// One number ends all sessions of a user together: a session is live only while its epoch equals the
// user's. RaiseEpoch increases the user's epoch. Every statement that checks whether a session is live
// then considers all of them ended. Batches update the rows later.

type endingRow struct {
	bun.BaseModel `bun:"table:session_endings,alias:e"`

	UserID auth.UserID `bun:"user_id,pk"`
	Epoch  int64       `bun:"epoch,pk"`
	Reason auth.Reason `bun:"reason"`
}

// SessionEnding records that the rows of a user's sessions before an epoch still have to be ended.
type SessionEnding struct {
	UserID auth.UserID
	Epoch  int64
	Reason auth.Reason
}

// RaiseEpoch ends all sessions of a user and returns the new epoch. It holds the user's row until the
// transaction ends. It returns auth.ErrNotFound if there is no such user.
func (s *Store) RaiseEpoch(ctx context.Context, user auth.UserID) (epoch int64, err error) {
	err = s.write.NewUpdate().Model((*userRow)(nil)).Set("session_epoch = session_epoch + 1").
		Where("id = ?", user).Returning("session_epoch").Scan(ctx, &epoch)
	return epoch, s.fault("raise epoch", err)
}

// KeepSession moves a session that was live in the previous epoch into the new epoch, and reports whether
// it did.
func (s *Store) KeepSession(ctx context.Context, user auth.UserID, id string, epoch int64) (bool, error) {
	kept, err := changed(s.write.NewUpdate().Model((*sessionRow)(nil)).Set("epoch = ?", epoch).
		Where("id = ? AND user_id = ? AND epoch = ? AND revoked_at IS NULL", id, user, epoch-1).Exec(ctx))
	return kept, s.fault("keep session", err)
}

// EndLastUsed ends the rows of a user's sessions before an epoch, at most n, the most recently used first,
// and returns them. Only recently used sessions have valid access tokens. It reads all sessions of the
// user that have not been ended.
func (s *Store) EndLastUsed(ctx context.Context, e SessionEnding, n int, at time.Time) ([]Session, error) {
	return s.endBefore(ctx, e, "used_at DESC", n, at)
}

// EndNext is EndLastUsed in the order of the sessions' ids, which an index provides. It reads no more
// rows than it ends.
func (s *Store) EndNext(ctx context.Context, e SessionEnding, n int, at time.Time) ([]Session, error) {
	return s.endBefore(ctx, e, "id", n, at)
}

func (s *Store) endBefore(ctx context.Context, e SessionEnding, order string, n int, at time.Time) ([]Session, error) {
	before := s.write.NewSelect().Model((*sessionRow)(nil)).Column("id").
		Where("user_id = ? AND revoked_at IS NULL AND epoch < ?", e.UserID, e.Epoch).OrderExpr(order).Limit(int64(n))
	return s.endSessions(ctx, e.Reason, at, "id IN (?)", before)
}

// DeleteSessions deletes ended sessions of a user, at most n, and returns how many.
func (s *Store) DeleteSessions(ctx context.Context, user auth.UserID, n int) (int, error) {
	some := s.write.NewSelect().Model((*sessionRow)(nil)).Column("id").
		Where("user_id = ? AND revoked_at IS NOT NULL", user).Limit(int64(n))
	deleted, err := count(s.write.NewDelete().Model((*sessionRow)(nil)).Where("id IN (?)", some).Exec(ctx))
	return deleted, s.fault("delete sessions", err)
}

// AddEnding records that rows still have to be ended. It has no effect if that is recorded already.
func (s *Store) AddEnding(ctx context.Context, e SessionEnding) error {
	row := endingRow{UserID: e.UserID, Epoch: e.Epoch, Reason: e.Reason}
	_, err := s.write.NewInsert().Model(&row).On("CONFLICT (user_id, epoch) DO NOTHING").Exec(ctx)
	return s.fault("insert ending", err)
}

// HasEndings reports whether any rows still have to be ended.
func (s *Store) HasEndings(ctx context.Context) (bool, error) {
	var rows []endingRow
	err := s.read.NewSelect().Model(&rows).Limit(1).Scan(ctx)
	return len(rows) > 0, s.fault("select endings", err)
}

// HoldEnding returns the first ending, by user and epoch, that no other transaction holds, or
// auth.ErrNotFound.
func (s *Store) HoldEnding(ctx context.Context) (SessionEnding, error) {
	var row endingRow
	q := s.write.NewSelect().Model(&row).Order("user_id", "epoch").Limit(1)
	if s.skipLocked != "" {
		q = q.For(s.skipLocked)
	}
	err := q.Scan(ctx)
	return SessionEnding{row.UserID, row.Epoch, row.Reason}, s.fault("hold ending", err)
}

// RemoveEnding deletes an ending whose rows have all been ended.
func (s *Store) RemoveEnding(ctx context.Context, e SessionEnding) error {
	_, err := s.write.NewDelete().Model((*endingRow)(nil)).Where("user_id = ? AND epoch = ?", e.UserID, e.Epoch).Exec(ctx)
	return s.fault("delete ending", err)
}
