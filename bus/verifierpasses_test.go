package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/internal/testauthority"
)

// countRequests returns a counter of the requests that an authority gets from now on.
func countRequests(a *testauthority.Authority) *atomic.Int64 {
	var requests atomic.Int64
	a.Intercept(func(string, string) { requests.Add(1) })
	return &requests
}

func TestVerifierReadsAtItsInterval(t *testing.T) {
	a := testauthority.Start(t)
	requests, began := countRequests(a), time.Now()
	a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second}) // a pass takes place every third of a second
	a.Publish(t, "key.rotated", []byte("{}"))
	eventually(t, "six passes", func() bool { return requests.Load() >= 12 })
	n := requests.Load()
	passes := 1 + int64(time.Since(began)/(time.Second/3))
	if most := 2*passes + 2 + 1; n > most { // those of the hint, and the keys once more
		t.Errorf("%d requests within %s, want at most %d", n, time.Since(began), most)
	}
}

func TestVerifierRetriesAtItsPaceWhileTheKeysCannotBeRead(t *testing.T) {
	a := testauthority.Start(t)
	var log lockedBuffer
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
	good := a.Sign(t, "one", "s", time.Hour)
	verify(t, v, good, nil)
	a.Show(a.KeySet().Keys[0])            // now the set has a kid twice
	soon(t, v, good, auth.ErrUnavailable) // revocations alone are not enough
	requests, began := countRequests(a), time.Now()
	eventually(t, "eight retries", func() bool {
		a.Publish(t, "key.rotated", []byte("{}"))
		return requests.Load() >= 8
	})
	n := requests.Load()
	if most := 2 + int64(time.Since(began)/(250*time.Millisecond)); n > most {
		t.Errorf("%d requests within %s, want at most %d", n, time.Since(began), most)
	}
	a.Show()
	soon(t, v, good, nil)
	eventually(t, "the log says that it is over", func() bool { return strings.Contains(log.String(), "are read again") })
	for _, line := range []string{"revocations cannot be read", "revocations are read again"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q stands %d times in the log:\n%s", line, n, log.String())
		}
	}
}

func TestHintsDoNotKeepAVerifierFromItsPasses(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	for range 3 {
		machine.Advance(2 * time.Second)
		eventually(t, "the verifier vouches", func() bool {
			a.Publish(t, "key.rotated", []byte("{}"))
			return v.Err() == nil
		})
	}
}

func TestVerifierReadsAfterAReconnect(t *testing.T) {
	a := testauthority.Start(t)
	conn := a.Connect(t)
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: issuer, Audience: audience, MaxStaleness: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close() }()
	testauthority.Ready(t, v)
	requests, began := countRequests(a), time.Now()
	for range 8 {
		before := requests.Load()
		if err := conn.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a pass", func() bool { return requests.Load() > before })
	}
	if n := requests.Load() / 2; n <= 1+int64(time.Since(began)/(5*time.Second)) {
		t.Errorf("%d passes within %s, as without reconnects", n, time.Since(began))
	}
}

func TestAVerifierOfAClosedConnectionDoesNotSpin(t *testing.T) {
	a := testauthority.Start(t)
	var log lockedBuffer
	var reads atomic.Int64
	machine := clock.System()
	counted := clock.New(func() clock.Reading { reads.Add(1); return machine.Read() }, clock.Tolerance)
	conn := a.Connect(t)
	config := bus.VerifierConfig{Issuer: issuer, Audience: audience, MaxStaleness: time.Second, Clock: counted, Log: slog.New(slog.NewTextHandler(&log, nil))}
	v, err := bus.NewVerifier(conn, config)
	if err != nil {
		t.Fatal(err)
	}
	testauthority.Ready(t, v)
	conn.Close()
	eventually(t, "it notices", func() bool { return strings.Contains(log.String(), "cannot be read") })
	reads.Store(0)
	began := time.Now()
	eventually(t, "some passes", func() bool { return reads.Load() >= 12 })
	n := reads.Load()
	if most := 3 * (2 + int64(time.Since(began)/(250*time.Millisecond))); n > most {
		t.Errorf("the clock was read %d times within %s, want at most %d", n, time.Since(began), most)
	}
	if err := v.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := bus.NewVerifier(conn, config); err == nil {
		t.Error("a verifier begins on a closed connection")
	}
}

func TestClosingAVerifierIsNotAFailure(t *testing.T) {
	a := testauthority.Start(t)
	var log lockedBuffer
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil)
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	a.Intercept(func(string, string) { asked <- struct{}{}; <-answer })
	<-asked
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	close(answer)
	if log.String() != "" {
		t.Errorf("the log says %q", log.String())
	}
	if n := v.Stats().Remembered; n != 0 {
		t.Errorf("it still remembers %d tokens", n)
	}
}

func TestVerifierRemembersNoMoreThanItMay(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour, Remember: 10})
	for range 300 {
		verify(t, v, a.Sign(t, "one", "s", time.Hour), nil)
	}
	eventually(t, "it drops the others", func() bool { return v.Stats().Remembered <= 10 })
}

func TestVerifierVouchesForExactlyItsStaleness(t *testing.T) {
	a, machine, c := driven(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second, Clock: c})
	a.Silence(true)
	machine.Advance(time.Second)
	if is := v.Stats().Staleness; is != time.Second {
		t.Errorf("the statistics say %s", is)
	}
	if err := v.Err(); err != nil {
		t.Errorf("after a second: %v", err)
	}
	machine.Advance(1)
	if err := v.Err(); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("later: %v", err)
	}
}

func TestVerifierReadsOneBearerToken(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	good := "Bearer " + a.Sign(t, "one", "s", time.Minute)
	for name, one := range map[string]struct {
		headers []string
		wanted  error
	}{
		"one":            {[]string{good}, nil},
		"none":           {nil, auth.ErrUnauthenticated},
		"another scheme": {[]string{"Basic eDp5"}, auth.ErrUnauthenticated},
		"no token":       {[]string{"Bearer"}, auth.ErrInvalidToken},
		"two":            {[]string{good, good}, auth.ErrTwoCredentials},
	} {
		if reply, err := v.VerifyBearer(context.Background(), one.headers); !errors.Is(err, one.wanted) || err == nil && reply.UserID != 7 {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
	}
}

// A hint makes the verifier read from the recent cursor on, a regular pass from the earlier one.
func TestAHintReadsTheLatestRevocations(t *testing.T) {
	a := testauthority.Start(t)
	for i := range 9 {
		a.Revoke(t, fmt.Sprint(i), false)
	}
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	cursors := make(chan string, 1000)
	a.Intercept(func(subject, since string) {
		if subject == string(auth.Revocations) {
			cursors <- since
		}
	})
	for _, want := range []string{"8", "9", "10"} {
		ended := a.Sign(t, "one", "from "+want, time.Minute)
		verify(t, v, ended, nil)
		a.Revoke(t, "from "+want, true)
		soon(t, v, ended, auth.ErrTokenRevoked)
		for got := ""; got != want; { // those of a regular pass may be in between
			select {
			case got = <-cursors:
			default:
				t.Fatalf("no request from %s on", want)
			}
		}
	}
}

func TestAnEventOfAKnownRevocationIsNoHint(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	ended := a.Sign(t, "one", "ended", time.Minute)
	a.Revoke(t, "ended", true)
	soon(t, v, ended, auth.ErrTokenRevoked)
	var keys, revocations atomic.Int64
	a.Intercept(func(subject, _ string) {
		if subject == string(auth.Keys) {
			keys.Add(1)
		} else {
			revocations.Add(1)
		}
	})
	began := time.Now()
	for range 20 {
		a.Publish(t, "session.revoked", []byte(`{"sessionId":"ended","userId":7}`))
	}
	a.Publish(t, "key.rotated", []byte("{}"))
	eventually(t, "it reads the keys again", func() bool { return keys.Load() >= 2 })
	if n, most := revocations.Load(), 2+int64(time.Since(began)/(5*time.Second)); n > most {
		t.Errorf("%d requests for revocations, want at most %d", n, most)
	}
}

func TestStatisticsBeforeTheFirstPass(t *testing.T) {
	a, machine, c := driven(t)
	hold := make(chan struct{})
	a.Intercept(func(string, string) { <-hold })
	v := a.Follow(t, bus.VerifierConfig{MaxStaleness: time.Hour, Clock: c})
	machine.Advance(time.Minute)
	if got := v.Stats(); got != (bus.VerifierStats{Staleness: time.Minute}) {
		t.Errorf("%+v", got)
	}
	close(hold)
}

// A key that stays in the set keeps the tokens that were verified with it.
func TestFetchingTheSameKeysForgetsNoToken(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour})
	text := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, text, nil)
	a.Add(t, "two")
	v.Refetch()
	eventually(t, "two keys", func() bool { return v.Stats().Keys == 2 })
	verify(t, v, text, nil)
	if got := v.Stats(); got.Misses != 1 || got.Hits != 1 {
		t.Errorf("%+v", got)
	}
}
