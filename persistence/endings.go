package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// A user's sessions end together by one number: a session is live only while its epoch is the
// user's. RaiseEpoch makes the user's epoch a higher one, which ends all sessions at once, for every
// statement that asks whether a session is live. What the rows say follows in batches.

type endingRow struct {
	bun.BaseModel `bun:"table:session_endings,alias:e"`

	UserID auth.UserID `bun:"user_id,pk"`
	Epoch  int64       `bun:"epoch,pk"`
	Reason auth.Reason `bun:"reason"`
}

// SessionEnding says that sessions of a user before an epoch still have to be ended one by one.
type SessionEnding struct {
	UserID auth.UserID
	Epoch  int64
	Reason auth.Reason
}

// RaiseEpoch ends all sessions of a user, whose row it holds until the transaction ends, and
// returns the new epoch. It returns auth.ErrNotFound if there is no such user.
func (s *Store) RaiseEpoch(ctx context.Context, user auth.UserID) (epoch int64, err error) {
	err = s.write.NewUpdate().Model((*userRow)(nil)).Set("session_epoch = session_epoch + 1").
		Where("id = ?", user).Returning("session_epoch").Scan(ctx, &epoch)
	return epoch, s.fault("raise epoch", err)
}

// KeepSession takes a session that was live in the epoch before into a new epoch, and reports
// whether it did.
func (s *Store) KeepSession(ctx context.Context, user auth.UserID, id string, epoch int64) (bool, error) {
	kept, err := changed(s.write.NewUpdate().Model((*sessionRow)(nil)).Set("epoch = ?", epoch).
		Where("id = ? AND user_id = ? AND epoch = ? AND revoked_at IS NULL", id, user, epoch-1).Exec(ctx))
	return kept, s.fault("keep session", err)
}

// EndLastUsed ends the rows of a user's sessions before an epoch, at most n, those that were used
// last, and returns them. Only sessions that were used lately have access tokens that are valid.
// It reads all sessions of the user that have not been ended.
func (s *Store) EndLastUsed(ctx context.Context, e SessionEnding, n int, at time.Time) ([]Session, error) {
	return s.endBefore(ctx, e, "used_at DESC", n, at)
}

// EndNext is EndLastUsed for whichever sessions the index finds first. It reads no more than it
// ends.
func (s *Store) EndNext(ctx context.Context, e SessionEnding, n int, at time.Time) ([]Session, error) {
	return s.endBefore(ctx, e, "id", n, at)
}

func (s *Store) endBefore(ctx context.Context, e SessionEnding, order string, n int, at time.Time) ([]Session, error) {
	before := s.write.NewSelect().Model((*sessionRow)(nil)).Column("id").
		Where("user_id = ? AND revoked_at IS NULL AND epoch < ?", e.UserID, e.Epoch).OrderExpr(order).Limit(int64(n))
	return s.endSessions(ctx, e.Reason, at, "id IN (?)", before)
}

// DeleteSessions deletes sessions of a user that have been ended, at most n, and returns how many.
func (s *Store) DeleteSessions(ctx context.Context, user auth.UserID, n int) (int, error) {
	some := s.write.NewSelect().Model((*sessionRow)(nil)).Column("id").
		Where("user_id = ? AND revoked_at IS NOT NULL", user).Limit(int64(n))
	deleted, err := count(s.write.NewDelete().Model((*sessionRow)(nil)).Where("id IN (?)", some).Exec(ctx))
	return deleted, s.fault("delete sessions", err)
}

// AddEnding notes that rows are left to be ended. It has no effect if that is noted already.
func (s *Store) AddEnding(ctx context.Context, e SessionEnding) error {
	row := endingRow{UserID: e.UserID, Epoch: e.Epoch, Reason: e.Reason}
	_, err := s.write.NewInsert().Model(&row).On("CONFLICT (user_id, epoch) DO NOTHING").Exec(ctx)
	return s.fault("insert ending", err)
}

// HasEndings reports whether some rows are left to be ended.
func (s *Store) HasEndings(ctx context.Context) (bool, error) {
	var rows []endingRow
	err := s.read.NewSelect().Model(&rows).Limit(1).Scan(ctx)
	return len(rows) > 0, s.fault("select endings", err)
}

// HoldEnding returns an ending that no other transaction holds, or auth.ErrNotFound. Of a user's
// it is the first.
func (s *Store) HoldEnding(ctx context.Context) (SessionEnding, error) {
	var row endingRow
	q := s.write.NewSelect().Model(&row).Order("user_id", "epoch").Limit(1)
	if s.skipLocked != "" {
		q = q.For(s.skipLocked)
	}
	err := q.Scan(ctx)
	return SessionEnding{row.UserID, row.Epoch, row.Reason}, s.fault("hold ending", err)
}

// RemoveEnding notes that no rows are left to be ended.
func (s *Store) RemoveEnding(ctx context.Context, e SessionEnding) error {
	_, err := s.write.NewDelete().Model((*endingRow)(nil)).Where("user_id = ? AND epoch = ?", e.UserID, e.Epoch).Exec(ctx)
	return s.fault("delete ending", err)
}
