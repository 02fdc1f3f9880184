package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/persistence"
)

const (
	secret = "correct horse battery"
	// renewed is how many sessions are refreshed by turns: more often than a thousand times in a
	// measurement none of them may be.
	renewed = 64
	// spareSessions is how many sessions a second there are to be ended.
	spareSessions = 1000
)

// load is who asks: as many people as requests at once, each with a session.
type load struct {
	conn   *nats.Conn
	store  *persistence.Store
	emails []string
	tokens []auth.Tokens
	spare  chan string // ids of sessions of the first of them
	renew  chan string // refresh tokens, for whoever comes next
}

// errUsedUp ends a measurement early.
var errUsedUp = errors.New("used up")

// newLoad registers the people for n replicas and logs them in, and gives the first one many
// sessions more.
func newLoad(ctx context.Context, url string, store *persistence.Store, n int) (l *load, err error) {
	l = &load{store: store, spare: make(chan string, spareSessions**seconds), renew: make(chan string, renewed)}
	if l.conn, err = bus.Connect(url); err != nil {
		return nil, err
	}
	for i := range n * *requesters {
		email := fmt.Sprintf("person%d.of%d@example.com", i, n)
		if _, err := bus.Call(ctx, l.conn, auth.Register, auth.RegisterRequest{Email: email, Password: secret}); err != nil {
			return nil, err
		}
		reply, err := l.login(ctx, email)
		if err != nil {
			return nil, err
		}
		l.emails, l.tokens = append(l.emails, email), append(l.tokens, reply.Tokens)
	}
	for i := range cap(l.renew) {
		reply, err := l.login(ctx, l.emails[i%len(l.emails)])
		if err != nil {
			return nil, err
		}
		l.renew <- reply.RefreshToken
	}
	if err := l.addSessions(ctx, n); err != nil {
		return nil, err
	}
	_, err = store.DB().ExecContext(ctx, "ANALYZE") // so many sessions of one user are no surprise then
	return l, err
}

// login tries again while there is too much to hash.
func (l *load) login(ctx context.Context, email string) (reply auth.LoginReply, err error) {
	for {
		reply, err = bus.Call(ctx, l.conn, auth.Login, auth.LoginRequest{Email: email, Password: secret})
		if !errors.Is(err, auth.ErrOverloaded) {
			return reply, err
		}
	}
}

// addSessions stores sessions without a login, which would take long.
func (l *load) addSessions(ctx context.Context, n int) error {
	who, err := bus.Call(ctx, l.conn, auth.Verify, auth.VerifyRequest{Token: l.tokens[0].AccessToken})
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	return l.store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		for i := range cap(l.spare) {
			s := persistence.Session{
				ID: fmt.Sprintf("spare%d-%d", n, i), UserID: who.UserID, Generation: 1, AMR: []string{"pwd"}, Carrier: auth.CarrierBody,
				CreatedAt: now, UsedAt: now, ExpiresAt: now.Add(time.Hour), DeadlineAt: now.Add(time.Hour),
			}
			if err := tx.CreateSession(ctx, s); err != nil {
				return err
			}
			l.spare <- s.ID
		}
		return nil
	})
}

// kind is a request; who asks has a number.
type kind struct {
	name string
	ask  func(who int) error
}

func (l *load) kinds() []kind {
	ctx := context.Background()
	return []kind{
		{"login", func(who int) error { _, err := l.login(ctx, l.emails[who]); return err }},
		{"refresh", func(int) error { return l.refresh(ctx) }},
		{"verify", func(who int) error {
			_, err := bus.Call(ctx, l.conn, auth.Verify, auth.VerifyRequest{Token: l.tokens[who].AccessToken})
			return err
		}},
		{"rename", func(who int) error {
			name := time.Now().String()
			_, err := bus.Call(ctx, l.conn, auth.AccountUpdate, auth.AccountUpdateRequest{Bearer: l.bearer(who), Name: &name})
			return err
		}},
		{"revoke", func(int) error { return l.revoke(ctx) }},
	}
}

func (l *load) bearer(who int) auth.Bearer {
	return auth.Bearer{AccessToken: l.tokens[who].AccessToken}
}

func (l *load) refresh(ctx context.Context) error {
	next, err := bus.Call(ctx, l.conn, auth.Refresh, auth.RefreshRequest{RefreshToken: <-l.renew})
	if err == nil {
		l.renew <- next.RefreshToken
	}
	return err
}

func (l *load) revoke(ctx context.Context) error {
	select {
	case id := <-l.spare:
		_, err := bus.Call(ctx, l.conn, auth.SessionsRevoke, auth.SessionsRevokeRequest{Bearer: l.bearer(0), SessionID: id})
		return err
	default:
		return errUsedUp
	}
}
