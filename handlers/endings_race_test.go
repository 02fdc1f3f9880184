package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
)

// ending is an operation that ends all sessions of a user.
type ending struct {
	// ready prepares the operation for the user of a session, and returns it.
	ready func(t *testing.T, p *postal, asks auth.Tokens) func() error
	// keeps is set if the session that asks lives on.
	keeps bool
	// locks is set if neither the former password nor a code logs in afterwards.
	locks bool
	// begins is set if the operation begins a session itself.
	begins bool
}

// endings are all operations that end all sessions of a user.
var endings = map[string]ending{
	"delete": {locks: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: p.bearer(asks), Password: horse})
			return err
		}
	}},
	"disable": {locks: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.admin().Disable(t.Context(), auth.AdminUsersDisableRequest{UserID: 1})
			return err
		}
	}},
	"end sessions": {ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.admin().EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: 1})
			return err
		}
	}},
	"set password": {locks: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.admin().SetPassword(t.Context(), auth.AdminUsersSetPasswordRequest{UserID: 1, Password: staple})
			return err
		}
	}},
	"change password": {locks: true, begins: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{
				Bearer: p.bearer(asks), CurrentPassword: horse, NewPassword: staple,
			})
			return err
		}
	}},
	"reset": {locks: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		want(t, "forgot", p.forgot(t, ada), nil)
		token := linked(t, p.latest(t, events.MailReset), "/password/reset")
		return func() error { return p.reset(t, token, staple) }
	}},
	"change address": {keeps: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		want(t, "change", p.change(t, asks, bobs, horse), nil)
		token := linked(t, p.latest(t, events.MailChange), "/email/change")
		return func() error { return p.confirm(t, token) }
	}},
	"undo": {ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		want(t, "change", p.change(t, asks, bobs, horse), nil)
		want(t, "confirm", p.confirm(t, linked(t, p.latest(t, events.MailChange), "/email/change")), nil)
		token := linked(t, p.latest(t, events.MailChanged), "/email/undo")
		return func() error { return p.undo(t, token) }
	}},
	"not me": {ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		if _, err := p.logIn(t, ada, horse, firefox); err != nil {
			t.Fatal(err)
		}
		token := linked(t, p.latest(t, events.MailNewDevice), "/not-me")
		return func() error { return p.notMe(t, token) }
	}},
	"end all others": {keeps: true, ready: func(t *testing.T, p *postal, asks auth.Tokens) func() error {
		return func() error {
			_, err := p.sessions.RevokeOthers(t.Context(), auth.SessionsRevokeOthersRequest{Bearer: p.bearer(asks)})
			return err
		}
	}},
}

// latest is the latest mail of a kind that was asked for since the last time.
func (p *postal) latest(t *testing.T, kind events.MailKind) events.Mail {
	t.Helper()
	mails := p.posted(t)
	for _, m := range slices.Backward(mails) {
		if m.Kind == kind {
			return m
		}
	}
	t.Fatalf("no mail %s in %+v", kind, mails)
	return events.Mail{}
}

// Whatever races an operation that ends all sessions: what was there before is refused everywhere
// afterwards and has its event, and what began afterwards lives.
func TestNothingOutlivesTheEndOfAllSessions(t *testing.T) {
	t.Parallel()
	for name, e := range endings {
		for database, instances := range map[string]int{"sqlite": 1, "postgres": 2} {
			t.Run(name+"/"+database, func(t *testing.T) {
				t.Parallel()
				url := map[string]func(testing.TB) string{"sqlite": testdb.SQLite, "postgres": testdb.Postgres}[database](t)
				first := post(t, start(t, url, secret.Generate(), &clock{}), handlers.VerificationOptional)
				all := []*postal{first}
				for len(all) < instances {
					all = append(all, first.another(t))
				}
				race(t, e, all)
			})
		}
	}
}

// race runs an operation beside everything that begins or continues a session of the user.
func race(t *testing.T, e ending, all []*postal) {
	p, last := all[0], all[len(all)-1]
	asks := p.verified(t)
	operate := e.ready(t, p, asks)
	before := []auth.Tokens{p.relogin(t), p.relogin(t)} // after what the preparation may have ended
	replayed := before[1]
	before[1] = p.refresh(t, replayed)
	if e.keeps {
		before = append(before, asks)
	}
	var code string
	if _, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: p.address(t)}); err == nil {
		code = p.latest(t, events.MailLoginCode).Code
	}
	address := p.address(t)

	const racers = 12
	got := make([]auth.Tokens, racers)
	var failed error
	for i, err := range atOnce(racers, func(i int) (err error) {
		on := all[i%len(all)]
		switch {
		case i == 0:
			return operate()
		case i == 1:
			reply, err := on.codes.Login(t.Context(), auth.LoginCodeRequest{Email: address, Code: code})
			got[i] = auth.Tokens{AccessToken: reply.AccessToken, RefreshToken: reply.RefreshToken, SessionID: reply.SessionID}
			return err
		case i < 4:
			got[i], err = on.tryRefresh(t, before[0].RefreshToken)
		case i < 6:
			got[i], err = on.tryRefresh(t, replayed.RefreshToken)
		default:
			got[i], err = on.logIn(t, address, horse, "")
		}
		return err
	}) {
		refused := errors.Is(err, auth.ErrInvalidCredentials) || errors.Is(err, auth.ErrTokenRevoked) || errors.Is(err, auth.ErrConflict)
		if i == 0 {
			failed = err
		} else if err != nil && !refused {
			t.Errorf("racer %d: %v", i, err)
		}
	}
	if failed != nil {
		t.Fatalf("the operation: %v", failed)
	}
	wantEnded(t, e, p, asks, before)
	if e.locks {
		want(t, "the former password", p.tryLogin(t, horse), auth.ErrInvalidCredentials)
	}
	for i, tokens := range append(got, before...) {
		if tokens.SessionID == "" {
			continue
		}
		for _, on := range []*postal{p, last} {
			wantAsTold(t, on, i, tokens)
		}
	}
}

// wantEnded wants the events of an operation that ended all sessions.
func wantEnded(t *testing.T, e ending, p *postal, asks auth.Tokens, before []auth.Tokens) {
	t.Helper()
	created, revoked := p.lifecycle(t)
	end := revoked[before[0].SessionID]
	for _, b := range before {
		isKept := e.keeps && b.SessionID == asks.SessionID
		if _, ended := revoked[b.SessionID]; ended == isKept {
			t.Errorf("a session from before has an event of its end: %v", ended)
		}
	}
	survivors := 0
	for id, seq := range created {
		if _, ended := revoked[id]; ended || e.keeps && id == asks.SessionID {
			continue
		}
		survivors++
		if seq < end {
			t.Errorf("session %s began before all ended, and lives", id)
		}
	}
	if e.locks && !e.begins && survivors > 0 || e.begins && survivors != 1 {
		t.Errorf("%d sessions live", survivors)
	}
}

// wantAsTold wants tokens to be accepted if and only if no event tells that their session ended.
func wantAsTold(t *testing.T, p *postal, i int, tokens auth.Tokens) {
	t.Helper()
	_, revoked := p.lifecycle(t)
	var wanted error
	if _, ended := revoked[tokens.SessionID]; ended {
		wanted = auth.ErrTokenRevoked
	}
	if err := p.verify(t, tokens.AccessToken); !errors.Is(err, wanted) {
		t.Errorf("access token %d: %v, want %v", i, err, wanted)
	}
	if wanted != nil {
		if _, err := p.tryRefresh(t, tokens.RefreshToken); !errors.Is(err, wanted) {
			t.Errorf("refresh token %d: %v, want %v", i, err, wanted)
		}
	}
}

// lifecycle returns where in the outbox each session began and ended.
func (s *service) lifecycle(t *testing.T) (created, revoked map[string]int64) {
	t.Helper()
	var rows []struct {
		Seq        int64
		Type, Data string
	}
	err := s.store.DB().NewRaw("SELECT seq, type, data FROM outbox WHERE type LIKE 'session.%' ORDER BY seq").Scan(t.Context(), &rows)
	if err != nil {
		t.Fatal(err)
	}
	created, revoked = map[string]int64{}, map[string]int64{}
	for _, r := range rows {
		var data struct{ SessionID string }
		if err := json.Unmarshal([]byte(r.Data), &data); err != nil {
			t.Fatal(err)
		}
		of := created
		if r.Type == "session.revoked" {
			of = revoked
		}
		if _, twice := of[data.SessionID]; twice {
			t.Errorf("%s twice: %s", r.Type, data.SessionID)
		}
		of[data.SessionID] = r.Seq
	}
	return created, revoked
}

// address is where the account of the first user is reached.
func (p *postal) address(t *testing.T) (address string) {
	t.Helper()
	if err := p.store.DB().NewRaw("SELECT email FROM users WHERE id = 1").Scan(t.Context(), &address); err != nil {
		t.Fatal(err)
	}
	return address
}

// relogin is a new session of the first user, wherever that is reached.
func (p *postal) relogin(t *testing.T) auth.Tokens {
	t.Helper()
	tokens, err := p.logIn(t, p.address(t), horse, "")
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// A session that ends while an operation of it compares the password changes nothing any more.
func TestASessionThatEndsMeanwhileChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		var meanwhile func()
		pool := password.NewPool(1, time.Minute, time.Millisecond)
		pool.Observe = func(time.Duration, time.Duration) { meanwhile() }
		s.accounts.Passwords.Pool = pool
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = pool.Run(ctx) })
		defer running.Wait()
		defer stop()

		for what, operate := range map[string]func(auth.Bearer) error{
			"change password": func(b auth.Bearer) error {
				_, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: b, CurrentPassword: horse, NewPassword: staple})
				return err
			},
			"delete": func(b auth.Bearer) error {
				_, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: b, Password: horse})
				return err
			},
		} {
			meanwhile = func() {}
			tokens := s.login(t).Tokens
			meanwhile = func() {
				if _, err := s.admin().EndSessions(t.Context(), auth.AdminUsersEndSessionsRequest{UserID: 1}); err != nil {
					t.Error(err)
				}
			}
			want(t, what, operate(s.bearer(tokens)), auth.ErrTokenRevoked)
			meanwhile = func() {}
			want(t, "login after "+what, s.tryLogin(t, horse), nil)
		}
	})
}
