package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bench/internal/daemon"
	"github.com/zyotra/auth/bus"
)

const secret = "correct horse battery"

// people is how many users ask.
const people = 20

// load is the mix of requests of some users, each with a session.
type load struct {
	conn  *nats.Conn
	mu    sync.Mutex
	users []user
	next  atomic.Int64 // of registrations
}

type user struct {
	email  string
	tokens auth.Tokens
	busy   bool // its session is being changed
}

// under sends the mix at the rate, and looks at the memory meanwhile.
func under(ctx context.Context, d *daemon.Daemon) (s samples, err error) {
	l := &load{}
	if l.conn, err = bus.Connect(d.NATS); err != nil {
		return s, err
	}
	defer l.conn.Close()
	for i := range people {
		email := fmt.Sprintf("person%d@example.com", i)
		if err := l.register(ctx, email); err != nil {
			return s, err
		}
		reply, err := l.login(ctx, email)
		if err != nil {
			return s, err
		}
		l.users = append(l.users, user{email: email, tokens: reply.Tokens})
	}
	var failed atomic.Int64
	var group sync.WaitGroup
	began, tick, look := time.Now(), time.NewTicker(time.Second/time.Duration(*rate)), time.NewTicker(*every)
	defer tick.Stop()
	defer look.Stop()
	sample := func() {
		s.minutes = append(s.minutes, time.Since(began).Minutes())
		s.resident = append(s.resident, float64(d.Resident())/(1<<20))
	}
	for sample(); time.Since(began) < *length; {
		select {
		case <-look.C:
			sample()
		case <-tick.C:
			s.requests++
			group.Go(func() {
				if err := l.ask(ctx); err != nil {
					if failed.Add(1) == 1 {
						log.Print("the first that fails: ", err)
					}
				}
			})
		}
	}
	group.Wait()
	sample()
	s.failed = int(failed.Load())
	return s, nil
}

// ask sends one request: most are verified, some refreshed, few begin or end something.
func (l *load) ask(ctx context.Context) error {
	n, i := rand.IntN(100), rand.IntN(people)
	switch {
	case n < 1:
		return l.register(ctx, fmt.Sprintf("new%d@example.com", l.next.Add(1)))
	case n < 5:
		return l.change(ctx, i, l.relogin)
	case n < 25:
		return l.change(ctx, i, l.refresh)
	case n < 35:
		_, err := bus.Call(ctx, l.conn, auth.AccountGet, auth.AccountGetRequest{Bearer: auth.Bearer{AccessToken: l.user(i).tokens.AccessToken}})
		return ended(err)
	default:
		_, err := bus.Call(ctx, l.conn, auth.Verify, auth.VerifyRequest{Token: l.user(i).tokens.AccessToken})
		return ended(err)
	}
}

func (l *load) user(i int) user {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.users[i]
}

// change has the session of a user be changed, by one request at a time: another that comes
// meanwhile is left out, since it would look like theft.
func (l *load) change(ctx context.Context, i int, how func(context.Context, user) (auth.Tokens, error)) error {
	l.mu.Lock()
	u := l.users[i]
	l.users[i].busy = true
	l.mu.Unlock()
	if u.busy {
		return nil
	}
	next, err := how(ctx, u)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users[i].busy = false
	if err == nil {
		l.users[i].tokens = next
	}
	return err
}

func (l *load) register(ctx context.Context, email string) error {
	_, err := bus.Call(ctx, l.conn, auth.Register, auth.RegisterRequest{Email: email, Password: secret})
	return err
}

func (l *load) login(ctx context.Context, email string) (auth.LoginReply, error) {
	return bus.Call(ctx, l.conn, auth.Login, auth.LoginRequest{Email: email, Password: secret})
}

// relogin ends a session and begins another one.
func (l *load) relogin(ctx context.Context, u user) (auth.Tokens, error) {
	if _, err := bus.Call(ctx, l.conn, auth.Logout, auth.LogoutRequest{RefreshToken: u.tokens.RefreshToken}); err != nil {
		return auth.Tokens{}, err
	}
	reply, err := l.login(ctx, u.email)
	return reply.Tokens, err
}

func (l *load) refresh(ctx context.Context, u user) (auth.Tokens, error) {
	return bus.Call(ctx, l.conn, auth.Refresh, auth.RefreshRequest{RefreshToken: u.tokens.RefreshToken})
}

// ended forgives that another request has just ended the session: users are picked by chance.
func ended(err error) error {
	if errors.Is(err, auth.ErrTokenRevoked) {
		return nil
	}
	return err
}
