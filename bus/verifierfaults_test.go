package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/testauthority"
	"github.com/zyotra/auth/internal/testclock"
)

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("never: " + what)
		}
	}
}

// vouches waits until a verifier does.
func vouches(t *testing.T, v *bus.Verifier) {
	t.Helper()
	eventually(t, "the verifier vouches", func() bool { return v.Err() == nil })
}

// driven starts an authority and the machine of a verifier, on which time stands still until the
// test moves it. The authority's clock is right whatever becomes of the machine's.
func driven(t *testing.T) (*testauthority.Authority, *testclock.Clock, *clock.Clock) {
	t.Helper()
	a, begin := testauthority.Start(t), time.Now()
	machine := testclock.New(begin)
	a.SetClock(func() time.Time { return begin.Add(machine.Read().Elapsed) })
	return a, machine, clock.New(machine.Read, clock.Tolerance)
}

func TestVerifierRefusesTokensOfAWithdrawnKeyThatItVerifiedMeanwhile(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	old := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, old, nil)
	const each = 500
	var tokens [4 * each]string
	for i := range tokens {
		tokens[i] = a.Sign(t, "one", fmt.Sprint("s", i), time.Minute)
	}
	var group sync.WaitGroup
	for part := range 4 {
		group.Go(func() {
			for _, text := range tokens[part*each : (part+1)*each] {
				_, _ = v.Verify(context.Background(), text) // some before the key is gone, some after
			}
		})
	}
	a.Add(t, "two")
	a.Remove("one")
	taken := make(chan struct{}, 100)
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Revocations) { // asked for once the keys have been taken in
			taken <- struct{}{}
		}
	})
	v.Refetch()
	<-taken
	v.Refetch() // the first may have been a pass that had begun
	<-taken
	verify(t, v, old, auth.ErrInvalidToken)
	group.Wait()
	for _, text := range tokens {
		verify(t, v, text, auth.ErrInvalidToken)
	}
	verify(t, v, a.Sign(t, "two", "s", time.Minute), nil)
}

func TestVerifierRefusesATokenThatLivesTooLong(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	verify(t, v, a.Sign(t, "one", "s", 24*time.Hour), nil)
	verify(t, v, a.Sign(t, "one", "s", 24*time.Hour+time.Second), auth.ErrInvalidToken)
}

func TestVerifierNeverPassesAnExpiredTokenThatItRemembers(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour, Clock: c})
	text := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, text, nil)
	machine.Advance(time.Minute - time.Second)
	verify(t, v, text, nil)
	machine.Advance(time.Second)
	verify(t, v, text, auth.ErrTokenExpired)
}

func TestVerifierRefusesEndedSessionsWhateverItsClockDoes(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	good, ended := a.Sign(t, "one", "good", 10*time.Minute), a.Sign(t, "one", "ended", 10*time.Minute)
	a.Revoke(t, "ended", false)
	soon(t, v, ended, auth.ErrTokenRevoked)
	for i, jump := range []time.Duration{time.Hour, -time.Hour, -time.Hour, time.Hour, 48 * time.Hour, -48 * time.Hour, 6 * time.Second, -6 * time.Second} {
		late := fmt.Sprint("ended while the clock was wrong ", i)
		text := a.Sign(t, "one", late, 10*time.Minute)
		verify(t, v, text, nil)
		a.Revoke(t, late, false)
		machine.Jump(jump)
		// It may have missed a revocation, so it does not vouch until it has read all of them again.
		if _, err := v.Verify(t.Context(), text); !errors.Is(err, auth.ErrUnavailable) && !errors.Is(err, auth.ErrTokenRevoked) {
			t.Fatalf("right after a jump of %s: %v", jump, err)
		}
		vouches(t, v)
		verify(t, v, text, auth.ErrTokenRevoked)
		verify(t, v, ended, auth.ErrTokenRevoked)
		verify(t, v, good, nil)
		machine.Advance(time.Second)
		vouches(t, v)
	}
	if n := v.Stats().Revoked; n != 9 {
		t.Errorf("%d sessions are refused", n)
	}
}

func TestVerifierGoesByTheServicesClock(t *testing.T) {
	a, machine, c := driven(t)
	machine.Jump(-time.Hour)
	var log lockedBuffer
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c, Log: slog.New(slog.NewTextHandler(&log, nil))})
	text := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, text, nil)
	machine.Advance(time.Minute)
	vouches(t, v)
	verify(t, v, text, auth.ErrTokenExpired)
	begin := time.Now().Add(time.Hour) // and it is the service's that jumps
	a.SetClock(func() time.Time { return begin.Add(machine.Read().Elapsed) })
	soon(t, v, a.Sign(t, "one", "s", time.Minute), nil)
	if n := strings.Count(log.String(), "the clock differs"); n != 2 { // once for each jump
		t.Errorf("%d lines about the clock:\n%s", n, log.String())
	}
}

func TestVerifierRefusesASessionUntilItsLastTokenHasExpiredForEveryone(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	text, of := a.Sign(t, "one", "s", 5*time.Minute), time.Now()
	v.Revoke("s", of.Add(time.Minute))
	v.Revoke("for a day at most", of.Add(1000*time.Hour))
	for _, step := range []struct {
		advance time.Duration
		wanted  error
	}{
		{0, auth.ErrTokenRevoked},
		{119 * time.Second, auth.ErrTokenRevoked}, // clocks may differ by the leeway
		{2 * time.Second, nil},
	} {
		machine.Advance(step.advance)
		vouches(t, v) // it has caught up, and dropped what is over
		verify(t, v, text, step.wanted)
	}
	machine.Advance(24 * time.Hour)
	vouches(t, v)
	if n := v.Stats().Revoked; n != 0 {
		t.Errorf("%d sessions are refused", n)
	}
}

func TestVerifierRefusesADeletedUser(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	text := a.Sign(t, "one", "s", 5*time.Minute)
	v.RevokeUser(8, time.Now().Add(time.Minute))
	verify(t, v, text, nil)
	v.RevokeUser(7, time.Now().Add(time.Minute))
	verify(t, v, text, auth.ErrTokenRevoked)
	verify(t, v, a.Sign(t, "one", "another", 5*time.Minute), auth.ErrTokenRevoked)
	machine.Advance(119 * time.Second) // clocks may differ by the leeway
	vouches(t, v)
	verify(t, v, text, auth.ErrTokenRevoked)
	machine.Advance(2 * time.Second)
	vouches(t, v)
	soon(t, v, text, nil)
}

// What ended while it was catching up may be on a page that it had already read.
func TestVerifierIsAsFreshAsTheBeginningOfItsLastPass(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	asked, answer := make(chan struct{}), make(chan struct{})
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Revocations) {
			asked <- struct{}{}
			<-answer
		}
	})
	<-asked
	machine.Advance(1100 * time.Millisecond)
	answer <- struct{}{}
	<-asked // of the next pass: the former has ended
	if err := v.Err(); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("it vouches by a pass that began %s ago: %v", v.Stats().Staleness, err)
	}
	a.Intercept(nil)
	answer <- struct{}{}
	vouches(t, v)
}

func TestVerifierTakesEventsAsHints(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	var requests atomic.Int64
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Revocations) {
			requests.Add(1)
		}
	})
	good := a.Sign(t, "one", "good", time.Minute)
	verify(t, v, good, nil)
	before := requests.Load()
	a.Publish(t, "session.revoked", []byte(`{"sessionId":"good","userId":7,"expiresAt":"9999-01-01T00:00:00Z"}`))
	eventually(t, "it reads the revocations", func() bool { return requests.Load() > before })
	real := a.Sign(t, "one", "real", time.Minute)
	verify(t, v, real, nil)
	a.Revoke(t, "real", true)
	soon(t, v, real, auth.ErrTokenRevoked)
	verify(t, v, good, nil)
}

func TestVerifierIsNotDrivenByInventedEvents(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	var requests atomic.Int64
	a.Intercept(func(string, string) { requests.Add(1) })
	began := time.Now()
	for i := range 500 {
		a.Publish(t, "session.revoked", fmt.Appendf(nil, `{"sessionId":"invented %d","userId":7}`, i))
		a.Publish(t, "key.rotated", []byte("{}"))
	}
	last := a.Sign(t, "one", "last", time.Minute)
	a.Revoke(t, "last", true)
	soon(t, v, last, auth.ErrTokenRevoked)
	passes := 20 + int64(time.Since(began)/(250*time.Millisecond)) + 1 + 1 // the burst, one each interval, and a regular one
	if n := requests.Load(); n > 3*passes+3 {                              // each asks for keys and revocations, and for the keys again
		t.Errorf("%d requests within %s", n, time.Since(began))
	}
}

// Events that the service confirms are followed without the wait of invented ones.
func TestVerifierFollowsManyTrueEventsAtOnce(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	const sessions = 90
	began := time.Now()
	for i := range sessions {
		id := fmt.Sprint("session ", i)
		token := a.Sign(t, "one", id, time.Minute)
		verify(t, v, token, nil)
		a.Revoke(t, id, true)
		soon(t, v, token, auth.ErrTokenRevoked)
	}
	// Invented events take all of that, but for the regular passes between.
	if took, invented := time.Since(began), (sessions-20)*250*time.Millisecond; took > invented/2 {
		t.Errorf("it took %s, as if the events were invented", took)
	}
}

func TestVerifierReadsAllRevocationsNowAndThen(t *testing.T) {
	a, machine, c := driven(t)
	a.Revoke(t, "some", false)
	a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	var all, since atomic.Int64
	a.Intercept(func(subject, cursor string) {
		switch {
		case subject != string(auth.Revocations):
		case cursor == "":
			all.Add(1)
		default:
			since.Add(1)
		}
	})
	for _, step := range []struct {
		name  string
		move  func()
		reads int64
	}{
		{"at once", func() {}, 0},
		{"before five minutes", func() { machine.Advance(5*time.Minute - time.Second) }, 0},
		{"after five minutes", func() { machine.Advance(time.Second) }, 1},
		{"before five minutes more", func() { machine.Advance(5*time.Minute - time.Second) }, 0},
		{"when the clock jumps", func() { machine.Jump(time.Hour) }, 1},
	} {
		all.Store(0)
		step.move()
		for range 3 { // the first pass may have begun before
			before := since.Load()
			eventually(t, "a pass "+step.name, func() bool { return since.Load() > before })
		}
		if n := all.Load(); n != step.reads {
			t.Errorf("%s it reads all %d times, want %d", step.name, n, step.reads)
		}
	}
}

func TestVerifierConfiguration(t *testing.T) {
	a := testauthority.Start(t)
	for name, c := range map[string]bus.VerifierConfig{
		"no issuer":          {Audience: audience},
		"no audience":        {Issuer: issuer},
		"negative staleness": {Issuer: issuer, Audience: audience, MaxStaleness: -1},
		"tiny staleness":     {Issuer: issuer, Audience: audience, MaxStaleness: time.Second - 1},
		"negative memory":    {Issuer: issuer, Audience: audience, Remember: -1},
	} {
		if _, err := bus.NewVerifier(a.Connect(t), c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Remember: 1})
	silent := testauthority.Start(t)
	silent.Silence(true)
	never := silent.Follow(t, bus.VerifierConfig{})
	for _, closed := range []*bus.Verifier{v, never} {
		waiting := make(chan error)
		if closed == never {
			go func() { waiting <- closed.Ready(context.Background()) }()
		}
		if err := closed.Close(); err != nil {
			t.Error(err)
		}
		if closed == never {
			if err := <-waiting; !errors.Is(err, auth.ErrUnavailable) {
				t.Errorf("Ready while it was closed: %v", err)
			}
		}
		if err := closed.Ready(context.Background()); !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("Ready after Close: %v", err)
		}
	}
}

func TestVerifierIgnoresKeysThatItDoesNotUnderstand(t *testing.T) {
	a := testauthority.Start(t)
	one := a.KeySet().Keys[0]
	with := func(change func(*auth.JWK)) auth.JWK {
		k := one
		k.KeyID = "another"
		change(&k)
		return k
	}
	a.Show(
		auth.JWK{KeyType: "RSA", KeyID: "rsa", Algorithm: "RS256", Use: "sig"},
		auth.JWK{KeyType: "EC", Curve: "P-256", X: "AA", KeyID: "one", Algorithm: "ES256", Use: "sig"}, // of a kid that is another's too
		auth.JWK{},
		with(func(k *auth.JWK) { k.KeyType = "oct" }),
		with(func(k *auth.JWK) { k.Curve = "X25519" }),
		with(func(k *auth.JWK) { k.Algorithm = "ES256" }),
		with(func(k *auth.JWK) { k.Use = "enc" }),
		with(func(k *auth.JWK) { k.X = "AAAA" }),
		with(func(k *auth.JWK) { k.X = "!" }),
		with(func(k *auth.JWK) { k.KeyID = "" }),
	)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil)
	if n := v.Stats().Keys; n != 1 {
		t.Errorf("%d keys", n)
	}
	// A missing use or alg is none that contradicts.
	a.Add(t, "two")
	two := a.KeySet().Keys
	k := two[len(two)-1]
	if k.KeyID != "two" {
		k = two[len(two)-2]
	}
	k.KeyID, k.Use, k.Algorithm = "plain", "", ""
	a.Show(k)
	v.Refetch()
	eventually(t, "three keys", func() bool { return v.Stats().Keys == 3 })
	// Two keys of one kid leave open which one signed.
	a.Add(t, "three")
	a.Show(with(func(k *auth.JWK) { k.KeyID = "three" }))
	verify(t, v, a.Sign(t, "three", "s", time.Minute), auth.ErrUnavailable)
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil)
}

func TestACallerThatLeavesDoesNotSpoilTheKeysForOthers(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	a.Add(t, "invented")
	invented := a.Sign(t, "invented", "s", time.Minute)
	a.Remove("invented")
	a.Add(t, "two")
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Keys) {
			asked <- struct{}{}
			<-answer
		}
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := v.Verify(ctx, invented)
		left <- err
	}()
	<-asked
	leave()
	if err := <-left; !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("the caller that left: %v", err)
	}
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil) // whose key is known
	close(answer)
	verify(t, v, a.Sign(t, "two", "s", time.Minute), nil)
	verify(t, v, invented, auth.ErrInvalidToken)
}

func TestAnUnknownKidIsNoVerdictWhileTheKeysCannotBeRead(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	a.Add(t, "two")
	two := a.Sign(t, "two", "s", time.Minute)
	one := a.KeySet().Keys[0]
	one.KeyID = "one"
	a.Show(one) // twice now, so the set is refused
	verify(t, v, two, auth.ErrUnavailable)
	verify(t, v, two, auth.ErrUnavailable)
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil)
	a.Show()
	soon(t, v, two, nil)
}

// The instance that answers first may not have read the change yet.
func TestVerifierFetchesTheKeysAgainAfterAHint(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	old := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, old, nil)
	a.Add(t, "two")
	var once sync.Once
	var last atomic.Value
	var again atomic.Bool
	last.Store("")
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Keys) {
			once.Do(func() { a.Remove("one") }) // the answer has been made
		}
		if last.Swap(subject) == subject { // every other pass asks for keys, then for revocations
			again.Store(true)
		}
	})
	a.Publish(t, "key.rotated", []byte("{}"))
	eventually(t, "it fetches the keys alone", again.Load) // for no token of an unknown key
	soon(t, v, old, auth.ErrInvalidToken)
	verify(t, v, a.Sign(t, "two", "s", time.Minute), nil)
}
