package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// User returns an account, or auth.ErrNotFound.
func (s *Store) User(ctx context.Context, id auth.UserID) (auth.User, error) {
	return s.oneUser(ctx, s.users(s.read).Where("id = ?", id))
}

// UserByEmail returns the account that has the address, or auth.ErrNotFound.
func (s *Store) UserByEmail(ctx context.Context, emailKey string) (auth.User, error) {
	return s.oneUser(ctx, s.users(s.read).Where("email_key = ?", emailKey))
}

// HoldUser returns an account, which nobody else changes and no login counts on until the
// transaction ends, or auth.ErrNotFound.
func (s *Store) HoldUser(ctx context.Context, id auth.UserID) (auth.User, error) {
	return s.holdUser(ctx, "id = ?", id)
}

// HoldUserByEmail is HoldUser for the account that has the address.
func (s *Store) HoldUserByEmail(ctx context.Context, emailKey string) (auth.User, error) {
	return s.holdUser(ctx, "email_key = ?", emailKey)
}

func (s *Store) holdUser(ctx context.Context, condition string, value any) (auth.User, error) {
	q := s.users(s.write).Where(condition, value)
	if s.forUpdate != "" {
		q = q.For(s.forUpdate)
	}
	return s.oneUser(ctx, q)
}

// Users returns accounts in the order of their ids: those behind an id, at most n.
func (s *Store) Users(ctx context.Context, after auth.UserID, n int) ([]auth.User, error) {
	var rows []userRow
	err := s.users(s.read).Where("id > ?", after).Order("id").Limit(int64(n)).Scan(ctx, &rows)
	list := make([]auth.User, len(rows))
	for i, r := range rows {
		list[i] = r.user()
	}
	return list, s.fault("select users", err)
}

// users selects accounts without what logs in.
func (s *Store) users(from bun.IDB) *bun.SelectQuery {
	return from.NewSelect().Model((*userRow)(nil)).ExcludeColumn("password", "email_key")
}

func (s *Store) oneUser(ctx context.Context, q *bun.SelectQuery) (auth.User, error) {
	var row userRow
	err := q.Scan(ctx, &row)
	return row.user(), s.fault("select user", err)
}

func (r userRow) user() auth.User {
	return auth.User{Account: r.account(), DisabledAt: r.DisabledAt.UTC()}
}

// SetDisabled makes a user disabled since a time, or not disabled if that is zero.
func (s *Store) SetDisabled(ctx context.Context, id auth.UserID, since, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).
		Set("disabled_at = ?", bun.NullTime{Time: since}).Set("updated_at = ?", at).Where("id = ?", id).Exec(ctx)
	return s.fault("disable user", err)
}

// SetPassword stores another password, whatever the stored one is.
func (s *Store) SetPassword(ctx context.Context, id auth.UserID, fresh string, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).Set("password = ?", fresh).Set("updated_at = ?", at).
		Where("id = ?", id).Exec(ctx)
	return s.fault("set password", err)
}

// CountLiveSessions returns how many sessions of a user have neither ended nor expired.
func (s *Store) CountLiveSessions(ctx context.Context, user auth.UserID, now time.Time) (int, error) {
	n, err := s.liveOf(user, now).Count(ctx)
	return int(n), s.fault("count sessions", err)
}
