package main

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"

	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// onEachDatabase runs f with the flags of an empty database: those of serve, and those of the
// commands beside it.
func onEachDatabase(t *testing.T, f func(t *testing.T, serve, beside []string)) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		path := []string{"--data-dir=" + filepath.Join(t.TempDir(), "data")}
		f(t, path, path)
	})
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		url := testpg.URL(t)
		f(t, withPostgres(url), []string{"--database-url=" + url})
	})
}

// openBeside opens the database of the flags that onEachDatabase gives.
func openBeside(t *testing.T, beside []string) *persistence.Store {
	t.Helper()
	url, postgres := strings.CutPrefix(beside[0], "--database-url=")
	if !postgres {
		url = "sqlite://" + strings.TrimPrefix(beside[0], "--data-dir=") + "/authd.db"
	}
	s, err := persistence.Open(t.Context(), url)
	check(t, err)
	return s
}

// storedPassword is what is stored for an address.
func storedPassword(t *testing.T, beside []string, address string) string {
	t.Helper()
	s := openBeside(t, beside)
	defer s.Close()
	user, err := s.Credentials(t.Context(), address)
	check(t, err)
	return user.Password
}

// foreign are stored strings of a password, made by the libraries for each scheme, at low cost.
func foreign(t *testing.T, pw string) map[string]string {
	t.Helper()
	salt := []byte("0123456789abcdef")
	must := func(b []byte, err error) []byte {
		t.Helper()
		check(t, err)
		return b
	}
	b64 := base64.RawStdEncoding.EncodeToString
	ab64 := func(b []byte) string { return strings.ReplaceAll(b64(b), "+", ".") }
	plain := string(must(bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost)))
	sha2, sha5 := must(pbkdf2.Key(sha256.New, pw, salt, 1000, 32)), must(pbkdf2.Key(sha512.New, pw, salt, 1000, 64))
	return map[string]string{
		"2a":         plain,
		"2b":         strings.Replace(plain, "$2a$", "$2b$", 1),
		"2y":         strings.Replace(plain, "$2a$", "$2y$", 1),
		"argon2id":   "$argon2id$v=19$m=64,t=1,p=2$" + b64(salt) + "$" + b64(argon2.IDKey([]byte(pw), salt, 1, 64, 2, 32)),
		"scrypt":     "$scrypt$ln=10,r=8,p=1$" + b64(salt) + "$" + b64(must(scrypt.Key([]byte(pw), salt, 1024, 8, 1, 32))),
		"pbkdf2-256": "$pbkdf2-sha256$i=1000$" + b64(salt) + "$" + b64(sha2),
		"pbkdf2-512": "$pbkdf2-sha512$i=1000,l=64$" + b64(salt) + "$" + b64(sha5),
		"passlib":    "$pbkdf2-sha256$1000$" + ab64(salt) + "$" + ab64(sha2),
	}
}

// People whose passwords were stored by any of the schemes log in as before, and have ours
// from then on.
func TestImportedPasswordsOfEverySchemeLogIn(t *testing.T) {
	onEachDatabase(t, func(t *testing.T, serve, beside []string) {
		const pw = "Zoë's old password"
		a := startInside(t, serve...)
		var lines strings.Builder
		schemes := foreign(t, pw)
		for name, stored := range schemes {
			fmt.Fprintf(&lines, "{\"email\":\"%s@example.com\",\"password\":%q}\n", name, stored)
		}
		bomb := strings.Replace(schemes["argon2id"], "m=64", "m=4194304", 1)
		fmt.Fprintf(&lines, "{\"email\":\"bomb@example.com\",\"password\":%q}\n", bomb)
		file := filepath.Join(t.TempDir(), "users.jsonl")
		check(t, os.WriteFile(file, []byte(lines.String()), 0o600))
		out, _ := imports(t, exitFailed, append(beside, "--from="+file)...)
		says(t, out, "unusable_password: 1\n", fmt.Sprintf("imported %d,", len(schemes)))

		login := func(name, pw string) exchange {
			return a.post(t, "/login", fmt.Sprintf(`{"email":"%s@example.com","password":%q}`, name, pw))
		}
		login("bomb", pw).refused(t, 401, "invalid_credentials", "")
		for name, before := range schemes {
			login(name, pw+"!").refused(t, 401, "invalid_credentials", "")
			if storedPassword(t, beside, name+"@example.com") != before {
				t.Errorf("%s: a wrong password rewrote it", name)
			}
			if e := login(name, pw); e.Answer.Status != 200 {
				t.Errorf("%s: %d %s", name, e.Answer.Status, e.Answer.Body)
			}
			after := storedPassword(t, beside, name+"@example.com")
			if !strings.HasPrefix(after, "$bcrypt-hmac-sha256$") {
				t.Errorf("%s: %q is stored", name, after)
			}
			login(name, pw+"!").refused(t, 401, "invalid_credentials", "")
			if e := login(name, pw); e.Answer.Status != 200 || storedPassword(t, beside, name+"@example.com") != after {
				t.Errorf("%s: the second login: %d %s", name, e.Answer.Status, e.Answer.Body)
			}
		}
	})
}

func TestARaisedCostTakesEffectAtTheNextLogin(t *testing.T) {
	onEachDatabase(t, func(t *testing.T, serve, beside []string) {
		cost := func(want string) {
			t.Helper()
			if stored := storedPassword(t, beside, "ada@example.com"); !strings.Contains(stored, "$2a$"+want+"$") {
				t.Errorf("%q is stored, want cost %s", stored, want)
			}
		}
		a := startInside(t, append(serve, "--bcrypt-cost=10")...)
		a.post(t, "/register", credentials)
		a.post(t, "/login", credentials)
		cost("10")
		a.stop(t)
		a = startInside(t, append(serve, "--bcrypt-cost=11")...)
		a.post(t, "/login", strings.Replace(credentials, "horse", "hoarse", 1)).refused(t, 401, "invalid_credentials", "")
		cost("10")
		a.post(t, "/login", credentials).answered(t, 200, `{"message":"Login successful","userId":1,`+tokens+`}`)
		cost("11")
	})
}

// knownPasswords is a server of the Pwned Passwords range protocol that knows one.
func knownPasswords(t *testing.T, pw string) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	sum := fmt.Sprintf("%X", sha1.Sum([]byte(pw)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if agent := r.Header.Get("User-Agent"); agent != "authd/"+version {
			t.Errorf("the agent is %q", agent)
		}
		if strings.HasSuffix(r.URL.Path, "/range/"+sum[:5]) {
			_, _ = io.WriteString(w, sum[5:]+":7\r\n")
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/range/", asked
}

// A password that others would try is refused wherever one is chosen, over either door.
func TestKnownPasswordsAreRefusedWhereverOneIsChosen(t *testing.T) {
	onEachDatabase(t, func(t *testing.T, serve, _ []string) {
		const leaked, slogan = "tomorrow never dies, or does it", "Our Slogan: sleep well"
		file := filepath.Join(t.TempDir(), "list.txt")
		check(t, os.WriteFile(file, []byte("our slogan: sleep well\r\n"), 0o600))
		url, asked := knownPasswords(t, leaked)
		a := startInside(t, append(serve, "--password-blocklist-file="+file, "--pwned-passwords-url="+url)...)
		conn := connect(t, a.nats)
		for _, pw := range []string{leaked, slogan, "football"} {
			body := fmt.Sprintf(`{"email":"ada@example.com","password":%q}`, pw)
			a.post(t, "/register", body).refused(t, 422, "validation_failed", `[{"field":"password","reason":"too_common"}]`)
			ask(t, conn, "auth.register", nil, body).refused(t, 422, "validation_failed", `[{"field":"password","reason":"too_common"}]`)
		}
		a.post(t, "/register", credentials).answered(t, 201, `{"message":"User registered successfully","userId":1}`)
		header := bearer(a.post(t, "/login", credentials).member(t, "accessToken"))
		for _, pw := range []string{leaked, slogan} {
			body := fmt.Sprintf(`{"currentPassword":"correct horse battery","newPassword":%q}`, pw)
			ask(t, conn, "auth.password.change", header, body).refused(t, 422, "validation_failed", `[{"field":"newPassword","reason":"too_common"}]`)
			header["Content-Type"] = []string{"application/json"}
			a.do(t, "POST /me/password", header, body).refused(t, 422, "validation_failed", `[{"field":"newPassword","reason":"too_common"}]`)
		}
		if n := asked.Load(); n != 5 { // four times of the leaked one, once of the good one
			t.Errorf("asked %d times", n)
		}
		a.quiet(t, leaked)
	})
}

// Where Pwned Passwords are away, people register, and the log says so once and tells nothing
// of their passwords.
func TestPeopleRegisterWhilePwnedPasswordsAreAway(t *testing.T) {
	t.Parallel()
	hung, asked := make(chan struct{}), atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		<-hung
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hung) })
	a := startInside(t, "--pwned-passwords-url="+server.URL)
	const pw = "correct horse battery"
	for n := range 3 {
		a.post(t, "/register", fmt.Sprintf(`{"email":"u%d@example.com","password":%q}`, n, pw)).
			answered(t, 201, fmt.Sprintf(`{"message":"User registered successfully","userId":%d}`, n+1))
	}
	log := a.stderr.String()
	if n := strings.Count(log, "pwned passwords do not answer"); n != 1 || asked.Load() != 1 {
		t.Errorf("asked %d times, logged %d times:\n%s", asked.Load(), n, log)
	}
	if prefix := fmt.Sprintf("%X", sha1.Sum([]byte(pw)))[:5]; strings.Contains(strings.ToUpper(log), prefix) {
		t.Errorf("the log tells the prefix %s:\n%s", prefix, log)
	}
	a.quiet(t, pw)
}
