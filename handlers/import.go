package handlers

import (
	"context"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/email"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/persistence"
)

// Reasons for which an account is not imported. Operators' scripts read them, so a released
// one keeps its spelling.
const (
	SkipMalformed        = "malformed"         // its line is not what is documented
	SkipInvalidID        = "invalid_id"        // not positive, or more than JSON keeps exactly
	SkipInvalidEmail     = "invalid_email"     // not an address that could register
	SkipInvalidName      = "invalid_name"      // not a name that could register
	SkipUnusablePassword = "unusable_password" // of no scheme that is understood, malformed, or its cost is out of bounds
	SkipDuplicateEmail   = "duplicate_email"   // another account has the address
	SkipIDTaken          = "id_taken"          // the id belongs to another address
)

// What else becomes of an account.
const (
	takenOver = "imported"
	present   = "present"
)

const (
	importBatch    = 500 // accounts in one transaction: others wait for some 20 ms
	importAttempts = 3   // at a batch that others get in the way of
)

// Candidate is an account that was made elsewhere, as it was read there.
type Candidate struct {
	persistence.ImportedUser
	NoID      bool // the database gives it one
	Line      int  // where it was read, if that has lines
	Malformed bool // the line could not be read; the rest is empty
}

// Source gives the next accounts, at most n of them, and none at its end.
type Source func(ctx context.Context, n int) ([]Candidate, error)

// Skip says which account was not imported, and why. It holds nothing personal.
type Skip struct {
	Line   int         `json:"line,omitempty"`
	ID     auth.UserID `json:"id,omitempty"`
	Reason string      `json:"reason"`
}

// ImportCounts is how far an import came.
type ImportCounts struct {
	Read     int
	Imported int
	Present  int // imported before
	Skipped  int
}

// Import takes accounts over from elsewhere, with their ids, passwords and times. What is
// there already stays as it is, so it can be run again, and while the service runs. All
// fields but Store may be left out. It is for one Run.
type Import struct {
	Store  *persistence.Store
	DryRun bool // tell what would be done, and store nothing
	// WithoutPassword imports accounts whose password cannot be used, and those that have none,
	// without it. Their owners set one by mail.
	WithoutPassword bool
	Skipped         func(Skip) error   // hears of each account that is not imported
	Progress        func(ImportCounts) // hears of each batch
	Clock           clock.Func

	counts  ImportCounts
	unnamed map[string]bool // addresses of this run that came without an id
	would   holders         // those that a dry run has met
}

// Run imports all that the source gives. When ctx ends it stops between two batches, each of
// which is one transaction.
func (i *Import) Run(ctx context.Context, next Source) (ImportCounts, error) {
	i.unnamed, i.would = map[string]bool{}, newHolders()
	for {
		batch, err := next(ctx, importBatch)
		if err = errors.Join(err, ctx.Err()); err != nil || len(batch) == 0 {
			return i.counts, err
		}
		if err := i.take(context.WithoutCancel(ctx), batch); err != nil {
			return i.counts, err
		}
		if i.Progress != nil {
			i.Progress(i.counts)
		}
	}
}

// take imports a batch, counts it and tells what was skipped.
func (i *Import) take(ctx context.Context, batch []Candidate) error {
	now := i.Clock.Now()
	users, verdicts := make([]persistence.ImportRow, len(batch)), make([]string, len(batch))
	for n, c := range batch {
		users[n], verdicts[n] = i.check(c, now)
	}
	verdicts, err := i.store(ctx, users, verdicts)
	if err != nil {
		return err
	}
	i.counts.Read += len(batch)
	for n, verdict := range verdicts {
		switch verdict {
		case takenOver:
			i.counts.Imported++
		case present:
			i.counts.Present++
		default:
			i.counts.Skipped++
			if err := i.tell(Skip{Line: batch[n].Line, ID: batch[n].ID, Reason: verdict}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i *Import) tell(s Skip) error {
	if i.Skipped == nil {
		return nil
	}
	return i.Skipped(s)
}

// check brings an account into the form that is stored, or returns why it is skipped.
func (i *Import) check(c Candidate, now time.Time) (user persistence.ImportRow, reason string) {
	address, err := email.Parse(c.Email)
	switch {
	case c.Malformed:
		return user, SkipMalformed
	case !c.NoID && (c.ID <= 0 || c.ID > persistence.MaxUserID):
		return user, SkipInvalidID
	case err != nil:
		return user, SkipInvalidEmail
	case !utf8.ValidString(c.Name) || checkName(c.Name) != "":
		return user, SkipInvalidName
	}
	if password.CheckStored(c.Password) != nil {
		if !i.WithoutPassword {
			return user, SkipUnusablePassword
		}
		c.Password = ""
	}
	if c.NoID {
		// The database cannot tell a second line of an address from a first one that was
		// imported before.
		if i.unnamed[address.Key] {
			return user, SkipDuplicateEmail
		}
		i.unnamed[address.Key] = true
	}
	created := known(c.CreatedAt, now)
	return persistence.ImportRow{
		ID: c.ID, Email: address.Display, EmailKey: address.Key, Password: c.Password, Name: c.Name,
		CreatedAt: created, UpdatedAt: known(c.UpdatedAt, created),
	}, ""
}

// known is a time as it is stored, or another one if it is none, or none that JSON can tell:
// RFC 3339 has four digits for the year.
func known(t, otherwise time.Time) time.Time {
	t = t.UTC().Truncate(time.Microsecond)
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return otherwise
	}
	return t
}

// store stores those users that have no verdict yet, and returns everyone's. It tries again
// if somebody registers one of the addresses meanwhile.
func (i *Import) store(ctx context.Context, users []persistence.ImportRow, checked []string) (verdicts []string, err error) {
	if err := i.reserve(ctx, users); err != nil {
		return nil, err
	}
	for range importAttempts {
		verdicts = slices.Clone(checked)
		err = i.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
			return i.storeIn(ctx, tx, users, verdicts)
		})
		if !errors.Is(err, auth.ErrConflict) {
			break
		}
	}
	return verdicts, err
}

// reserve keeps the ids of a batch from being given to those who register.
func (i *Import) reserve(ctx context.Context, users []persistence.ImportRow) error {
	if i.DryRun {
		return nil
	}
	var last auth.UserID
	for _, u := range users {
		last = max(last, u.ID)
	}
	return i.Store.ReserveIDs(ctx, last)
}

// storeIn fills in the verdicts that are missing and stores whom they say. It returns
// auth.ErrConflict if somebody came in between.
func (i *Import) storeIn(ctx context.Context, tx *persistence.Store, users []persistence.ImportRow, verdicts []string) error {
	holders, err := i.holders(ctx, tx, users)
	if err != nil {
		return err
	}
	var fresh []persistence.ImportRow
	for n, u := range users {
		if verdicts[n] != "" {
			continue
		}
		if verdicts[n] = holders.verdict(u); verdicts[n] == takenOver {
			holders.add(u.ID, u.EmailKey)
			fresh = append(fresh, u)
		}
	}
	if i.DryRun {
		return nil
	}
	if len(fresh) == 0 {
		return nil
	}
	ids, err := tx.ImportUsers(ctx, fresh)
	if err != nil {
		return err
	}
	keys := make([]string, len(fresh))
	for n, u := range fresh {
		keys[n] = u.EmailKey
	}
	reserved, err := tx.Reservations(ctx, keys, i.Clock.Now()) // made since holders looked
	if err == nil && (len(ids) < len(fresh) || len(reserved) > 0) {
		err = auth.ErrConflict
	}
	if err != nil {
		return err
	}
	data := make([]events.Data, len(fresh))
	for n, u := range fresh {
		data[n] = events.UserRegistered{UserID: ids[u.EmailKey], Email: u.Email, Name: u.Name, CreatedAt: u.CreatedAt}
	}
	return tx.Emit(ctx, i.Clock.Now(), data...)
}

// holders finds out who has the ids and addresses of a batch, or for whom they are reserved. A dry run adds whom it would
// have stored before.
func (i *Import) holders(ctx context.Context, tx *persistence.Store, users []persistence.ImportRow) (holders, error) {
	var ids []auth.UserID
	var keys []string
	for _, u := range users {
		ids, keys = append(ids, u.ID), append(keys, u.EmailKey) // empty ones are nobody's
	}
	stored, err := tx.UserKeys(ctx, ids, keys)
	found := i.would
	if !i.DryRun {
		found = newHolders()
	}
	if err != nil {
		return found, err
	}
	reserved, err := tx.Reservations(ctx, keys, i.Clock.Now())
	for _, h := range append(stored, reserved...) {
		found.add(h.ID, h.EmailKey)
	}
	return found, err
}

// holders says who has an address, and which ids somebody has.
type holders struct {
	byKey map[string]auth.UserID // 0 for one that the database has not given yet
	ids   map[auth.UserID]bool
}

func newHolders() holders { return holders{map[string]auth.UserID{}, map[auth.UserID]bool{}} }

func (h holders) add(id auth.UserID, emailKey string) {
	h.byKey[emailKey] = id
	h.ids[id] = true
}

// verdict says what becomes of an account.
func (h holders) verdict(u persistence.ImportRow) string {
	id, registered := h.byKey[u.EmailKey]
	switch {
	case registered && (u.ID == 0 || u.ID == id):
		return present
	case registered:
		return SkipDuplicateEmail
	case u.ID != 0 && h.ids[u.ID]:
		return SkipIDTaken
	}
	return takenOver
}
