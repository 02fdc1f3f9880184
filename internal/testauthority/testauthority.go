// Package testauthority stands for the service in tests of those who verify its tokens: it
// holds keys, signs, and tells of revocations over a NATS server of its own.
package testauthority

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/token"
)

// Whose tokens an Authority signs.
const (
	Issuer   = "https://auth.example"
	Audience = "zyotra"
)

// Authority answers what a verifier asks, over a real server, and ends sessions. All its users
// are number 7.
type Authority struct {
	url  string
	conn *nats.Conn

	mu      sync.Mutex
	keys    map[string]ed25519.PrivateKey
	revoked []auth.Revocation
	silent  bool // does not tell revocations
	now     func() time.Time
	others  []auth.JWK                  // in the key set, beside keys
	answers func(subject, since string) // called before a request is answered
}

// Start starts an authority, which ends with the test. It has a key, "one".
func Start(t testing.TB) *Authority {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(time.Minute) {
		t.Fatal("no server")
	}
	a := &Authority{url: ns.ClientURL(), keys: map[string]ed25519.PrivateKey{}, now: time.Now}
	conn, err := bus.Connect(a.url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bus.NewServer(conn, a.Connect(t), "0.0.1", slog.New(slog.DiscardHandler))
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
	a.conn = a.Connect(t)
	a.Add(t, "one")
	return a
}

// Connect makes a connection, which ends with the test.
func (a *Authority) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	conn, err := bus.Connect(a.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// SetClock sets what the authority goes by, instead of the machine's clock.
func (a *Authority) SetClock(now func() time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = now
}

// Intercept has fn called before each answer, outside of any lock, with the subject and the cursor
// of the request. It may hold the answer up; that of auth.keys has been made by then.
func (a *Authority) Intercept(fn func(subject, since string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers = fn
}

// Show puts further keys into the key set.
func (a *Authority) Show(others ...auth.JWK) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.others = others
}

func (a *Authority) intercept(subject, since string) {
	a.mu.Lock()
	fn := a.answers
	a.mu.Unlock()
	if fn != nil {
		fn(subject, since)
	}
}

// time is the authority's.
func (a *Authority) time() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now()
}

func (a *Authority) set(_ context.Context, _ auth.KeysRequest) (set auth.JWKS, err error) {
	set = a.KeySet()
	a.intercept(string(auth.Keys), "")
	return set, nil
}

// KeySet returns the keys as auth.keys shows them.
func (a *Authority) KeySet() (set auth.JWKS) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set.Keys = append([]auth.JWK{}, a.others...)
	for id, key := range a.keys {
		x := base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
		set.Keys = append(set.Keys, auth.JWK{KeyType: "OKP", Curve: "Ed25519", X: x, KeyID: id, Algorithm: "EdDSA", Use: "sig"})
	}
	return set
}

// list returns two sessions a page. At the end its cursor leads back to the beginning and its recent
// cursor to the last session, as the service's lead back by a minute and by seconds.
func (a *Authority) list(_ context.Context, req auth.RevocationsRequest) (auth.RevocationsReply, error) {
	a.intercept(string(auth.Revocations), req.Since)
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
	reply := auth.RevocationsReply{Revoked: append([]auth.Revocation{}, a.revoked[from:to]...), Cursor: fmt.Sprint(to), More: to < len(a.revoked), Now: a.now()}
	if !reply.More {
		reply.Cursor, reply.Recent = "0", fmt.Sprint(max(0, to-1))
	}
	return reply, nil
}

// Add makes a key.
func (a *Authority) Add(t testing.TB, id string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[id] = key
}

// Remove takes a key out of the set.
func (a *Authority) Remove(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, id)
}

// Silence makes the authority tell revocations no more, or again.
func (a *Authority) Silence(is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silent = is
}

// Sign makes an access token of a session.
func (a *Authority) Sign(t testing.TB, kid, session string, life time.Duration) string {
	t.Helper()
	a.mu.Lock()
	key := a.keys[kid]
	now := a.now()
	a.mu.Unlock()
	text, err := token.Issuer{Name: Issuer, Audience: Audience}.Sign(
		token.Key{ID: kid, Public: key.Public().(ed25519.PublicKey), Private: key},
		token.Access{ID: session + fmt.Sprint(now.UnixNano()), UserID: 7, SessionID: session, Scopes: []string{"read"}, AMR: []string{"pwd"},
			AuthTime: now, IssuedAt: now, ExpiresAt: now.Add(life)})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Revoke ends a session, in the list and, if told, as news.
func (a *Authority) Revoke(t testing.TB, session string, told bool) {
	t.Helper()
	now := a.time()
	r := auth.Revocation{SessionID: session, RevokedAt: now, ExpiresAt: now.Add(time.Minute)}
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
	a.Publish(t, "session.revoked", data)
}

// Publish publishes an event.
func (a *Authority) Publish(t testing.TB, kind string, data []byte) {
	t.Helper()
	m := nats.NewMsg(kind)
	m.Data = data
	for name, value := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "x", "ce-type": kind, "ce-time": a.time().Format(time.RFC3339Nano),
	} {
		m.Header[name] = []string{value}
	}
	if err := errors.Join(a.conn.PublishMsg(m), a.conn.Flush()); err != nil {
		t.Fatal(err)
	}
}

// Follow makes a verifier of the authority's tokens, which ends with the test.
func (a *Authority) Follow(t testing.TB, c bus.VerifierConfig) *bus.Verifier {
	t.Helper()
	c.Issuer, c.Audience = Issuer, Audience
	v, err := bus.NewVerifier(a.Connect(t), c)
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

// Verifier is Follow, until the verifier has caught up.
func (a *Authority) Verifier(t testing.TB, c bus.VerifierConfig) *bus.Verifier {
	t.Helper()
	return Ready(t, a.Follow(t, c))
}

// Ready waits until a verifier has caught up, and returns it.
func Ready(t testing.TB, v *bus.Verifier) *bus.Verifier {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := v.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return v
}

// Try is a request to something that demands the scope, and what becomes of it.
type Try struct {
	Authorization []string    // the headers
	Scope         string      // demanded
	Refused       *auth.Error // nil if it is let through
}

// Tries are requests to whatever is guarded by a verifier of the authority's tokens.
func (a *Authority) Tries(t testing.TB) []Try {
	t.Helper()
	a.Revoke(t, "ended", false)
	good, ended := "Bearer "+a.Sign(t, "one", "good", time.Minute), "Bearer "+a.Sign(t, "one", "ended", time.Minute)
	return []Try{
		{[]string{good}, "read", nil},
		{nil, "read", auth.ErrUnauthenticated},
		{[]string{good, good}, "read", auth.ErrMalformed},
		{[]string{"Basic eDp5"}, "read", auth.ErrUnauthenticated},
		{[]string{good + "x"}, "read", auth.ErrInvalidToken},
		{[]string{ended}, "read", auth.ErrTokenRevoked},
		{[]string{good}, "write", auth.ErrInsufficientScope},
	}
}

// Check compares what HTTP answered: the number of the user, or a problem.
func (try Try) Check(t testing.TB, resp *http.Response) {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if try.Refused == nil {
		if resp.StatusCode != http.StatusOK || string(body) != "7" {
			t.Errorf("%d: %s", resp.StatusCode, body)
		}
		return
	}
	var told struct {
		Type   string
		Status int
		Code   auth.Code
	}
	status := try.Refused.Code.Status()
	if err := json.Unmarshal(body, &told); err != nil || told.Code != try.Refused.Code || told.Status != status || told.Type == "" {
		t.Errorf("%v: %s", try, body)
	}
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" ||
		resp.Header.Get("Cache-Control") != "no-store" || (status == 401) != (resp.Header.Get("WWW-Authenticate") != "") {
		t.Errorf("%v: %d, %v", try, resp.StatusCode, resp.Header)
	}
}
