package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
)

const (
	home = "192.0.2.1"
	away = "198.51.100.1"
)

// rules are the program's own.
var rules = ratelimit.Policy{
	Login:          []gcra.Limit{{Burst: 5, Interval: 30 * time.Second}, {Burst: 20, Interval: 5 * time.Minute}},
	LoginAccount:   []gcra.Limit{{Burst: 50, Interval: time.Minute}},
	LoginSource:    []gcra.Limit{{Burst: 100, Interval: 5 * time.Second}},
	RegisterSource: []gcra.Limit{{Burst: 20, Interval: time.Minute}},
	Code:           []gcra.Limit{{Burst: 5, Interval: time.Minute}, {Burst: 20, Interval: 5 * time.Minute}},
	CodeAccount:    []gcra.Limit{{Burst: 20, Interval: 2 * time.Minute}},
	Mail:           []gcra.Limit{{Burst: 3, Interval: time.Minute}, {Burst: 10, Interval: 10 * time.Minute}},
	MailAccount:    []gcra.Limit{{Burst: 10, Interval: 5 * time.Minute}},
	MailSource:     []gcra.Limit{{Burst: 30, Interval: time.Minute}},
	Update:         []gcra.Limit{{Burst: 30, Interval: 2 * time.Second}},
	RefreshSession: gcra.Limit{Burst: 30, Interval: 2 * time.Second},
}

// limit makes an instance keep to the rules.
func (s *service) limit(t *testing.T, r ratelimit.Policy) {
	t.Helper()
	limits, err := ratelimit.New(s.store, parse(t, s.master).DeriveShared(secret.LabelLimits), r)
	if err != nil {
		t.Fatal(err)
	}
	limits.Clock = s.now
	s.sessions.Limits, s.accounts.Limits = limits, limits
}

// eachLimited is each with the program's limits, for ada, who is registered.
func eachLimited(t *testing.T, f func(t *testing.T, s *service)) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.limit(t, rules)
		f(t, s)
	})
}

func (s *service) try(ctx context.Context, address, plain, ip string) error {
	_, err := s.sessions.Login(ctx, auth.LoginRequest{Email: address, Password: plain, Sender: auth.Sender{Client: &auth.ClientInfo{IP: ip}}})
	return err
}

// fails tries wrong passwords that are all compared.
func (s *service) fails(t *testing.T, n int, address, ip string) {
	t.Helper()
	for i := range n {
		if err := s.try(t.Context(), address, "wrong", ip); !errors.Is(err, auth.ErrInvalidCredentials) {
			t.Fatalf("try %d at %s from %s: %v", i, address, ip, err)
		}
	}
}

// waits wants a try to have to wait for so long.
func waits(t *testing.T, what string, err error, wait time.Duration) {
	t.Helper()
	public := auth.Public(err)
	if public.Code != auth.CodeRateLimited || public.RetryAfter != int64(wait/time.Second) {
		t.Errorf("%s: %v, after %d s; want to wait for %s", what, err, public.RetryAfter, wait)
	}
}

// locked is the data of the events user.locked since the last time.
func (s *service) locked(t *testing.T) (list []string) {
	t.Helper()
	_, err := s.store.Take(t.Context(), 1000, func(_ context.Context, all []events.Event) (int, error) {
		for _, e := range all {
			if e.Type == "user.locked" && e.Subject == "1" {
				list = append(list, string(e.Data))
			}
		}
		return len(all), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestFailedLoginsHaveToWaitAndSoDoesTheRightPassword(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 5, ada, home)
		waits(t, "wrong", s.try(t.Context(), ada, "wrong", home), 30*time.Second)
		waits(t, "right", s.try(t.Context(), ada, horse, home), 30*time.Second)
		want(t, "another source", s.try(t.Context(), ada, horse, away), nil)
		want(t, "another account", s.try(t.Context(), "bob@example.com", horse, home), auth.ErrInvalidCredentials)

		s.advance(30*time.Second - time.Microsecond)
		waits(t, "almost over", s.try(t.Context(), ada, horse, home), time.Second)
		s.advance(time.Microsecond)
		want(t, "over", s.try(t.Context(), ada, horse, home), nil)
		s.fails(t, 5, ada, home) // as before the first
		waits(t, "again", s.try(t.Context(), ada, horse, home), 30*time.Second)
	})
}

func TestThePatientWaitLonger(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		tries := 0
		for s.now().Sub(begin) < time.Hour {
			if err := s.try(t.Context(), ada, "wrong", home); errors.Is(err, auth.ErrInvalidCredentials) {
				tries++
				continue
			}
			s.advance(time.Second * time.Duration(auth.Public(s.try(t.Context(), ada, "wrong", home)).RetryAfter))
		}
		if tries > 20+12 || tries < 20+11 {
			t.Errorf("%d tries in an hour", tries)
		}
		s.fails(t, 1, ada, home)
		waits(t, "at last", s.try(t.Context(), ada, horse, home), 5*time.Minute)
	})
}

// Strangers everywhere use up what the account has, and keep out each other, but not its owner.
func TestAnAccountIsTriedBelowAHundredTimesInARowFromEverywhere(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		want(t, "log in at home", s.try(t.Context(), ada, horse, home), nil)
		for i := range 10 {
			s.fails(t, 5, ada, fmt.Sprint("203.0.113.", i))
		}
		waits(t, "one more", s.try(t.Context(), ada, horse, "203.0.113.10"), time.Minute)
		waits(t, "without a source", s.try(t.Context(), ada, horse, ""), time.Minute)
		s.fails(t, 4, ada, home)
		waits(t, "an address that looks like home's", s.try(t.Context(), ada, horse, "192.0.2.10"), time.Minute)
		want(t, "the owner at home", s.try(t.Context(), ada, horse, home), nil)
		s.fails(t, 5, ada, "203.0.113.20") // nobody is held up any more
	})
}

func TestTheOwnersNetworkIsKnownByItsSessionsThatLive(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		reply, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Sender: auth.Sender{Client: &auth.ClientInfo{IP: "2001:db8:1:2::1"}}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			s.fails(t, 5, ada, fmt.Sprint("203.0.113.", i))
		}
		s.fails(t, 1, ada, "2001:db8:1:2:ffff::9")
		waits(t, "the network beside", s.try(t.Context(), ada, horse, "2001:db8:1:3::1"), time.Minute)
		want(t, "logout", s.logout(t, reply.AccessToken, ""), nil)
		waits(t, "after the logout", s.try(t.Context(), ada, horse, "2001:db8:1:2::1"), time.Minute)
	})
}

// The owner may be where a session began and where it was last used, but not where no source is known.
func TestTheOwnersSourcesAreThoseOfLiveSessions(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		begun, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Sender: auth.Sender{Client: &auth.ClientInfo{IP: home}}})
		want(t, "log in at home", err, nil)
		_, err = s.sessions.Refresh(t.Context(), auth.RefreshRequest{RefreshToken: begun.RefreshToken, Sender: auth.Sender{Client: &auth.ClientInfo{IP: away}}})
		want(t, "refresh away", err, nil)
		want(t, "log in without a source", s.try(t.Context(), ada, horse, ""), nil)
		for i := range 10 {
			s.fails(t, 5, ada, fmt.Sprint("203.0.113.", i))
		}
		waits(t, "without a source", s.try(t.Context(), ada, horse, ""), time.Minute)
		s.fails(t, 1, ada, home)
		s.fails(t, 1, ada, away)
	})
}

func TestASourceThatTriesManyAccountsHasToWait(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		for i := range 100 {
			s.fails(t, 1, fmt.Sprintf("user%d@example.com", i), home)
		}
		waits(t, "another account", s.try(t.Context(), ada, horse, home), 5*time.Second)
		want(t, "another source", s.try(t.Context(), ada, horse, away), nil)
		want(t, "no source", s.try(t.Context(), ada, horse, ""), nil)
		s.advance(5 * time.Second)
		want(t, "a right one", s.try(t.Context(), ada, horse, home), nil)
		want(t, "which costs the source nothing", s.try(t.Context(), ada, horse, home), nil)
	})
}

func TestASourceThatTriesCodesOfManyAddressesHasToWait(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		p := post(t, s, handlers.VerificationOff)
		code := func(address string) error {
			_, err := p.codes.Login(t.Context(), auth.LoginCodeRequest{Email: address, Code: "00000000", Sender: auth.Sender{Client: &auth.ClientInfo{IP: home}}})
			return err
		}
		for i := range 100 {
			want(t, "a wrong code", code(fmt.Sprintf("user%d@example.com", i)), auth.ErrInvalidCredentials)
		}
		waits(t, "another code", code("bob@example.com"), 5*time.Second)
		waits(t, "a password", s.try(t.Context(), ada, horse, home), 5*time.Second)
	})
}

func TestManyPeopleBehindOneBackendDoNotWait(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		for i := range 120 {
			s.fails(t, 1, fmt.Sprintf("user%d@example.com", i), "")
		}
		s.fails(t, 5, ada, "")
		waits(t, "one account", s.try(t.Context(), ada, horse, ""), 30*time.Second)
	})
}

// However an address is spelled, it is one account, and what is none is counted as well.
func TestEverySpellingIsOneAccount(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		long := strings.Repeat("a", 1000)
		for _, spellings := range [][]string{
			{"ada@example.com", "Ada@Example.com", "ADA@EXAMPLE.COM"},
			{"andr\u00e9@example.com", "andre\u0301@example.com", "ANDR\u00c9@EXAMPLE.COM", "Andre\u0301@Example.com"},
			{"x@b\u00fccher.example", "x@xn--bcher-kva.example", "X@BU\u0308CHER.example"},
			{"nobody@example.com", "NOBODY@example.com"},
			{"no address"}, {""}, {"nul\x00@example.com"}, {"\xff@example.com"},
			{"ada@example.com" + long}, {long + "@example.com", long + "@example.org"},
		} {
			for i := range 5 {
				s.fails(t, 1, spellings[i%len(spellings)], home)
			}
			for _, spelling := range spellings {
				waits(t, fmt.Sprintf("%.40q", spelling), s.try(t.Context(), spelling, horse, home), 30*time.Second)
			}
		}
	})
}

func TestWhicheverRequestTriesThePasswordItCounts(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		own := auth.Bearer{AccessToken: s.login(t).AccessToken}
		from := auth.Sender{Client: &auth.ClientInfo{IP: home}}
		change := func(plain string) error {
			renewed, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: own, CurrentPassword: plain, NewPassword: "battery staple", Sender: from})
			if err == nil {
				own = s.bearer(renewed.Tokens)
			}
			return err
		}
		remove := func(plain string) error {
			_, err := s.accounts.Delete(t.Context(), auth.AccountDeleteRequest{Bearer: own, Password: plain, Sender: from})
			return err
		}
		want(t, "change", change("wrong"), auth.ErrInvalidCredentials)
		want(t, "delete", remove("wrong"), auth.ErrInvalidCredentials)
		s.fails(t, 1, ada, home)
		want(t, "change", change("wrong"), auth.ErrInvalidCredentials)
		want(t, "delete", remove("wrong"), auth.ErrInvalidCredentials)
		waits(t, "login", s.try(t.Context(), ada, horse, home), 30*time.Second)
		waits(t, "change", change(horse), 30*time.Second)
		waits(t, "delete", remove(horse), 30*time.Second)

		s.advance(30 * time.Second)
		want(t, "change", change(horse), nil)
		s.fails(t, 5, ada, home) // it settled them
		s.advance(30 * time.Second)
		want(t, "delete", remove("battery staple"), nil)
		s.fails(t, 5, ada, home)
	})
}

func TestAnInvalidRequestIsNoTry(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		own := auth.Bearer{AccessToken: s.login(t).AccessToken}
		from := auth.Sender{Client: &auth.ClientInfo{IP: home}}
		for range 10 {
			_, err := s.sessions.Login(t.Context(), auth.LoginRequest{Email: ada, Password: horse, Carrier: "pigeon", Sender: from})
			want(t, "login", err, auth.ErrInvalid)
			_, err = s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: own, CurrentPassword: "wrong", NewPassword: "short", Sender: from})
			want(t, "change", err, auth.ErrInvalid)
		}
		s.fails(t, 5, ada, home)
	})
}

// What is no address is counted as an address without an account is: each for itself, and however long.
func TestWhatIsNoAddressIsCountedForItself(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		long := strings.Repeat("a", 300)
		for _, address := range []string{"no address", long} {
			s.fails(t, 5, address, home)
			waits(t, address, s.try(t.Context(), address, horse, home), 30*time.Second)
		}
		want(t, "another", s.try(t.Context(), "none either", horse, home), auth.ErrInvalidCredentials)
		waits(t, "as long, with another end", s.try(t.Context(), long+"b", horse, home), 30*time.Second)
	})
}

func TestHangingUpMakesNoTryUnmade(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		for range 5 {
			want(t, "hung up", s.try(gone, ada, horse, home), context.Canceled)
		}
		waits(t, "afterwards", s.try(t.Context(), ada, horse, home), 30*time.Second)
	})
}

// The hashing pool may refuse a request that was counted: its turn does not come in time. The count
// stands, or user.locked would announce a lock that no longer holds.
func TestACountStandsWhenTheHashingPoolRefuses(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		const another = "203.0.113.7"
		own, from := s.bearer(s.login(t).Tokens), auth.Sender{Client: &auth.ClientInfo{IP: away}}
		full := busyPool(t)
		s.sessions.Passwords.Pool, s.accounts.Passwords.Pool = full, full
		for range 5 {
			want(t, "log in", s.try(t.Context(), ada, horse, home), auth.ErrOverloaded)
			_, err := s.accounts.ChangePassword(t.Context(), auth.PasswordChangeRequest{Bearer: own, CurrentPassword: horse, NewPassword: "battery staple", Sender: from})
			want(t, "change the password", err, auth.ErrOverloaded)
		}
		for i := range 20 {
			_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: fmt.Sprintf("u%d@example.com", i), Password: horse, Sender: auth.Sender{Client: &auth.ClientInfo{IP: another}}})
			want(t, "register", err, auth.ErrOverloaded)
		}
		s.sessions.Passwords.Pool, s.accounts.Passwords.Pool = nil, nil
		waits(t, "log in", s.try(t.Context(), ada, horse, home), 30*time.Second)
		waits(t, "log in from where the password was to be changed", s.try(t.Context(), ada, horse, away), 30*time.Second)
		_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: "bob@example.com", Password: horse, Sender: auth.Sender{Client: &auth.ClientInfo{IP: another}}})
		waits(t, "register", err, time.Minute)
		if got := s.locked(t); len(got) != 2 {
			t.Errorf("%d events user.locked, want 2", len(got))
		}
	})
}

// busyPool returns a pool whose only core hashes until the test ends. It gives requests a place, but
// no turn comes within the pool's wait.
func busyPool(t *testing.T) *password.Pool {
	t.Helper()
	pool, ran := password.NewPool(1, 10*time.Millisecond, time.Nanosecond), make(chan error, 2)
	ctx, stop := context.WithCancel(context.Background())
	go func() { ran <- pool.Run(ctx) }()
	began, release := make(chan struct{}), make(chan struct{})
	go func() { ran <- pool.Do(ctx, func() { close(began); <-release }) }()
	<-began
	t.Cleanup(func() {
		close(release)
		stop()
		if err := errors.Join(<-ran, <-ran); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return pool
}

// A success takes its count back in the transaction that stores its result, so a count stands if
// that is rolled back.
func TestACountStandsWhenTheSuccessIsRolledBack(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.execute(t, "ALTER TABLE login_sessions RENAME TO away")
		for range 5 {
			if err := s.try(t.Context(), ada, horse, home); auth.Public(err).Code != auth.CodeInternal {
				t.Fatalf("%v", err)
			}
		}
		s.execute(t, "ALTER TABLE away RENAME TO login_sessions")
		waits(t, "afterwards", s.try(t.Context(), ada, horse, home), 30*time.Second)
	})
}

// Of many at once, on two instances, just as many passwords are compared as the limit says.
func TestTheBurstIsOneForAllInstances(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		instances := []*service{s, s.another(t)}
		instances[1].limit(t, rules)
		compared := 0
		for _, err := range atOnce(64, func(i int) error { return instances[i%2].try(t.Context(), ada, "wrong", home) }) {
			switch {
			case errors.Is(err, auth.ErrInvalidCredentials):
				compared++
			default:
				waits(t, "the others", err, 30*time.Second)
			}
		}
		if compared != 5 {
			t.Errorf("%d compared", compared)
		}
		if n := len(s.locked(t)); n != 1 {
			t.Errorf("%d events", n)
		}
		for _, one := range instances {
			waits(t, "either", one.try(t.Context(), ada, horse, home), 30*time.Second)
		}
	})
}

func TestABlockedKeyIsKnownWithoutTheDatabase(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 5, ada, home)
		waits(t, "seen", s.try(t.Context(), ada, horse, home), 30*time.Second)
		s.execute(t, "DELETE FROM limits")
		s.advance(time.Second)
		waits(t, "known", s.try(t.Context(), ada, horse, home), 29*time.Second)
		s.advance(4 * time.Second)
		want(t, "asked again", s.try(t.Context(), ada, horse, home), nil)
	})
}

// A source, or an account that was tried from everywhere, is remembered as well.
func TestEveryKindOfBlockIsKnownWithoutTheDatabase(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		for i := range 100 {
			s.fails(t, 1, fmt.Sprintf("user%d@example.com", i), home)
		}
		waits(t, "the source", s.try(t.Context(), "bob@example.com", horse, home), 5*time.Second)
		for i := range 10 {
			s.fails(t, 5, ada, fmt.Sprint("203.0.113.", i))
		}
		waits(t, "the account", s.try(t.Context(), ada, horse, away), time.Minute)
		s.execute(t, "DELETE FROM limits")
		s.advance(time.Second)
		waits(t, "the source is known", s.try(t.Context(), "carol@example.com", horse, home), 4*time.Second)
		waits(t, "the account is known", s.try(t.Context(), ada, horse, away), 59*time.Second)
	})
}

// An attempt may be refused while the attempt before it waits for its turn to be hashed. If that one
// succeeds, the next attempt is not refused from memory.
func TestASuccessIsSeenAtOnceDespiteAnEarlierRefusal(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 4, ada, home)
		pool := password.NewPool(1, time.Hour, time.Millisecond)
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = pool.Run(ctx) })
		defer running.Wait()
		defer stop()
		s.sessions.Passwords.Pool = pool

		occupied, release := make(chan struct{}), make(chan struct{})
		running.Go(func() { _ = pool.Do(ctx, func() { close(occupied); <-release }) })
		<-occupied
		fifth := make(chan error)
		go func() { fifth <- s.try(ctx, ada, horse, home) }()
		for pool.Stats().Waiting == 0 {
			runtime.Gosched()
		}
		waits(t, "the sixth", s.try(t.Context(), ada, horse, home), 30*time.Second)
		close(release)
		want(t, "the fifth", <-fifth, nil)
		want(t, "the next", s.try(t.Context(), ada, horse, home), nil)
	})
}

// An operator who sets a password lets its user in wherever they are: here at once, and at other
// instances once these ask the database again. Nobody else's counters change.
func TestASetPasswordLiftsTheBlocksOfItsAccount(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		const blues = "battery staple blues"
		other := s.another(t)
		other.limit(t, rules)
		for _, ip := range []string{home, away, ""} {
			s.fails(t, 5, ada, ip)
			waits(t, "here", s.try(t.Context(), ada, horse, ip), 30*time.Second)
			waits(t, "elsewhere", other.try(t.Context(), ada, horse, ip), 30*time.Second)
		}
		s.fails(t, 5, "bob@example.com", home)
		_, err := s.admin().SetPassword(t.Context(), auth.AdminUsersSetPasswordRequest{UserID: 1, Password: blues})
		want(t, "set", err, nil)
		for _, ip := range []string{home, away, ""} {
			want(t, "here", s.try(t.Context(), ada, blues, ip), nil)
			waits(t, "elsewhere, a while", other.try(t.Context(), ada, blues, ip), 30*time.Second)
		}
		waits(t, "bob", s.try(t.Context(), "bob@example.com", horse, home), 30*time.Second)
		s.advance(5 * time.Second)
		for _, ip := range []string{home, away, ""} {
			want(t, "elsewhere", other.try(t.Context(), ada, blues, ip), nil)
		}
		waits(t, "bob", s.try(t.Context(), "bob@example.com", horse, home), 25*time.Second)
	})
}

// Other names, many more than are remembered anywhere, and clean-up leave a counter alone. An
// instance that remembers nothing asks the database.
func TestAFloodOfOtherNamesResetsNoCounter(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 5, ada, home)
		waits(t, "before", s.try(t.Context(), ada, horse, home), 30*time.Second)
		s.execute(t, `INSERT INTO limits (key, first, second, idle_at)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
			SELECT 'flood' || i, ?, ?, ? FROM n`, s.now().UnixMicro(), s.now().UnixMicro(), s.now().UnixMicro())
		s.advance(time.Second)
		s.cleanUp(t)
		if n := s.count(t, "limits"); n != 3 {
			t.Errorf("%d counters left", n)
		}
		fresh := s.another(t)
		fresh.limit(t, rules)
		waits(t, "after", fresh.try(t.Context(), ada, horse, home), 29*time.Second)
	})
}

func TestCountersAreForgottenWhenTheySayNothing(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 1, ada, home)
		s.advance(5*time.Minute - time.Microsecond)
		s.cleanUp(t)
		if n := s.count(t, "limits"); n != 1 {
			t.Errorf("%d counters, want the one with five minutes", n)
		}
		s.advance(time.Microsecond)
		s.cleanUp(t)
		if n := s.count(t, "limits"); n != 0 {
			t.Errorf("%d counters left", n)
		}
	})
}

func TestCountersTellNeitherAddressesNorSources(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.limit(t, rules)
		s.fails(t, 2, ada, home)
		dump := s.dump(t)
		if !strings.Contains(dump, "limits.key") {
			t.Fatal("no counters")
		}
		for _, text := range append(spellings([]byte("ada@example.com")), "example.com", home, "192.0.2") {
			if strings.Contains(dump, text) {
				t.Errorf("the dump holds %s", text)
			}
		}
	})
}

func TestABlockIsToldOnceAndOnlyOfAccounts(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		s.fails(t, 5, "nobody@example.com", away)
		waits(t, "nobody", s.try(t.Context(), "nobody@example.com", horse, away), 30*time.Second)
		s.fails(t, 4, ada, home)
		if list := s.locked(t); len(list) != 0 {
			t.Fatalf("told too early: %v", list)
		}
		s.fails(t, 1, ada, home)
		for range 10 {
			waits(t, "wrong", s.try(t.Context(), ada, "wrong", home), 30*time.Second)
		}
		expect := func(what string, wanted ...string) {
			t.Helper()
			if list := s.locked(t); !slices.Equal(list, wanted) {
				t.Errorf("%s: %q, want %q", what, list, wanted)
			}
		}
		expect("from a source", `{"userId":1,"until":"2026-03-01T12:00:30.123456Z","client":{"ip":"192.0.2.1"}}`)
		s.fails(t, 5, ada, "")
		expect("who does not say from where", `{"userId":1,"until":"2026-03-01T12:00:30.123456Z"}`)
		for i := range 10 {
			s.fails(t, 4, ada, fmt.Sprint("203.0.113.", i))
		}
		waits(t, "the fifty-first", s.try(t.Context(), ada, horse, away), time.Minute)
		expect("from everywhere", `{"userId":1,"until":"2026-03-01T12:01:00.123456Z","client":{"ip":"203.0.113.9"}}`)
	})
}

func TestRegistrationsFromOneSourceHaveToWait(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.limit(t, rules)
		register := func(address, plain, ip string) error {
			_, err := s.accounts.Register(t.Context(), auth.RegisterRequest{Email: address, Password: plain, Sender: auth.Sender{Client: &auth.ClientInfo{IP: ip}}})
			return err
		}
		for i := range 10 {
			want(t, "new", register(fmt.Sprintf("user%d@example.com", i), horse, home), nil)
			want(t, "taken", register(fmt.Sprintf("user%d@example.com", i), horse, home), auth.ErrEmailTaken)
			want(t, "invalid", register("no address", horse, home), auth.ErrInvalid)
		}
		waits(t, "one more", register(ada, horse, home), time.Minute)
		waits(t, "taken", register("user1@example.com", horse, home), time.Minute)
		want(t, "invalid", register("no address", horse, home), auth.ErrInvalid)
		want(t, "elsewhere", register(ada, horse, away), nil)
		want(t, "a backend", register("bob@example.com", horse, ""), nil)
		s.advance(time.Minute)
		want(t, "later", register("carol@example.com", horse, home), nil)
	})
}

func TestASessionThatIsRefreshedAllTheTimeHasToWait(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		first := s.login(t).Tokens
		before, current := first, first
		for range 30 {
			before, current = current, s.refresh(t, current)
		}
		_, err := s.tryRefresh(t, current.RefreshToken)
		waits(t, "the current one", err, 2*time.Second)
		if again := s.refresh(t, before); again.RefreshToken != current.RefreshToken {
			t.Error("the one before, which a second tab may bring, has another successor")
		}
		want(t, "the session", s.verify(t, current.AccessToken), nil)
		s.refresh(t, s.login(t).Tokens) // another one

		s.advance(2 * time.Second)
		current = s.refresh(t, current)
		_, err = s.tryRefresh(t, first.RefreshToken)
		want(t, "a stolen one", err, auth.ErrTokenRevoked)
		_, err = s.tryRefresh(t, current.RefreshToken)
		want(t, "which ends the session", err, auth.ErrTokenRevoked)
	})
}

// Who counts hears of each try that waits, also of one that waits by memory, and of nothing else.
func TestWhatHasToWaitIsToldByItsKind(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		told := map[string]int{}
		s.sessions.Limits.Refused = func(kind string) { told[kind]++ }
		current := s.login(t).Tokens
		for range 30 {
			current = s.refresh(t, current)
		}
		_, err := s.tryRefresh(t, current.RefreshToken)
		waits(t, "a refresh", err, 2*time.Second)
		s.fails(t, 5, ada, home)
		for range 2 {
			waits(t, "a login", s.try(t.Context(), ada, horse, home), 30*time.Second)
		}
		for i := range 21 {
			_, err = s.accounts.Register(t.Context(), auth.RegisterRequest{Email: fmt.Sprintf("user%d@example.com", i), Password: "short", Sender: auth.Sender{Client: &auth.ClientInfo{IP: away}}})
		}
		want(t, "invalid ones are no try", err, auth.ErrInvalid)
		for i := range 21 {
			_, err = s.accounts.Register(t.Context(), auth.RegisterRequest{Email: ada, Password: horse + fmt.Sprint(i), Sender: auth.Sender{Client: &auth.ClientInfo{IP: away}}})
		}
		waits(t, "a registration", err, time.Minute)
		if want := map[string]int{"refresh": 1, "login": 2, "register": 1}; !maps.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

func TestUpdatesOfAnAccountAreLimited(t *testing.T) {
	eachLimited(t, func(t *testing.T, s *service) {
		tokens := s.login(t).Tokens
		update := func(tokens auth.Tokens, name string) error {
			_, err := s.accounts.Update(t.Context(), auth.AccountUpdateRequest{Bearer: s.bearer(tokens), Name: &name})
			return err
		}
		for i := range rules.Update[0].Burst {
			if err := update(tokens, fmt.Sprint("Ada ", i)); err != nil {
				t.Fatal(i, err)
			}
		}
		another := s.login(t).Tokens // the limit is the account's, not the session's
		s.told(t)
		waits(t, "one more update", update(another, "Countess"), 2*time.Second)
		account, err := s.accounts.Get(t.Context(), auth.AccountGetRequest{Bearer: s.bearer(tokens)})
		if err != nil || account.Name != "Ada 29" {
			t.Errorf("the account is %+v, %v", account, err)
		}
		if lines, _ := s.told(t); len(lines) > 0 {
			t.Errorf("events %q", lines)
		}
		s.advance(2 * time.Second)
		if err := update(tokens, "Countess"); err != nil {
			t.Errorf("an update after the wait: %v", err)
		}
		waits(t, "two updates after the wait for one", update(tokens, "Ada"), 2*time.Second)
	})
}
