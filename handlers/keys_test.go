package handlers_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testdb"
	"github.com/zyotra/auth/persistence"
)

func keySet(t *testing.T, k *keyring.Keys) []auth.JWK {
	t.Helper()
	set, err := k.Keys(t.Context(), auth.KeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

// addKey stores a key that signs from now on, as a rotation would.
func (s *service) addKey(t *testing.T, id string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := parse(t, s.master).Seal(private.Seed(), "signing_keys/"+id)
	if err != nil {
		t.Fatal(err)
	}
	err = s.store.CreateSigningKey(t.Context(), persistence.SigningKey{
		ID: id, Public: public, Sealed: sealed, CreatedAt: s.now(), ActiveFrom: s.now(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeySetVerifiesAccessTokens(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		keys := keySet(t, s.keys)
		if len(keys) != 1 {
			t.Fatalf("%+v", keys)
		}
		key := keys[0]
		if key.KeyType != "OKP" || key.Curve != "Ed25519" || key.Algorithm != "EdDSA" || key.Use != "sig" || key.KeyID == "" {
			t.Errorf("%+v", key)
		}
		public, err := base64.RawURLEncoding.Strict().DecodeString(key.X)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jwt.Parse(s.begun(t).AccessToken, func(*jwt.Token) (any, error) { return ed25519.PublicKey(public), nil },
			jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithTimeFunc(s.now))
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Header["kid"] != key.KeyID || parsed.Header["typ"] != "at+jwt" {
			t.Errorf("header %v", parsed.Header)
		}
		for _, secret := range []string{key.X, string(public)} { // a public key is no secret
			forged := jwt.NewWithClaims(jwt.SigningMethodHS256, parsed.Claims)
			forged.Header["typ"], forged.Header["kid"] = "at+jwt", key.KeyID
			text, err := forged.SignedString([]byte(secret))
			if err != nil {
				t.Fatal(err)
			}
			err = s.verify(t, text)
			want(t, "HS256 with the public key", err, auth.ErrInvalidToken)
		}
	})
}

func TestKeyIsTheSameAfterARestart(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		login := s.begun(t)
		restarted := s.another(t)
		if before, after := keySet(t, s.keys), keySet(t, restarted.keys); len(after) != 1 || before[0] != after[0] {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		if err := restarted.verify(t, login.AccessToken); err != nil {
			t.Errorf("a token from before: %v", err)
		}
		if err := s.verify(t, restarted.login(t).AccessToken); err != nil {
			t.Errorf("a token from after: %v", err)
		}
	})
}

func TestInstancesThatStartAtOnceMakeOneKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.execute(t, "DELETE FROM signing_keys")
		keys := make([]*keyring.Keys, 8)
		for i := range keys {
			store := s.store
			if strings.HasPrefix(s.url, "postgres") { // SQLite has one process
				store = open(t, s.url)
			}
			keys[i] = &keyring.Keys{Store: store, Master: parse(t, s.master), Clock: s.now}
		}
		errs := atOnce(len(keys), func(i int) error { return keys[i].Load(t.Context()) })
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d keys", n)
		}
		for _, k := range keys {
			if set := keySet(t, k); len(set) != 1 || set[0] != keySet(t, keys[0])[0] {
				t.Errorf("%+v", set)
			}
		}
	})
}

func TestKeysUnderAnotherMasterSecret(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		wrong := &keyring.Keys{Store: s.store, Master: parse(t, secret.Generate()), Clock: s.now}
		want(t, "another secret", wrong.Load(t.Context()), secret.ErrSealed)
		rotated := &keyring.Keys{Store: s.store, Master: parse(t, secret.Generate()+","+s.master), Clock: s.now}
		if err := rotated.Load(t.Context()); err != nil {
			t.Errorf("a second secret: %v", err)
		}
		if n := s.count(t, "signing_keys"); n != 1 {
			t.Errorf("%d keys", n)
		}
	})
}

func TestHS256ModeHasNoPublicKeys(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		eddsa := s.begun(t)
		hs := s.another(t)
		key := []byte("an ancestor's secret of 32 bytes")
		hs.keys.Secret = key
		if err := hs.keys.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		set, err := hs.keys.Keys(t.Context(), auth.KeysRequest{})
		if text, _ := json.Marshal(set); err != nil || string(text) != `{"keys":[]}` {
			t.Errorf("%s, %v", text, err)
		}

		login := hs.login(t)
		parsed, err := jwt.Parse(login.AccessToken, func(*jwt.Token) (any, error) { return key, nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(s.now))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := parsed.Header["kid"]; ok || parsed.Header["typ"] != "at+jwt" {
			t.Errorf("header %v", parsed.Header)
		}
		want(t, "HS256", hs.verify(t, login.AccessToken), nil)
		err = hs.verify(t, eddsa.AccessToken)
		want(t, "an EdDSA token in HS256 mode", err, auth.ErrInvalidToken)
		err = s.verify(t, login.AccessToken)
		want(t, "an HS256 token in EdDSA mode", err, auth.ErrInvalidToken)

		// Even if somebody gives both kinds of token one secret, they are not interchangeable.
		hs.sessions.Refreshes[0].Secret = key
		login = hs.login(t)
		err = hs.verify(t, login.RefreshToken)
		want(t, "a refresh token, same secret", err, auth.ErrInvalidToken)
		_, err = hs.tryRefresh(t, login.AccessToken)
		want(t, "an access token, same secret", err, auth.ErrInvalidToken)
	})
}

func TestNewestKeySignsAndOldOnesVerify(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		old := s.begun(t)
		s.advance(time.Second)
		s.addKey(t, "next")
		next := s.another(t)
		if set := keySet(t, next.keys); len(set) != 2 || set[0].KeyID != "next" {
			t.Errorf("%+v", set)
		}
		if err := next.verify(t, old.AccessToken); err != nil {
			t.Errorf("a token of the old key: %v", err)
		}
		parsed, _, err := jwt.NewParser().ParseUnverified(next.login(t).AccessToken, jwt.MapClaims{})
		if err != nil || parsed.Header["kid"] != "next" {
			t.Errorf("header %v, %v", parsed.Header, err)
		}
	})
}

func TestUnknownKeyIsLookedUpOnceInFiveSeconds(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		// From here on s may ask in five seconds, and then in five more.
		unknown := s.login(t).AccessToken
		unknown = strings.Replace(unknown, unknown[:strings.IndexByte(unknown, '.')],
			base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"made up","typ":"at+jwt"}`)), 1)
		s.advance(5 * time.Second)
		for range 3 {
			err := s.verify(t, unknown)
			want(t, "an unknown kid", err, auth.ErrInvalidToken)
		}

		s.addKey(t, "next")
		next := s.another(t).login(t)
		s.advance(5*time.Second - time.Microsecond)
		err := s.verify(t, next.AccessToken)
		want(t, "before the five seconds are over", err, auth.ErrInvalidToken)
		s.advance(time.Microsecond)
		if err := s.verify(t, next.AccessToken); err != nil {
			t.Errorf("after five seconds: %v", err)
		}
		if set := keySet(t, s.keys); len(set) != 2 {
			t.Errorf("the key set: %+v", set)
		}
	})
}

func TestUnknownKeyIsNoVerdictWithoutADatabase(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.register(t)
		s.addKey(t, "next")
		s.advance(time.Second)
		next := s.another(t).login(t)
		s.advance(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 { // the second time without having asked again
			_, err := s.sessions.Verify(ctx, auth.VerifyRequest{Token: next.AccessToken})
			want(t, "without a database", err, auth.ErrUnavailable)
		}
		s.advance(5 * time.Second)
		want(t, "when it is back", s.verify(t, next.AccessToken), nil)
	})
}

func TestUnknownKeysAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, testdb.Postgres(t), secret.Generate(), &clock{})
	s.register(t)
	s.advance(5 * time.Second)
	s.addKey(t, "next")
	next := s.another(t).login(t)
	errs := atOnce(20, func(int) error { return s.verify(t, next.AccessToken) })
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
