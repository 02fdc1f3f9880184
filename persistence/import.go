package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

// ImportRow is an account of another service, to be stored.
type ImportRow struct {
	ID        auth.UserID // 0: the database assigns one
	Email     string      // where mail is sent
	EmailKey  string      // unique
	Password  string      // as package password reads it
	Name      string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// UserKey is the id and the address key of a user.
type UserKey struct {
	ID       auth.UserID
	EmailKey string
}

// UserKeys returns the accounts that have one of the ids or one of the addresses.
func (s *Store) UserKeys(ctx context.Context, ids []auth.UserID, emailKeys []string) ([]UserKey, error) {
	var found []UserKey
	err := s.write.NewSelect().Model((*userRow)(nil)).Column("id", "email_key").
		Where("id IN (?)", bun.List(ids)).WhereOr("email_key IN (?)", bun.List(emailKeys)).Scan(ctx, &found)
	return found, s.fault("select holders", err)
}

// ReserveIDs permanently prevents the database from assigning ids up to last.
func (s *Store) ReserveIDs(ctx context.Context, last auth.UserID) error {
	return s.Tx(ctx, func(ctx context.Context, tx *Store) error {
		return s.fault("reserve ids", s.reserve(ctx, tx.write, last))
	})
}

// ImportUsers stores accounts and returns their ids by their email keys. It omits an account whose id or
// address another account has. The caller must reserve the ids of the accounts before: otherwise the
// database assigns them again.
func (s *Store) ImportUsers(ctx context.Context, users []ImportRow) (map[string]auth.UserID, error) {
	var named, unnamed []userRow
	for _, u := range users {
		row := userRow{
			ID: u.ID, Email: u.Email, EmailKey: u.EmailKey, Password: u.Password, Name: u.Name,
			CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
		}
		if u.ID == 0 {
			unnamed = append(unnamed, row)
		} else {
			named = append(named, row)
		}
	}
	stored, err := s.insertNamed(ctx, named)
	if err != nil {
		return nil, s.fault("import users", err)
	}
	more, err := s.insertUnnamed(ctx, unnamed)
	if err != nil {
		return nil, s.fault("import users", err)
	}
	stored = append(stored, more...)
	ids := make(map[string]auth.UserID, len(stored))
	for _, h := range stored {
		ids[h.EmailKey] = h.ID
	}
	return ids, nil
}

// insertNamed inserts rows with the ids that they have. Postgres requires the overriding clause for that.
func (s *Store) insertNamed(ctx context.Context, rows []userRow) (stored []UserKey, err error) {
	if rows == nil {
		return nil, nil
	}
	err = s.write.NewRaw(`INSERT INTO users (id, email, email_key, password, name, locale, created_at, updated_at, disabled_at, email_verified_at)`+
		s.overriding+` ? ON CONFLICT DO NOTHING RETURNING id, email_key`, s.write.NewValues(&rows)).Scan(ctx, &stored)
	return stored, err
}

func (s *Store) insertUnnamed(ctx context.Context, rows []userRow) (stored []UserKey, err error) {
	if rows == nil {
		return nil, nil
	}
	err = s.write.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Returning("id, email_key").Scan(ctx, &stored)
	return stored, err
}
