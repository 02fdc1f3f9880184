package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

type userRow struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID        auth.UserID `bun:"id,pk,autoincrement"`
	Email     string      `bun:"email"`
	EmailKey  string      `bun:"email_key"`
	Password  string      `bun:"password"`
	Name      string      `bun:"name"`
	Locale    string      `bun:"locale"`
	CreatedAt time.Time   `bun:"created_at"`
	UpdatedAt time.Time   `bun:"updated_at"`

	DisabledAt time.Time `bun:"disabled_at,nullzero"`
	VerifiedAt time.Time `bun:"email_verified_at,nullzero"`
}

// NewUser is an account to be stored.
type NewUser struct {
	Email    string // where mail is sent
	EmailKey string // unique
	Password string // as package password writes it
	Name     string
	Locale   string // BCP 47; "" is the default
	At       time.Time
	Verified bool // mail to the address reaches the owner
}

// CreateUser stores u and returns the id that the database assigned. It returns auth.ErrEmailTaken if
// the address has an account or is reserved; the caller must then roll back its transaction.
func (s *Store) CreateUser(ctx context.Context, u NewUser) (auth.UserID, error) {
	row := userRow{
		Email: u.Email, EmailKey: u.EmailKey, Password: u.Password, Name: u.Name, Locale: u.Locale,
		CreatedAt: u.At, UpdatedAt: u.At,
	}
	if u.Verified {
		row.VerifiedAt = u.At
	}
	created, err := changed(s.write.NewInsert().Model(&row).
		On("CONFLICT (email_key) DO NOTHING").Returning("id").Exec(ctx))
	if err != nil {
		return 0, s.fault("insert user", err)
	}
	if !created {
		return 0, auth.ErrEmailTaken
	}
	if err := s.checkReserved(ctx, row.ID, u.EmailKey, u.At); err != nil {
		return 0, err
	}
	return row.ID, nil
}

// Account returns the account as its user may see it, or auth.ErrNotFound.
func (s *Store) Account(ctx context.Context, id auth.UserID) (auth.Account, error) {
	var row userRow
	err := s.read.NewSelect().Model(&row).ExcludeColumn("password", "email_key").Where("id = ?", id).Scan(ctx)
	return row.account(), s.fault("select user", err)
}

// Change holds the new values of an account; nil leaves a value unchanged.
type Change struct{ Name, Locale *string }

// UpdateUser changes an account and returns the changed account. It returns auth.ErrNotFound if there
// is no such account or its user is disabled.
func (s *Store) UpdateUser(ctx context.Context, id auth.UserID, c Change, at time.Time) (auth.Account, error) {
	var row userRow
	q := s.write.NewUpdate().Model(&row).Set("updated_at = ?", at).
		Where("id = ? AND disabled_at IS NULL", id).Returning("id, email, name, locale, created_at, updated_at, email_verified_at")
	if c.Name != nil {
		q = q.Set("name = ?", *c.Name)
	}
	if c.Locale != nil {
		q = q.Set("locale = ?", *c.Locale)
	}
	err := q.Scan(ctx)
	return row.account(), s.fault("update user", err)
}

// DeleteUser deletes an account and its dependent rows, except its sessions, if the stored password is
// still the given one and the user is not disabled. It reports whether it did.
func (s *Store) DeleteUser(ctx context.Context, id auth.UserID, password string) (bool, error) {
	deleted, err := changed(s.write.NewDelete().Model((*userRow)(nil)).Where("id = ? AND password = ? AND disabled_at IS NULL", id, password).Exec(ctx))
	return deleted, s.fault("delete user", err)
}

// Password returns the stored password of a user, or auth.ErrNotFound.
func (s *Store) Password(ctx context.Context, id auth.UserID) (string, error) {
	var password string
	err := s.read.NewSelect().Model((*userRow)(nil)).Column("password").Where("id = ?", id).Scan(ctx, &password)
	return password, s.fault("select password", err)
}

func (r userRow) account() auth.Account {
	return auth.Account{
		UserID: r.ID, Email: r.Email, EmailVerified: !r.VerifiedAt.IsZero(), Name: r.Name, Locale: r.Locale,
		CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(),
	}
}

// Credentials holds the stored values that a login is checked against.
type Credentials struct {
	UserID   auth.UserID
	Password string // as package password writes it
	Disabled bool   // every login is refused
	Verified bool   // mail to the address reaches the owner
}

// Credentials returns the stored credentials of the address, or auth.ErrNotFound.
func (s *Store) Credentials(ctx context.Context, emailKey string) (Credentials, error) {
	var c Credentials
	err := s.read.NewSelect().Model((*userRow)(nil)).Column("id", "password").
		ColumnExpr("disabled_at IS NOT NULL").ColumnExpr("email_verified_at IS NOT NULL").
		Where("email_key = ?", emailKey).Scan(ctx, &c.UserID, &c.Password, &c.Disabled, &c.Verified)
	return c, s.fault("select credentials", err)
}

// HoldPassword returns the stored password of a user who is not disabled, and holds the user's row
// until the transaction ends, as HoldUser does. It returns auth.ErrNotFound for any other id.
func (s *Store) HoldPassword(ctx context.Context, id auth.UserID) (string, error) {
	var password string
	q := s.write.NewSelect().Model((*userRow)(nil)).Column("password").Where("id = ? AND disabled_at IS NULL", id)
	if s.forUpdate != "" {
		q = q.For(s.forUpdate)
	}
	return password, s.fault("hold password", q.Scan(ctx, &password))
}

// ReplacePassword stores another string for the same password and reports whether it did. It changes
// nothing if the stored string is no longer old.
func (s *Store) ReplacePassword(ctx context.Context, id auth.UserID, old, fresh string) (bool, error) {
	replaced, err := changed(s.write.NewUpdate().Model((*userRow)(nil)).Set("password = ?", fresh).
		Where("id = ? AND password = ?", id, old).Exec(ctx))
	return replaced, s.fault("replace password", err)
}

// SetVerified records that mail to the address reaches the user.
func (s *Store) SetVerified(ctx context.Context, id auth.UserID, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).Set("email_verified_at = ?", at).Set("updated_at = ?", at).
		Where("id = ?", id).Exec(ctx)
	return s.fault("verify address", err)
}

// SetEmail gives a user another address, which it marks as verified. It returns auth.ErrEmailTaken if
// the address belongs to another account or is reserved for one; the caller must then roll back its
// transaction.
func (s *Store) SetEmail(ctx context.Context, id auth.UserID, email, emailKey string, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).Set("email = ?", email).Set("email_key = ?", emailKey).
		Set("email_verified_at = ?", at).Set("updated_at = ?", at).Where("id = ?", id).Exec(ctx)
	if err != nil && s.classify(err) == faultTaken {
		return auth.ErrEmailTaken
	}
	if err != nil {
		return s.fault("change address", err)
	}
	return s.checkReserved(ctx, id, emailKey, at)
}

// User returns an account, or auth.ErrNotFound.
func (s *Store) User(ctx context.Context, id auth.UserID) (auth.User, error) {
	return s.oneUser(ctx, s.users(s.read).Where("id = ?", id))
}

// UserByEmail returns the account that has the address, or auth.ErrNotFound.
func (s *Store) UserByEmail(ctx context.Context, emailKey string) (auth.User, error) {
	return s.oneUser(ctx, s.users(s.read).Where("email_key = ?", emailKey))
}

// HoldUser returns an account, or auth.ErrNotFound, and locks its row until the transaction ends: no
// other transaction changes the account or completes a login with it.
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

// Users returns the accounts with ids above after, at most n, in the order of their ids.
func (s *Store) Users(ctx context.Context, after auth.UserID, n int) ([]auth.User, error) {
	var rows []userRow
	err := s.users(s.read).Where("id > ?", after).Order("id").Limit(int64(n)).Scan(ctx, &rows)
	list := make([]auth.User, len(rows))
	for i, r := range rows {
		list[i] = r.user()
	}
	return list, s.fault("select users", err)
}

// users selects accounts without the columns password and email_key.
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

// SetDisabled marks a user as disabled since a time, or as not disabled if since is zero.
func (s *Store) SetDisabled(ctx context.Context, id auth.UserID, since, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).
		Set("disabled_at = ?", bun.NullTime{Time: since}).Set("updated_at = ?", at).Where("id = ?", id).Exec(ctx)
	return s.fault("disable user", err)
}

// SetPassword stores a new password, regardless of the stored one.
func (s *Store) SetPassword(ctx context.Context, id auth.UserID, fresh string, at time.Time) error {
	_, err := s.write.NewUpdate().Model((*userRow)(nil)).Set("password = ?", fresh).Set("updated_at = ?", at).
		Where("id = ?", id).Exec(ctx)
	return s.fault("set password", err)
}
