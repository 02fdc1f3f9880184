package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/testauthority"
)

const issuer, audience = testauthority.Issuer, testauthority.Audience

func verify(t *testing.T, v *bus.Verifier, text string, wanted error, scopes ...string) {
	t.Helper()
	reply, err := v.Verify(t.Context(), text, scopes...)
	if !errors.Is(err, wanted) || err == nil != (reply.UserID == 7) {
		t.Fatalf("%+v, %v, want %v", reply, err, wanted)
	}
}

// soon waits until a token is answered so.
func soon(t *testing.T, v *bus.Verifier, text string, wanted error) {
	t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := v.Verify(t.Context(), text)
		if errors.Is(err, wanted) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("still %v, want %v", err, wanted)
		}
	}
}

func TestVerifierTakesTheServicesTokens(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{})
	good := a.Sign(t, "one", "s", time.Minute)
	for range 2 { // new, and remembered
		verify(t, v, good, nil)
		verify(t, v, good, nil, "read")
		verify(t, v, good, auth.ErrInsufficientScope, "read", "write")
	}
	if got := v.Stats(); got.Hits != 5 || got.Misses != 1 || got.Keys != 1 || got.Remembered != 1 || got.Revoked != 0 || got.Staleness > bus.Timeout {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "noise", good + "x", good[:len(good)-4] + "AAAA", good + good} {
		verify(t, v, bad, auth.ErrInvalidToken)
	}
	brief := a.Sign(t, "one", "s", 1100*time.Millisecond)
	verify(t, v, brief, nil)
	soon(t, v, brief, auth.ErrTokenExpired) // remembered, and never past exp
	if _, err := bus.NewVerifier(a.Connect(t), bus.VerifierConfig{Issuer: issuer}); err == nil {
		t.Error("no audience")
	}
}

// What is remembered does not grow beyond the tokens that are good.
func TestVerifierForgetsExpiredTokens(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second}) // so it looks often
	verify(t, v, a.Sign(t, "one", "s", time.Minute), nil)
	verify(t, v, a.Sign(t, "one", "s", 1100*time.Millisecond), nil)
	if n := v.Stats().Remembered; n != 2 {
		t.Fatalf("%d remembered", n)
	}
	for late := time.Now().Add(patience); v.Stats().Remembered > 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("an expired token is still remembered")
		}
	}
	if n := v.Stats().Remembered; n != 1 {
		t.Errorf("%d tokens are remembered, though one is still valid", n)
	}
}

func TestVerifierRefusesEndedSessions(t *testing.T) {
	a := testauthority.Start(t)
	for i := range 5 { // more than a page
		a.Revoke(t, fmt.Sprint("before ", i), false)
	}
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second})
	for i := range 5 {
		verify(t, v, a.Sign(t, "one", fmt.Sprint("before ", i), time.Minute), auth.ErrTokenRevoked)
	}
	told, missed, other := a.Sign(t, "one", "told", time.Minute), a.Sign(t, "one", "missed", time.Minute), a.Sign(t, "one", "other", time.Minute)
	for _, text := range []string{told, missed, other} {
		verify(t, v, text, nil)
	}
	a.Revoke(t, "told", true)
	soon(t, v, told, auth.ErrTokenRevoked)
	a.Revoke(t, "missed", false) // its event was lost
	soon(t, v, missed, auth.ErrTokenRevoked)
	verify(t, v, other, nil)
	a.Publish(t, "session.revoked", []byte("noise"))
	verify(t, v, other, nil)
	v.Revoke("other", time.Now())
	verify(t, v, other, auth.ErrTokenRevoked)
	if n := v.Stats().Revoked; n != 8 {
		t.Errorf("%d sessions are refused", n)
	}
}

func TestVerifierDoesNotVouchBeforeItHasCaughtUpNorWithoutNews(t *testing.T) {
	a := testauthority.Start(t)
	a.Silence(true)
	v := a.Follow(t, bus.VerifierConfig{MaxStaleness: time.Second})
	good := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, good, auth.ErrUnavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := v.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready: %v", err)
	}
	a.Silence(false)
	testauthority.Ready(t, v)
	verify(t, v, good, nil)
	a.Silence(true)
	soon(t, v, good, auth.ErrUnavailable)
	if got := v.Stats().Staleness; got < time.Second {
		t.Errorf("it has heard something %s ago", got)
	}
	a.Silence(false)
	soon(t, v, good, nil)
}

// More than a page is told again: the first one then holds no news, but a later one may.
func TestVerifierVouchesOnlyOnceItHasReadToTheEnd(t *testing.T) {
	a := testauthority.Start(t)
	for i := range 40 {
		a.Revoke(t, fmt.Sprint(i), false)
	}
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Second})
	missed := a.Sign(t, "one", "missed", time.Minute)
	verify(t, v, missed, nil)
	a.Silence(true)
	soon(t, v, missed, auth.ErrUnavailable)
	a.Revoke(t, "missed", false)
	a.Silence(false)
	for late := time.Now().Add(patience); v.Err() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal(v.Err())
		}
	}
	verify(t, v, missed, auth.ErrTokenRevoked)
}

func TestVerifierFollowsTheKeys(t *testing.T) {
	a := testauthority.Start(t)
	v := a.Verifier(t, bus.VerifierConfig{MaxStaleness: time.Hour}) // it asks every five seconds
	old := a.Sign(t, "one", "s", time.Minute)
	verify(t, v, old, nil)
	a.Add(t, "two")
	verify(t, v, a.Sign(t, "two", "s", time.Minute), nil) // at once, since it is unknown
	a.Add(t, "three")
	third := a.Sign(t, "three", "s", time.Minute)
	verify(t, v, third, auth.ErrInvalidToken) // not again at once
	a.Publish(t, "key.rotated", []byte("{}"))
	soon(t, v, third, nil)
	a.Remove("one")
	a.Publish(t, "key.rotated", []byte("{}"))
	soon(t, v, old, auth.ErrInvalidToken) // although it was remembered
	verify(t, v, third, nil)
}

func TestVerifierIsUsedByManyAndLeavesNothingBehind(t *testing.T) {
	a := testauthority.Start(t)
	conn := a.Connect(t)
	if _, err := bus.Call(t.Context(), conn, auth.Keys, auth.KeysRequest{}); err != nil { // the connection has its own from then on
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: issuer, Audience: audience, Remember: 64, MaxStaleness: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	testauthority.Ready(t, v)
	good, ended := a.Sign(t, "one", "good", time.Minute), a.Sign(t, "one", "ended", time.Minute)
	a.Revoke(t, "ended", true)
	soon(t, v, ended, auth.ErrTokenRevoked)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for n := range 200 {
				if _, err := v.Verify(context.Background(), good); err != nil && !errors.Is(err, auth.ErrUnavailable) {
					t.Error(err)
				}
				if _, err := v.Verify(context.Background(), ended); err == nil {
					t.Error("an ended session")
				}
				if _, err := v.Verify(context.Background(), fmt.Sprintf("%s%d.%d", good, g, n)); err == nil {
					t.Error("noise")
				}
			}
		})
	}
	group.Wait()
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), good); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	goleak.VerifyNone(t, before)
}
