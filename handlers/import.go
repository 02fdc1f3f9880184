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

// Reasons why an account is not imported. Operators' scripts read them, so a released reason keeps its
// spelling.
const (
	SkipMalformed        = "malformed"         // its line does not have the documented format
	SkipInvalidID        = "invalid_id"        // not positive, or above the integers that JSON represents exactly
	SkipInvalidEmail     = "invalid_email"     // not an address that could register
	SkipInvalidName      = "invalid_name"      // not a name that could register
	SkipUnusablePassword = "unusable_password" // malformed, of an unknown scheme, or with a cost out of bounds
	SkipDuplicateEmail   = "duplicate_email"   // another account has the address
	SkipIDTaken          = "id_taken"          // the id belongs to another address
)

// The other verdicts on an account.
const (
	takenOver = "imported"
	present   = "present"
)

const (
	importBatch    = 500 // accounts in one transaction, which delays other requests by about 20 ms
	importAttempts = 3   // at a batch that conflicts with concurrent registrations
)

// Candidate is an account of another system, as read from its export.
type Candidate struct {
	persistence.ImportedUser
	NoID      bool // the database assigns one
	Line      int  // line number in the export, if it has lines
	Malformed bool // the line could not be parsed; the other fields are empty
}

// Source returns the next accounts, at most n, and none at its end.
type Source func(ctx context.Context, n int) ([]Candidate, error)

// Skip identifies an account that was not imported, with the reason. It contains no personal data.
type Skip struct {
	Line   int         `json:"line,omitempty"`
	ID     auth.UserID `json:"id,omitempty"`
	Reason string      `json:"reason"`
}

// ImportCounts counts the accounts that an import has processed.
type ImportCounts struct {
	Read     int
	Imported int
	Present  int // already in the database
	Skipped  int
}

// Import imports accounts of another system, with their ids, passwords and times. It leaves existing
// accounts unchanged, so it can be repeated, and can run while the service runs. All fields but Store
// are optional. An Import is for one Run.
type Import struct {
	Store  *persistence.Store
	DryRun bool // report the result, and store nothing
	// WithoutPassword imports accounts that have no password or an unusable one, and stores none.
	// Their owners set one by mail.
	WithoutPassword bool
	Skipped         func(Skip) error   // if set, receives each account that is not imported
	Progress        func(ImportCounts) // if set, receives the counts after each batch
	Clock           clock.Func

	counts  ImportCounts
	unnamed map[string]bool // addresses that this run has read without an id
	would   holders         // accounts that a dry run has found or would have stored
}

// Run imports all accounts of the source. Each batch is one transaction. When ctx ends, Run finishes
// the current batch and stops.
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

// take imports a batch, counts it and reports the skipped accounts.
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

// check returns the row of an account, or the reason why the account is skipped.
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
		// The database cannot distinguish a second line with the address from a first one that
		// an earlier run imported.
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

// known returns a time as it is stored, or otherwise if the time is zero or JSON cannot represent it:
// RFC 3339 has four digits for the year.
func known(t, otherwise time.Time) time.Time {
	t = t.UTC().Truncate(time.Microsecond)
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return otherwise
	}
	return t
}

// store stores the users that have no verdict yet, and returns the verdicts of all. It retries, up to
// importAttempts in total, if a concurrent registration takes one of the addresses.
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

// reserve prevents the database from assigning the ids of a batch to new registrations.
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

// storeIn fills in the missing verdicts and stores the users to import. It returns auth.ErrConflict if
// another transaction has taken or reserved one of the ids or addresses since holders read them.
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
	reserved, err := tx.Reservations(ctx, keys, i.Clock.Now()) // made since holders read them
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

// holders returns the accounts that have the ids and addresses of a batch or for which the addresses
// are reserved. In a dry run it includes the accounts that the run would have stored so far.
func (i *Import) holders(ctx context.Context, tx *persistence.Store, users []persistence.ImportRow) (holders, error) {
	var ids []auth.UserID
	var keys []string
	for _, u := range users {
		ids, keys = append(ids, u.ID), append(keys, u.EmailKey) // no account has an empty id or address
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

// holders maps each taken address to the id of its account, and has the taken ids.
type holders struct {
	byKey map[string]auth.UserID // 0 if the database has not assigned an id yet
	ids   map[auth.UserID]bool
}

func newHolders() holders { return holders{map[string]auth.UserID{}, map[auth.UserID]bool{}} }

func (h holders) add(id auth.UserID, emailKey string) {
	h.byKey[emailKey] = id
	h.ids[id] = true
}

// verdict returns the verdict on an account: takenOver, present or the reason why it is skipped.
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
