package main

import (
	"context"
	"crypto/md5"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

const (
	plain        = "correct horse battery"
	sessionsEach = 2
	accessTTL    = 15 * time.Minute
	idleTTL      = 360 * time.Hour
)

// service is what answers logins and refreshes, without the bus.
type service struct {
	store     *persistence.Store
	sessions  *handlers.Sessions
	refreshK  token.Key
	stored    string // the password of everybody
	stats     statistics
	asked     int       // of next
	refreshed sync.Map  // generations of sessions, by their numbers
	began     time.Time // what fill calls now
}

// open joins the parts as the program does, but for the cost of hashes.
func open(ctx context.Context, url string) (*service, error) {
	store, err := persistence.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	s := &service{store: store, stats: statistics{store.DB().DB}, began: time.Now().UTC().Truncate(time.Second)}
	return s, s.join(ctx)
}

func (s *service) join(ctx context.Context) error {
	if _, err := migrations.Up(ctx, s.store.DB()); err != nil {
		return err
	}
	if _, err := s.stats.db.ExecContext(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return err
	}
	master, err := secret.Parse(secret.Generate())
	if err != nil {
		return err
	}
	keys := &keyring.Keys{Store: s.store, Master: master, AccessTTL: accessTTL}
	if err := keys.Load(ctx); err != nil {
		return err
	}
	hasher, err := password.New(password.Peppers(master), bcrypt.MinCost, password.MinLength)
	if err != nil {
		return err
	}
	if s.stored, err = hasher.Hash(ctx, plain); err != nil {
		return err
	}
	limits, err := ratelimit.New(s.store, master.DeriveShared(secret.LabelLimits), rules)
	if err != nil {
		return err
	}
	s.refreshK = token.Key{Secret: master[0].Derive(secret.LabelRefresh)}
	s.sessions = &handlers.Sessions{
		Store: s.store, Passwords: hasher, Keys: keys, Refreshes: []token.Key{s.refreshK},
		Issuer:    token.Issuer{Name: "http://localhost:3000", Audience: "zyotra"},
		AccessTTL: accessTTL, IdleTTL: idleTTL, MaxAge: 2160 * time.Hour, Grace: 10 * time.Second, Limits: limits,
	}
	return nil
}

// rules are the program's own for logins and refreshes.
var rules = ratelimit.Policy{
	Login:          []gcra.Limit{{Burst: 5, Interval: 30 * time.Second}, {Burst: 20, Interval: 5 * time.Minute}},
	LoginAccount:   []gcra.Limit{{Burst: 50, Interval: time.Minute}},
	LoginSource:    []gcra.Limit{{Burst: 100, Interval: 5 * time.Second}},
	RefreshSession: gcra.Limit{Burst: 30, Interval: 2 * time.Second},
}

// next is another number with each call.
func (s *service) next() int {
	s.asked++
	return s.asked
}

// login begins a session of the user of a number, from an address of their own.
func (s *service) login(ctx context.Context, number int) error {
	_, err := s.sessions.Login(ctx, auth.LoginRequest{Email: address(number), Password: plain, Sender: origin(number)})
	return err
}

// refresh uses the current refresh token of the session of a number.
func (s *service) refresh(ctx context.Context, number int) error {
	spent, _ := s.refreshed.LoadOrStore(number, int64(1))
	text, err := token.SignRefresh(s.refreshK, token.Refresh{
		UserID: auth.UserID((number-1)/sessionsEach + 1), SessionID: sessionID(number), Generation: spent.(int64),
		IssuedAt: s.began, ExpiresAt: s.began.Add(idleTTL),
	})
	if err != nil {
		return err
	}
	_, err = s.sessions.Refresh(ctx, auth.RefreshRequest{RefreshToken: text, Sender: origin(number)})
	s.refreshed.Store(number, spent.(int64)+1)
	return err
}

func origin(number int) auth.Sender {
	ip := fmt.Sprintf("10.%d.%d.%d", number>>16&255, number>>8&255, number&255)
	return auth.Sender{Client: &auth.ClientInfo{IP: ip, UserAgent: "ExampleApp/5.2.1 (Android 14; Pixel 8)"}}
}

// address is the one that fill gives the user of a number: not in the order of the ids.
func address(number int) string { return digest(number)[:14] + "@example.com" }

// sessionID is the one that fill gives the session of a number: in the order in which they began.
func sessionID(number int) string { return fmt.Sprintf("%010x", number) + digest(number)[:26] }

func digest(number int) string {
	sum := md5.Sum(fmt.Append(nil, number))
	return hex.EncodeToString(sum[:])
}

// statistics is what Postgres counts.
type statistics struct{ db *sql.DB }

func (s statistics) reset(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, "SELECT pg_stat_statements_reset()")
	return err
}

// read is what was counted since reset, for each of a number of requests.
func (s statistics) read(ctx context.Context, requests float64) (c cost, err error) {
	var millis, calls, pages, wal float64
	err = s.db.QueryRowContext(ctx, `SELECT sum(total_exec_time + total_plan_time), sum(calls),
		sum(shared_blks_hit + shared_blks_read), sum(wal_bytes)
		FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'`).Scan(&millis, &calls, &pages, &wal)
	if err != nil {
		return c, err
	}
	if calls == 0 {
		return c, errors.New("pg_stat_statements counted nothing")
	}
	c.busy = time.Duration(millis / requests * float64(time.Millisecond))
	c.statements, c.pages, c.wal = calls/requests, pages/requests, wal/requests
	return c, nil
}
