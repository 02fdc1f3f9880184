package bus_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/token"
)

const issuer, audience = "https://auth.example", "zyotra"

// authority answers what a verifier asks, over a real server, and ends sessions.
type authority struct {
	url  string
	conn *nats.Conn

	mu      sync.Mutex
	keys    map[string]ed25519.PrivateKey
	revoked []auth.Revocation
	silent  bool // does not tell revocations
}

func startAuthority(t *testing.T) *authority {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("no server")
	}
	a := &authority{url: ns.ClientURL(), keys: map[string]ed25519.PrivateKey{}}
	conn, err := bus.Connect(a.url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bus.NewServer(conn, "0.0.1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(bus.Handle(s, auth.Keys, a.set), bus.Handle(s, auth.Revocations, a.list), conn.Flush()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	a.conn = connectTo(t, a.url)
	a.add(t, "one")
	return a
}

func connectTo(t *testing.T, url string) *nats.Conn {
	t.Helper()
	conn, err := bus.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func (a *authority) set(context.Context, auth.KeysRequest) (set auth.KeySet, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set.Keys = []auth.Key{}
	for id, key := range a.keys {
		x := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
		set.Keys = append(set.Keys, auth.Key{KeyType: "OKP", Curve: "Ed25519", X: x, KeyID: id, Algorithm: "EdDSA", Use: "sig"})
	}
	return set, nil
}

// list tells two sessions a page, and at the end begins again, as the service tells the last
// minute again.
func (a *authority) list(_ context.Context, req auth.RevocationsRequest) (auth.RevocationsReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.silent {
		return auth.RevocationsReply{}, auth.ErrUnavailable
	}
	var from int
	if _, err := fmt.Sscan(req.Since, &from); req.Since != "" && err != nil {
		return auth.RevocationsReply{}, err
	}
	to := min(from+2, len(a.revoked))
	next := to
	if to == len(a.revoked) {
		next = 0
	}
	return auth.RevocationsReply{Revoked: append([]auth.Revocation{}, a.revoked[from:to]...), Cursor: fmt.Sprint(next), More: to < len(a.revoked), Now: time.Now()}, nil
}

func (a *authority) add(t *testing.T, id string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[id] = key
}

func (a *authority) remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, id)
}

func (a *authority) silence(is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silent = is
}

// sign makes an access token of a session.
func (a *authority) sign(t testing.TB, kid, session string, life time.Duration) string {
	t.Helper()
	a.mu.Lock()
	key := a.keys[kid]
	a.mu.Unlock()
	now := time.Now()
	text, err := token.Issuer{Name: issuer, Audience: audience}.Sign(
		token.Key{ID: kid, Public: key.Public().(ed25519.PublicKey), Private: key},
		token.Access{ID: session + fmt.Sprint(now.UnixNano()), UserID: 7, SessionID: session, Scopes: []string{"read"}, AMR: []string{"pwd"},
			AuthTime: now, IssuedAt: now, ExpiresAt: now.Add(life)})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// revoke ends a session, in the list and, if told, as news.
func (a *authority) revoke(t *testing.T, session string, told bool) {
	t.Helper()
	now := time.Now()
	r := auth.Revocation{SessionID: session, UserID: 7, RevokedAt: now, ExpiresAt: now.Add(time.Minute)}
	a.mu.Lock()
	a.revoked = append(a.revoked, r)
	a.mu.Unlock()
	if !told {
		return
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	a.publish(t, "session.revoked", data)
}

func (a *authority) publish(t *testing.T, kind string, data []byte) {
	t.Helper()
	m := nats.NewMsg(kind)
	m.Data = data
	for name, value := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "x", "ce-type": kind, "ce-time": time.Now().Format(time.RFC3339Nano),
	} {
		m.Header[name] = []string{value}
	}
	if err := errors.Join(a.conn.PublishMsg(m), a.conn.Flush()); err != nil {
		t.Fatal(err)
	}
}

func follow(t *testing.T, a *authority, c bus.VerifierConfig) *bus.Verifier {
	t.Helper()
	c.Issuer, c.Audience = issuer, audience
	v, err := bus.NewVerifier(connectTo(t, a.url), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func ready(t *testing.T, v *bus.Verifier) *bus.Verifier {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := v.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return v
}

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
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
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
	a := startAuthority(t)
	v := ready(t, follow(t, a, bus.VerifierConfig{}))
	good := a.sign(t, "one", "s", time.Minute)
	for range 2 { // new, and remembered
		verify(t, v, good, nil)
		verify(t, v, good, nil, "read")
		verify(t, v, good, auth.ErrInsufficientScope, "read", "write")
	}
	for _, bad := range []string{"", "noise", good + "x", good[:len(good)-4] + "AAAA", good + good} {
		verify(t, v, bad, auth.ErrInvalidToken)
	}
	brief := a.sign(t, "one", "s", 1100*time.Millisecond)
	verify(t, v, brief, nil)
	soon(t, v, brief, auth.ErrTokenExpired) // remembered, and never past exp
	if _, err := bus.NewVerifier(connectTo(t, a.url), bus.VerifierConfig{Issuer: issuer}); err == nil {
		t.Error("no audience")
	}
}

func TestVerifierRefusesEndedSessions(t *testing.T) {
	a := startAuthority(t)
	for i := range 5 { // more than a page
		a.revoke(t, fmt.Sprint("before ", i), false)
	}
	v := ready(t, follow(t, a, bus.VerifierConfig{MaxStaleness: 300 * time.Millisecond}))
	for i := range 5 {
		verify(t, v, a.sign(t, "one", fmt.Sprint("before ", i), time.Minute), auth.ErrTokenRevoked)
	}
	told, missed, other := a.sign(t, "one", "told", time.Minute), a.sign(t, "one", "missed", time.Minute), a.sign(t, "one", "other", time.Minute)
	for _, text := range []string{told, missed, other} {
		verify(t, v, text, nil)
	}
	a.revoke(t, "told", true)
	soon(t, v, told, auth.ErrTokenRevoked)
	a.revoke(t, "missed", false) // its event was lost
	soon(t, v, missed, auth.ErrTokenRevoked)
	verify(t, v, other, nil)
	a.publish(t, "session.revoked", []byte("noise"))
	verify(t, v, other, nil)
	v.Refuse("other", time.Now())
	verify(t, v, other, auth.ErrTokenRevoked)
}

func TestVerifierDoesNotVouchBeforeItHasCaughtUpNorWithoutNews(t *testing.T) {
	a := startAuthority(t)
	a.silence(true)
	v := follow(t, a, bus.VerifierConfig{MaxStaleness: 300 * time.Millisecond})
	good := a.sign(t, "one", "s", time.Minute)
	verify(t, v, good, auth.ErrUnavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := v.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready: %v", err)
	}
	a.silence(false)
	ready(t, v)
	verify(t, v, good, nil)
	a.silence(true)
	soon(t, v, good, auth.ErrUnavailable)
	a.silence(false)
	soon(t, v, good, nil)
}

// More than a page is told again: the first one then holds no news, but a later one may.
func TestVerifierVouchesOnlyOnceItHasReadToTheEnd(t *testing.T) {
	a := startAuthority(t)
	for i := range 40 {
		a.revoke(t, fmt.Sprint(i), false)
	}
	v := ready(t, follow(t, a, bus.VerifierConfig{MaxStaleness: 300 * time.Millisecond}))
	missed := a.sign(t, "one", "missed", time.Minute)
	verify(t, v, missed, nil)
	a.silence(true)
	soon(t, v, missed, auth.ErrUnavailable)
	a.revoke(t, "missed", false)
	a.silence(false)
	for late := time.Now().Add(10 * time.Second); v.Err() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal(v.Err())
		}
	}
	verify(t, v, missed, auth.ErrTokenRevoked)
}

func TestVerifierFollowsTheKeys(t *testing.T) {
	a := startAuthority(t)
	v := ready(t, follow(t, a, bus.VerifierConfig{MaxStaleness: time.Hour})) // it asks every five seconds
	old := a.sign(t, "one", "s", time.Minute)
	verify(t, v, old, nil)
	a.add(t, "two")
	verify(t, v, a.sign(t, "two", "s", time.Minute), nil) // at once, since it is unknown
	a.add(t, "three")
	third := a.sign(t, "three", "s", time.Minute)
	verify(t, v, third, auth.ErrInvalidToken) // not again at once
	a.publish(t, "key.rotated", []byte("{}"))
	soon(t, v, third, nil)
	a.remove("one")
	a.publish(t, "key.rotated", []byte("{}"))
	soon(t, v, old, auth.ErrInvalidToken) // although it was remembered
	verify(t, v, third, nil)
}

func TestVerifierIsUsedByManyAndLeavesNothingBehind(t *testing.T) {
	a := startAuthority(t)
	conn := connectTo(t, a.url)
	if _, err := bus.Call(t.Context(), conn, auth.Keys, auth.KeysRequest{}); err != nil { // the connection has its own from then on
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	v, err := bus.NewVerifier(conn, bus.VerifierConfig{Issuer: issuer, Audience: audience, Remember: 64, MaxStaleness: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ready(t, v)
	good, ended := a.sign(t, "one", "good", time.Minute), a.sign(t, "one", "ended", time.Minute)
	a.revoke(t, "ended", true)
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
