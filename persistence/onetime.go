package persistence

import (
	"context"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
)

type oneTimeRow struct {
	bun.BaseModel `bun:"table:one_time_tokens,alias:o"`

	Digest        string      `bun:"digest,pk"`
	Code          string      `bun:"code,nullzero"`
	Purpose       string      `bun:"purpose"`
	UserID        auth.UserID `bun:"user_id,nullzero"`
	Email         string      `bun:"email"`
	EmailKey      string      `bun:"email_key"`
	Password      string      `bun:"password"`
	Name          string      `bun:"name"`
	Locale        string      `bun:"locale"`
	SessionID     string      `bun:"session_id"`
	Registration  string      `bun:"registration"`
	CreatedAt     time.Time   `bun:"created_at"`
	ExpiresAt     time.Time   `bun:"expires_at"`
	CodeExpiresAt time.Time   `bun:"code_expires_at,nullzero"`
}

// PurposeUndo is the purpose of rows that restore a user's former address. Such a row reserves the
// address for the user until the row is deleted or expires.
const PurposeUndo = "undo"

// OneTime is a one-time action that a mail permits its reader.
type OneTime struct {
	Digest        string // digest of the link's token
	Code          string // digest of the code; "" if there is none
	Purpose       string
	UserID        auth.UserID // 0 if there is no account yet
	Email         string      // the address that the action concerns
	EmailKey      string
	Password      string // password of a registration, as package password writes it; "" for other rows
	Name          string // name of that registration
	Locale        string // locale of that registration
	Registration  string // digest of the secret that the browser of the registration keeps; "" if there is none
	SessionID     string // session that requested the mail; "" if none did
	CreatedAt     time.Time
	ExpiresAt     time.Time
	CodeExpiresAt time.Time // zero if there is no code
}

// AddOneTime stores a one-time action.
func (s *Store) AddOneTime(ctx context.Context, o OneTime) error {
	row := oneTimeRow{
		Digest: o.Digest, Code: o.Code, Purpose: o.Purpose, UserID: o.UserID, Email: o.Email, EmailKey: o.EmailKey,
		Password: o.Password, Name: o.Name, Locale: o.Locale, SessionID: o.SessionID, Registration: o.Registration,
		CreatedAt: o.CreatedAt, ExpiresAt: o.ExpiresAt, CodeExpiresAt: o.CodeExpiresAt,
	}
	_, err := s.write.NewInsert().Model(&row).Exec(ctx)
	return s.fault("insert one-time token", err)
}

// OneTime returns the row that one of the digests of a link belongs to. It returns auth.ErrNotFound if
// the row was used or voided, has expired, or has another purpose.
func (s *Store) OneTime(ctx context.Context, purpose string, now time.Time, digests ...string) (OneTime, error) {
	return s.oneTime(ctx, purpose, "digest IN (?) AND expires_at > ?", bun.List(digests), now)
}

// OneTimeByCode is OneTime for the digests of a code.
func (s *Store) OneTimeByCode(ctx context.Context, purpose string, now time.Time, digests ...string) (OneTime, error) {
	return s.oneTime(ctx, purpose, "code IN (?) AND code_expires_at > ?", bun.List(digests), now)
}

// LatestOneTime returns the newest unexpired row of a purpose and an address that is not a
// registration, or auth.ErrNotFound.
func (s *Store) LatestOneTime(ctx context.Context, purpose, emailKey string, now time.Time) (OneTime, error) {
	return s.oneTime(ctx, purpose, "email_key = ? AND expires_at > ? AND password = ''", emailKey, now)
}

// LatestRegistration is LatestOneTime for registrations.
func (s *Store) LatestRegistration(ctx context.Context, purpose, emailKey string, now time.Time) (OneTime, error) {
	return s.oneTime(ctx, purpose, "email_key = ? AND expires_at > ? AND password <> ''", emailKey, now)
}

// Registration returns the newest unexpired row of an address that has one of the digests of a
// registration's secret, or auth.ErrNotFound.
func (s *Store) Registration(ctx context.Context, purpose, emailKey string, now time.Time, digests ...string) (OneTime, error) {
	return s.oneTime(ctx, purpose, "email_key = ? AND registration IN (?) AND expires_at > ?", emailKey, bun.List(digests), now)
}

// Reservation returns the row that reserves an address for its former user, or auth.ErrNotFound.
func (s *Store) Reservation(ctx context.Context, emailKey string, now time.Time) (OneTime, error) {
	return s.oneTime(ctx, PurposeUndo, "email_key = ? AND expires_at > ?", emailKey, now)
}

// Reservations returns the reserved ones of the addresses, each with its user.
func (s *Store) Reservations(ctx context.Context, emailKeys []string, now time.Time) ([]UserKey, error) {
	var found []UserKey
	err := s.write.NewSelect().Model((*oneTimeRow)(nil)).ColumnExpr("user_id AS id").Column("email_key").
		Where("purpose = ? AND email_key IN (?) AND expires_at > ?", PurposeUndo, bun.List(emailKeys), now).Scan(ctx, &found)
	return found, s.fault("select reservations", err)
}

// checkReserved returns auth.ErrEmailTaken if an address is reserved for another user. It must run
// after the statement that takes the address: that statement waits for a transaction that gives up the
// address, so checkReserved sees the reservation that the transaction made.
func (s *Store) checkReserved(ctx context.Context, user auth.UserID, emailKey string, now time.Time) error {
	reserved, err := s.Reservation(ctx, emailKey, now)
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return nil
	case err == nil && reserved.UserID != user:
		return auth.ErrEmailTaken
	}
	return err
}

func (s *Store) oneTime(ctx context.Context, purpose, condition string, args ...any) (OneTime, error) {
	var row oneTimeRow
	err := s.read.NewSelect().Model(&row).Where("purpose = ?", purpose).Where(condition, args...).
		Order("created_at DESC").Limit(1).Scan(ctx)
	if err != nil {
		return OneTime{}, s.fault("select one-time token", err)
	}
	return row.oneTime(), nil
}

func (r oneTimeRow) oneTime() OneTime {
	return OneTime{
		Digest: r.Digest, Code: r.Code, Purpose: r.Purpose, UserID: r.UserID, Email: r.Email, EmailKey: r.EmailKey,
		Password: r.Password, Name: r.Name, Locale: r.Locale, SessionID: r.SessionID, Registration: r.Registration,
		CreatedAt: r.CreatedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(), CodeExpiresAt: r.CodeExpiresAt.UTC(),
	}
}

// TakeOneTime uses up a one-time token and reports whether it did: only one of several concurrent
// calls does.
func (s *Store) TakeOneTime(ctx context.Context, digest string, now time.Time) (bool, error) {
	taken, err := changed(s.write.NewDelete().Model((*oneTimeRow)(nil)).Where("digest = ? AND expires_at > ?", digest, now).Exec(ctx))
	return taken, s.fault("take one-time token", err)
}

// VoidOneTimes deletes the rows of a user, except rows with one of the given purposes.
func (s *Store) VoidOneTimes(ctx context.Context, user auth.UserID, but ...string) error {
	q := s.write.NewDelete().Model((*oneTimeRow)(nil)).Where("user_id = ?", user)
	if len(but) > 0 {
		q = q.Where("purpose NOT IN (?)", bun.List(but))
	}
	_, err := q.Exec(ctx)
	return s.fault("void one-time tokens", err)
}

// VoidOneTimesSince deletes the rows of a user, except rows of the purpose that are older than a time.
func (s *Store) VoidOneTimesSince(ctx context.Context, user auth.UserID, purpose string, since time.Time) error {
	_, err := s.write.NewDelete().Model((*oneTimeRow)(nil)).
		Where("user_id = ? AND (purpose <> ? OR created_at >= ?)", user, purpose, since).Exec(ctx)
	return s.fault("void one-time tokens", err)
}

// VoidOlder deletes the rows that a newer request with the same purpose replaces: the user's rows or,
// without a user, the rows of the address that have no user. It keeps registrations.
func (s *Store) VoidOlder(ctx context.Context, purpose string, user auth.UserID, emailKey string) error {
	q := s.write.NewDelete().Model((*oneTimeRow)(nil)).Where("purpose = ? AND password = ''", purpose)
	if user != 0 {
		q = q.Where("user_id = ?", user)
	} else {
		q = q.Where("user_id IS NULL AND email_key = ?", emailKey)
	}
	_, err := q.Exec(ctx)
	return s.fault("void older one-time tokens", err)
}

// MakeRoom prepares an address for one more registration. It deletes the older rows of the same
// registration, which its password identifies. It keeps the oldest most-1 other registrations and
// deletes the rest.
func (s *Store) MakeRoom(ctx context.Context, purpose, emailKey, password string, most int) error {
	const registrations = "purpose = ? AND email_key = ? AND password <> ''"
	oldest := s.write.NewSelect().Model((*oneTimeRow)(nil)).Column("digest").
		Where(registrations, purpose, emailKey).Where("password <> ?", password).
		Order("created_at", "digest").Limit(int64(most - 1))
	_, err := s.write.NewDelete().Model((*oneTimeRow)(nil)).
		Where(registrations, purpose, emailKey).Where("digest NOT IN (?)", oldest).Exec(ctx)
	return s.fault("make room for a registration", err)
}

// VoidAddress deletes the rows of a purpose and an address, with and without a user.
func (s *Store) VoidAddress(ctx context.Context, purpose, emailKey string) error {
	_, err := s.write.NewDelete().Model((*oneTimeRow)(nil)).Where("purpose = ? AND email_key = ?", purpose, emailKey).Exec(ctx)
	return s.fault("void one-time tokens of an address", err)
}

// SweepOneTimes deletes expired rows, in one small batch, and returns how many: fewer than the batch
// means that none is left.
func (s *Store) SweepOneTimes(ctx context.Context, now time.Time, batch int64) (int, error) {
	over := s.write.NewSelect().Model((*oneTimeRow)(nil)).Column("digest").
		Where("expires_at <= ?", now).Order("expires_at").Limit(batch)
	if s.skipLocked != "" {
		over = over.For(s.skipLocked)
	}
	result, err := s.write.NewDelete().Model((*oneTimeRow)(nil)).Where("digest IN (?)", over).Exec(ctx)
	return count(result, s.fault("delete one-time tokens", err))
}
