// Package sessions fills a database with sessions for the programs that measure what follows
// a login: a thousand logins would hash passwords for half a minute.
package sessions

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// Secret is the REFRESH_TOKEN_SECRET that goes with them.
const Secret = "measured with, and good for nothing else"

// lifetime is longer than any measurement.
const lifetime = 24 * time.Hour

// Make brings the database of the URL up to date and stores n sessions of a new user. It
// returns their refresh tokens.
func Make(ctx context.Context, url string, n int) (refresh []string, err error) {
	store, err := persistence.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if _, err := migrations.Up(ctx, store.DB()); err != nil {
		return nil, err
	}
	err = store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		refresh, err = fill(ctx, tx, n)
		return err
	})
	return refresh, err
}

func fill(ctx context.Context, tx *persistence.Store, n int) (refresh []string, err error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	name := strings.ToLower(rand.Text())
	user, err := tx.CreateUser(ctx, persistence.NewUser{Email: name + "@example.com", EmailKey: name + "@example.com", At: now})
	if err != nil {
		return nil, err
	}
	for i := range n {
		s := persistence.Session{
			ID: fmt.Sprintf("%010d%s", i, strings.ToLower(rand.Text())), UserID: user, Generation: 1, AMR: []string{"pwd"},
			CreatedAt: now, UsedAt: now, ExpiresAt: now.Add(lifetime), DeadlineAt: now.Add(30 * lifetime), Carrier: auth.CarrierBody,
		}
		if err := tx.CreateSession(ctx, s); err != nil {
			return nil, err
		}
		text, err := token.SignRefresh(token.Key{Secret: []byte(Secret)}, token.Refresh{
			UserID: user, SessionID: s.ID, Generation: s.Generation, IssuedAt: s.UsedAt, ExpiresAt: s.ExpiresAt,
		})
		if err != nil {
			return nil, err
		}
		refresh = append(refresh, text)
	}
	return refresh, nil
}
