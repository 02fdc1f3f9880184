package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/zyotra/auth/internal/email"
)

// foldingStep is the step that changed how the key of an address is computed.
const foldingStep = "0019"

// refoldBatch is how many accounts one query reads.
const refoldBatch = 1000

// Collision is an account whose address means the same mailbox as the address of another account, Holder,
// which has the key. The account UserID keeps its former key, so no login finds it. Holder is 0 if no
// account has the key any more: Refold then gives the key to this account.
type Collision struct {
	UserID, Holder int64
}

// Collisions returns the accounts that share a mailbox with another account, in the order of their ids. It
// reads the accounts whose key is not ASCII, and changes nothing.
func Collisions(ctx context.Context, db *bun.DB) (list []Collision, err error) {
	err = eachOutdated(ctx, db, db.Dialect().Name(), func(id int64, key string) error {
		list, err = addCollision(ctx, db, list, id, key)
		return err
	})
	return list, err
}

// addCollision appends the account to the list, unless it already has the key: another instance may have
// folded its address since it was read.
func addCollision(ctx context.Context, db bun.IConn, list []Collision, id int64, key string) ([]Collision, error) {
	c := Collision{UserID: id}
	err := db.QueryRowContext(ctx, "SELECT id FROM users WHERE email_key = ?", key).Scan(&c.Holder)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return list, err
	case c.Holder == id:
		return list, nil
	}
	return append(list, c), nil
}

// Refold repeats the step's change for the accounts that need it: accounts whose key was taken then and is
// free now, and accounts that an instance of the former version has registered since. It returns the
// remaining collisions, as Collisions does. It is for a database to which the step is applied.
func Refold(ctx context.Context, db *bun.DB) ([]Collision, error) {
	return refold(ctx, db, db.Dialect().Name())
}

// refold gives every account the key that its address has now, unless another account has that
// key. The oldest account comes first.
func refold(ctx context.Context, db bun.IConn, name dialect.Name) (list []Collision, err error) {
	err = eachOutdated(ctx, db, name, func(id int64, key string) error {
		done, err := db.ExecContext(ctx, "UPDATE users SET email_key = ? WHERE id = ? AND NOT EXISTS (SELECT 1 FROM users WHERE email_key = ?)", key, id, key)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n > 0 {
			return err
		}
		list, err = addCollision(ctx, db, list, id, key)
		return err
	})
	return list, err
}

// eachOutdated calls fn with every account whose key is not ASCII and differs from the one that its address
// has now, in the order of ids. It skips addresses that email.Parse no longer accepts.
func eachOutdated(ctx context.Context, db bun.IConn, name dialect.Name, fn func(id int64, key string) error) error {
	isForeign := "email_key ~ '[^[:ascii:]]'"
	if name == dialect.SQLite {
		isForeign = "email_key GLOB '*[^' || char(1) || '-' || char(127) || ']*'"
	}
	for last := int64(0); ; {
		rows, err := db.QueryContext(ctx, "SELECT id, email, email_key FROM users WHERE id > ? AND "+isForeign+" ORDER BY id LIMIT ?", last, refoldBatch)
		if err != nil {
			return fmt.Errorf("read addresses: %w", err)
		}
		keys, n, err := outdated(rows, &last)
		if err != nil {
			return fmt.Errorf("read addresses: %w", err)
		}
		for _, k := range keys {
			if err := fn(k.id, k.key); err != nil {
				return fmt.Errorf("fold the address of account %d: %w", k.id, err)
			}
		}
		if n < refoldBatch {
			return nil
		}
	}
}

// newKey is the key that an account's address has now.
type newKey struct {
	id  int64
	key string
}

// outdated reads the rows and returns the keys that differ and the number of rows. It sets last to the
// last id.
func outdated(rows *sql.Rows, last *int64) (keys []newKey, n int, err error) {
	defer rows.Close()
	for ; rows.Next(); n++ {
		var address, stored string
		if err := rows.Scan(last, &address, &stored); err != nil {
			return nil, 0, err
		}
		if now, err := email.Parse(address); err == nil && now.Key != stored {
			keys = append(keys, newKey{*last, now.Key})
		}
	}
	return keys, n, rows.Err()
}

// isFolding reports whether the step is the one that changes keys.
func isFolding(name string) bool { return strings.HasPrefix(name, foldingStep) }
