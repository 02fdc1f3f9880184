package token_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/token"
)

var (
	now    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	issuer = token.Issuer{Name: "https://auth.example", Audience: "zyotra"}
	access = token.Access{
		ID: "j1", UserID: 42, SessionID: "s1", Scopes: []string{}, AMR: []string{"pwd"},
		AuthTime: now.Add(-time.Hour), IssuedAt: now, ExpiresAt: now.Add(15 * time.Minute),
	}
	refresh = token.Refresh{UserID: 42, SessionID: "s1", Generation: 3, IssuedAt: now, ExpiresAt: now.Add(time.Hour)}
	edKey   = newKey("k1", 1)
	hmacKey = token.Key{Secret: []byte("0123456789abcdefghijklmnopqrstuv")}
)

func newKey(id string, seed byte) token.Key {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(seed)), 32)))
	return token.Key{ID: id, Private: private, Public: private.Public().(ed25519.PublicKey)}
}

// keys finds a key by its id, as the service does.
func keys(set ...token.Key) token.Find {
	return func(kid string) ([]token.Key, error) {
		for _, k := range set {
			if k.ID == kid {
				return []token.Key{k}, nil
			}
		}
		return nil, nil
	}
}

func sign(t testing.TB, k token.Key, a token.Access) string {
	t.Helper()
	text, err := issuer.Sign(k, a)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func signRefresh(t testing.TB, k token.Key, r token.Refresh) string {
	t.Helper()
	text, err := token.SignRefresh(k, r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forge signs any header and claims with the service's own keys.
func forge(k token.Key, header, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	var signature []byte
	if k.Secret != nil {
		mac := hmac.New(sha256.New, k.Secret)
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	} else {
		signature = ed25519.Sign(k.Private, []byte(text))
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

const (
	goodHeader = `{"alg":"EdDSA","kid":"k1","typ":"at+jwt"}`
	goodClaims = `{"iss":"https://auth.example","aud":"zyotra","sub":"42","iat":1767323045,"nbf":1767323045,"exp":1767323945,"jti":"j1","sid":"s1","userId":"42","scope":"","amr":["pwd"],"auth_time":1767319445}`
)

func TestAccessRoundTrip(t *testing.T) {
	for name, k := range map[string]token.Key{"EdDSA": edKey, "HS256": hmacKey} {
		got, err := issuer.Read(sign(t, k, access), keys(k), now)
		if err != nil || !reflect.DeepEqual(got, access) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAccessOnTheWire(t *testing.T) {
	if got, want := sign(t, edKey, access), forge(edKey, goodHeader, goodClaims); got != want {
		t.Errorf("token\n%s\nwant\n%s", got, want)
	}
}

func TestAccessTimes(t *testing.T) {
	text := sign(t, edKey, access)
	for _, tt := range []struct {
		name string
		now  time.Time
		want error
	}{
		{"a second before exp", access.ExpiresAt.Add(-time.Second), nil},
		{"at exp", access.ExpiresAt, auth.ErrTokenExpired},
		{"issued by a clock a minute ahead", now.Add(-time.Minute), nil},
		{"issued by a clock further ahead", now.Add(-time.Minute - time.Second), auth.ErrInvalidToken},
	} {
		if _, err := issuer.Read(text, keys(edKey), tt.now); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestAccessRefusesHeaders(t *testing.T) {
	public := token.Key{ID: "k1", Secret: edKey.Public} // the classic confusion of algorithms
	for name, text := range map[string]string{
		"alg none":              forge(edKey, `{"alg":"none","kid":"k1","typ":"at+jwt"}`, goodClaims),
		"alg NoNe, no sig":      strings.TrimRight(forge(edKey, `{"alg":"NoNe","kid":"k1","typ":"at+jwt"}`, goodClaims), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
		"alg of another key":    forge(edKey, `{"alg":"HS256","kid":"k1","typ":"at+jwt"}`, goodClaims),
		"public key as secret":  forge(public, `{"alg":"HS256","kid":"k1","typ":"at+jwt"}`, goodClaims),
		"alg in lower case":     forge(edKey, `{"alg":"eddsa","kid":"k1","typ":"at+jwt"}`, goodClaims),
		"no alg":                forge(edKey, `{"kid":"k1","typ":"at+jwt"}`, goodClaims),
		"typ JWT":               forge(edKey, `{"alg":"EdDSA","kid":"k1","typ":"JWT"}`, goodClaims),
		"typ of refresh tokens": forge(edKey, `{"alg":"EdDSA","kid":"k1","typ":"rt+jwt"}`, goodClaims),
		"no typ":                forge(edKey, `{"alg":"EdDSA","kid":"k1"}`, goodClaims),
		"unknown kid":           forge(edKey, `{"alg":"EdDSA","kid":"k2","typ":"at+jwt"}`, goodClaims),
		"no kid":                forge(edKey, `{"alg":"EdDSA","typ":"at+jwt"}`, goodClaims),
		"crit":                  forge(edKey, `{"alg":"EdDSA","kid":"k1","typ":"at+jwt","crit":["exp"]}`, goodClaims),
		"jwk":                   forge(edKey, `{"alg":"EdDSA","kid":"k1","typ":"at+jwt","jwk":{}}`, goodClaims),
		"jku":                   forge(edKey, `{"alg":"EdDSA","kid":"k1","typ":"at+jwt","jku":"https://evil.example"}`, goodClaims),
		"alg twice":             forge(edKey, `{"alg":"none","alg":"EdDSA","kid":"k1","typ":"at+jwt"}`, goodClaims),
		"alg in two cases":      forge(edKey, `{"Alg":"none","alg":"EdDSA","kid":"k1","typ":"at+jwt"}`, goodClaims),
	} {
		if got, err := issuer.Read(text, keys(edKey), now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAccessRefusesClaims(t *testing.T) {
	swap := func(old, new string) string {
		if !strings.Contains(goodClaims, old) {
			t.Fatalf("no %s to replace", old)
		}
		return forge(edKey, goodHeader, strings.Replace(goodClaims, old, new, 1))
	}
	for name, text := range map[string]string{
		"no iss":             swap(`"iss":"https://auth.example",`, ``),
		"another iss":        swap(`https://auth.example`, `https://auth.example/`),
		"no aud":             swap(`"aud":"zyotra",`, ``),
		"another aud":        swap(`"aud":"zyotra"`, `"aud":"zyotra2"`),
		"no sub":             swap(`"sub":"42",`, ``),
		"sub with a zero":    swap(`"sub":"42"`, `"sub":"042"`),
		"sub is not userId":  swap(`"sub":"42"`, `"sub":"43"`),
		"sub and userId 0":   forge(edKey, goodHeader, strings.ReplaceAll(goodClaims, `"42"`, `"0"`)),
		"negative sub":       forge(edKey, goodHeader, strings.ReplaceAll(goodClaims, `"42"`, `"-42"`)),
		"no iat":             swap(`"iat":1767323045,`, ``),
		"no exp":             swap(`"exp":1767323945,`, ``),
		"no jti":             swap(`"jti":"j1",`, ``),
		"no sid":             swap(`"sid":"s1",`, ``),
		"no nbf":             swap(`"nbf":1767323045,`, ``),
		"nbf in the future":  swap(`"nbf":1767323045`, `"nbf":1767323106`),
		"iat in the future":  swap(`"iat":1767323045`, `"iat":1767323106`),
		"exp a year ahead":   swap(`"exp":1767323945`, `"exp":1798859045`),
		"exp after a day":    swap(`"exp":1767323945`, `"exp":1767409446`),
		"exp at iat":         swap(`"iat":1767323045,"nbf":1767323045,"exp":1767323945`, `"iat":1767323050,"nbf":1767323045,"exp":1767323050`),
		"exp before iat":     swap(`"iat":1767323045,"nbf":1767323045,"exp":1767323945`, `"iat":1767323100,"nbf":1767323045,"exp":1767323099`),
		"no amr":             swap(`"amr":["pwd"],`, ``),
		"amr is empty":       swap(`"amr":["pwd"]`, `"amr":[]`),
		"no auth_time":       swap(`,"auth_time":1767319445`, ``),
		"exp in words":       swap(`"exp":1767323945`, `"exp":"1767323945"`),
		"exp with fractions": swap(`"exp":1767323945`, `"exp":1767323945.5`),
		"exp twice":          swap(`"exp":1767323945`, `"exp":1,"exp":1767323945`),
		"exp is null":        swap(`"exp":1767323945`, `"exp":null`),
		"no object":          forge(edKey, goodHeader, `[]`),
	} {
		if got, err := issuer.Read(text, keys(edKey), now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAccessMayLiveForADay(t *testing.T) {
	a := access
	a.ExpiresAt = a.IssuedAt.Add(token.MaxLifetime)
	if got, err := issuer.Read(sign(t, edKey, a), keys(edKey), now); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAccessAllowsNewerClaims(t *testing.T) {
	text := forge(edKey, goodHeader, strings.Replace(goodClaims, `{`, `{"newer":null,`, 1))
	if _, err := issuer.Read(text, keys(edKey), now); err != nil {
		t.Error(err)
	}
}

func TestOneSpelling(t *testing.T) {
	good := sign(t, edKey, access)
	last := good[len(good)-1]
	for name, text := range map[string]string{
		"empty":              "",
		"padding":            good + "==",
		"a line break":       good[:10] + "\n" + good[10:],
		"a carriage return":  good + "\r",
		"a space":            " " + good,
		"unused bits":        good[:len(good)-1] + string(last+1),
		"four parts":         good + ".",
		"four full parts":    good + ".AAAA",
		"two parts":          good[:strings.LastIndexByte(good, '.')],
		"empty signature":    good[:strings.LastIndexByte(good, '.')+1],
		"another signature":  good[:len(good)-20] + strings.Repeat("A", 20),
		"standard alphabet":  strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+",
		"too long":           strings.Repeat("A", token.MaxBytes) + good,
		"Bearer in front":    "Bearer " + good,
		"JSON serialization": `{"payload":"e30","protected":"e30","signature":"AA"}`,
	} {
		if got, err := issuer.Read(text, keys(edKey), now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// A token of MaxBytes is valid, and one that is longer is not, whoever signed it.
func TestLongestToken(t *testing.T) {
	padded := func(n int) string {
		return forge(edKey, goodHeader+" ", strings.Replace(goodClaims, `{`, `{"newer":"`+strings.Repeat("x", n)+`",`, 1))
	}
	n := sort.Search(token.MaxBytes, func(n int) bool { return len(padded(n)) >= token.MaxBytes })
	longest, tooLong := padded(n), padded(n+1)
	if len(longest) != token.MaxBytes || len(tooLong) <= token.MaxBytes {
		t.Fatalf("the tokens have %d and %d bytes", len(longest), len(tooLong))
	}
	if _, err := issuer.Read(longest, keys(edKey), now); err != nil {
		t.Errorf("%d bytes: %v", len(longest), err)
	}
	if _, err := issuer.Read(tooLong, keys(edKey), now); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("%d bytes: %v", len(tooLong), err)
	}
}

func TestKeysThatCannotBeLookedUpAreNoVerdict(t *testing.T) {
	away := func(string) ([]token.Key, error) { return nil, auth.ErrUnavailable }
	if _, err := issuer.Read(sign(t, edKey, access), away, now); !errors.Is(err, auth.ErrUnavailable) {
		t.Error(err)
	}
}

func TestKindsAreNotMixed(t *testing.T) {
	at, rt := sign(t, hmacKey, access), signRefresh(t, hmacKey, refresh)
	if _, err := issuer.Read(rt, keys(hmacKey), now); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("a refresh token as access token: %v", err)
	}
	if _, err := token.ReadRefresh(at, []token.Key{hmacKey}, now); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("an access token as refresh token: %v", err)
	}
}

func TestAnIssuerWithoutNameAcceptsNothing(t *testing.T) {
	for _, i := range []token.Issuer{{}, {Name: issuer.Name}, {Audience: issuer.Audience}} {
		text, err := i.Sign(edKey, access)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Read(text, keys(edKey), now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%+v: %v", i, err)
		}
	}
}

func TestRefreshMayBeFromAClockThatWasAhead(t *testing.T) {
	text := signRefresh(t, hmacKey, refresh)
	if got, err := token.ReadRefresh(text, []token.Key{hmacKey}, now.Add(-30*24*time.Hour)); err != nil || got != refresh {
		t.Errorf("%+v, %v", got, err)
	}
	none := forge(hmacKey, `{"alg":"HS256","typ":"rt+jwt"}`, `{"sub":"42","exp":1767326645,"jti":"s1.3","sid":"s1","gen":3}`)
	if got, err := token.ReadRefresh(none, []token.Key{hmacKey}, now); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("no iat: %+v, %v", got, err)
	}
}

func TestRefreshRoundTrip(t *testing.T) {
	text := signRefresh(t, hmacKey, refresh)
	if header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"rt+jwt"}`)); !strings.HasPrefix(text, header+".") {
		t.Errorf("%s has another header than %s", text, header)
	}
	if again := signRefresh(t, hmacKey, refresh); again != text {
		t.Error("the same generation gives two tokens")
	}
	other := token.Key{Secret: []byte("abcdefghijklmnopqrstuv0123456789")}
	got, err := token.ReadRefresh(text, []token.Key{other, hmacKey}, now)
	if err != nil || got != refresh {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := token.ReadRefresh(text, []token.Key{other}, now); !errors.Is(err, auth.ErrInvalidToken) {
		t.Errorf("with another secret: %v", err)
	}
	if _, err := token.ReadRefresh(text, []token.Key{hmacKey}, refresh.ExpiresAt); !errors.Is(err, auth.ErrTokenExpired) {
		t.Errorf("at exp: %v", err)
	}
	if got, err := token.ReadRefreshToEnd(text, []token.Key{hmacKey}); err != nil || got != refresh {
		t.Errorf("to end its session: %+v, %v", got, err)
	}
}

// The secrets of refresh tokens have no kid. A token that names one was not made by this service.
func TestRefreshRefusesAKid(t *testing.T) {
	claims := `{"sub":"42","iat":1767323045,"exp":1767326645,"jti":"s1.3","sid":"s1","gen":3}`
	good := forge(hmacKey, `{"alg":"HS256","typ":"rt+jwt"}`, claims)
	if got, err := token.ReadRefresh(good, []token.Key{hmacKey}, now); err != nil || got != refresh {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, kid := range []string{"k1", " ", "0"} {
		text := forge(hmacKey, `{"alg":"HS256","kid":"`+kid+`","typ":"rt+jwt"}`, claims)
		if got, err := token.ReadRefresh(text, []token.Key{hmacKey}, now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("kid %q: %+v, %v", kid, got, err)
		}
		if got, err := token.ReadRefreshToEnd(text, []token.Key{hmacKey}); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("kid %q, to end its session: %+v, %v", kid, got, err)
		}
	}
}

func TestRefreshRefusesClaims(t *testing.T) {
	const claims = `{"sub":"42","iat":1767323045,"exp":1767326645,"jti":"s1.3","sid":"s1","gen":3}`
	for _, c := range []struct{ old, new string }{
		{`"sub":"42",`, ``}, {`"42"`, `"0"`}, {`"42"`, `"-42"`}, {`"42"`, `"x"`}, {`"42"`, `"9223372036854775808"`},
		{`"sid":"s1",`, ``}, {`"sid":"s1"`, `"sid":""`},
		{`,"gen":3`, ``}, {`"gen":3`, `"gen":0`}, {`"gen":3`, `"gen":-3`}, {`"gen":3`, `"gen":3.5`},
		{`"gen":3`, `"gen":2,"gen":3`}, {claims, `[]`}, {claims, ``},
	} {
		text := forge(hmacKey, `{"alg":"HS256","typ":"rt+jwt"}`, strings.Replace(claims, c.old, c.new, 1))
		if got, err := token.ReadRefresh(text, []token.Key{hmacKey}, now); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s for %s: %+v, %v", c.new, c.old, got, err)
		}
		if got, err := token.ReadRefreshToEnd(text, []token.Key{hmacKey}); !errors.Is(err, auth.ErrInvalidToken) {
			t.Errorf("%s for %s, to end its session: %+v, %v", c.new, c.old, got, err)
		}
	}
}

// A rejected token yields nothing; an accepted one is byte for byte what we would issue.
func FuzzRead(f *testing.F) {
	f.Add(sign(f, edKey, access))
	f.Add(sign(f, hmacKey, access))
	f.Add(signRefresh(f, hmacKey, refresh))
	f.Add(forge(edKey, `{"alg":"none","kid":"k1","typ":"at+jwt"}`, goodClaims))
	f.Fuzz(func(t *testing.T, text string) {
		for _, k := range []token.Key{edKey, hmacKey} {
			a, err := issuer.Read(text, keys(k), now)
			switch {
			case err != nil && !reflect.DeepEqual(a, token.Access{}):
				t.Fatalf("%q: %+v with %v", text, a, err)
			case err == nil && sign(t, k, a) != text:
				t.Fatalf("%q is accepted as %+v", text, a)
			}
		}
		r, err := token.ReadRefresh(text, []token.Key{hmacKey}, now)
		switch {
		case err != nil && r != token.Refresh{}:
			t.Fatalf("%q: %+v with %v", text, r, err)
		case err == nil && signRefresh(t, hmacKey, r) != text:
			t.Fatalf("%q is accepted as %+v", text, r)
		}
	})
}
