package password_test

import (
	"context"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"

	"github.com/zyotra/auth/internal/password"
)

func b64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// unhex is what a document writes in hexadecimal, as it stands in a stored string.
func unhex(t *testing.T, text string) string {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b64(b)
}

// Strings that are not from the libraries that we compare with: from the documents and the
// programs that define the formats.
func TestKnownAnswersVerifyAndAreStale(t *testing.T) {
	h := newHasher(t)
	rfc7914 := unhex(t, "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887")
	for _, tt := range []struct{ from, password, stored string }{
		{"the reference implementation of Argon2, src/test.c", "password",
			"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"},
		{"the same", "password",
			"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"},
		{"the same", "password",
			"$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"},
		{"RFC 7914 §12", "pleaseletmein",
			"$scrypt$ln=14,r=8,p=1$" + b64([]byte("SodiumChloride")) + "$" + rfc7914},
		{"passlib's documentation", "password",
			"$pbkdf2-sha256$6400$0ZrzXitFSGltTQnBWOsdAw$Y11AchqV4b0sUisdZd0Xr97KWoymNE0LNNrnEgY4H9M"},
		{"passlib's documentation", "password",
			"$pbkdf2-sha256$8000$XAuBMIYQQogxRg$tRRlz8hYn63B9LYiCd6PRo6FMiunY9ozmMMI3srxeRE"},
		{"the README of @phc/format", "password",
			"$pbkdf2-sha256$i=6400$0ZrzXitFSGltTQnBWOsdAw$Y11AchqV4b0sUisdZd0Xr97KWoymNE0LNNrnEgY4H9M"},
		{"Authelia's documentation", "insecure_secret",
			"$pbkdf2-sha512$310000$c8p78n7pUMln0jzvd4aK4Q$JNRBzwAo0ek5qKn50cFzzvE9RXV88h1wJn5KGiHrD0YKtZaR/nCb2CJPOsKaPK0hjf.9yHxzQGZziziccp6Yng"},
	} {
		if err := password.CheckStored(tt.stored); err != nil {
			t.Errorf("%s: %v", tt.from, err)
		}
		if got := compare(t, h, tt.stored, tt.password); got != (password.Result{Match: true, Stale: true}) {
			t.Errorf("%s: %s: %+v", tt.from, tt.stored, got)
		}
		if got := compare(t, h, tt.stored, tt.password+"x"); got != (password.Result{}) {
			t.Errorf("%s: another password: %+v", tt.from, got)
		}
	}
}

var salt = []byte("0123456789abcdef")

// made are strings of every format that the libraries make of a password.
func made(t testing.TB, pw string) map[string]string {
	t.Helper()
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sha2 := must(pbkdf2.Key(sha256.New, pw, salt, 1000, 32))
	sha5 := must(pbkdf2.Key(sha512.New, pw, salt, 1000, 64))
	dots := func(b []byte) string { return strings.ReplaceAll(b64(b), "+", ".") }
	return map[string]string{
		"bcrypt":             string(must(bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost))),
		"argon2id":           "$argon2id$v=19$m=64,t=1,p=2$" + b64(salt) + "$" + b64(argon2.IDKey([]byte(pw), salt, 1, 64, 2, 32)),
		"scrypt":             "$scrypt$ln=10,r=2,p=3$" + b64(salt) + "$" + b64(must(scrypt.Key([]byte(pw), salt, 1024, 2, 3, 24))),
		"PBKDF2":             "$pbkdf2-sha256$i=1000$" + b64(salt) + "$" + b64(sha2),
		"PBKDF2, length":     "$pbkdf2-sha256$i=1000,l=32$" + b64(salt) + "$" + b64(sha2),
		"PBKDF2 512":         "$pbkdf2-sha512$i=1000$" + b64(salt) + "$" + b64(sha5),
		"PBKDF2 512, length": "$pbkdf2-sha512$i=1000,l=64$" + b64(salt) + "$" + b64(sha5),
		"passlib":            "$pbkdf2-sha256$1000$" + dots(salt) + "$" + dots(sha2),
		"passlib 512":        "$pbkdf2-sha512$1000$" + dots(salt) + "$" + dots(sha5),
	}
}

// What others stored was made of the bytes that were typed, without normalisation.
func TestOtherSchemesTakeThePasswordAsItIs(t *testing.T) {
	h := newHasher(t)
	for name, stored := range made(t, "Zoë's password") {
		if got := compare(t, h, stored, "Zoë's password"); got != (password.Result{Match: true, Stale: true}) {
			t.Errorf("%s: %+v", name, got)
		}
		for _, wrong := range []string{"Zoe\u0308's password", "zoë's password", "Zoë's password ", "Zoë's password\x00", ""} {
			if compare(t, h, stored, wrong).Match {
				t.Errorf("%s: %q matches", name, wrong)
			}
		}
	}
}

func TestEveryByteCountsForOtherSchemes(t *testing.T) {
	h := newHasher(t)
	long := strings.Repeat("a", 200)
	for name, stored := range made(t, long[:72]) {
		if compare(t, h, stored, long).Match {
			t.Errorf("%s: what follows is passed over", name)
		}
	}
}

func TestStringsHaveOneSpellingAndBoundedCost(t *testing.T) {
	h := newHasher(t)
	const s8, s16, s64 = "MDEyMzQ1Njc", "MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg"
	tail := "$" + s8 + "$" + s16
	for _, stored := range []string{ // the dearest and the cheapest that are taken
		"$argon2id$v=19$m=131072,t=4,p=1" + tail, "$argon2id$v=19$m=52428,t=10,p=16" + tail, "$argon2id$v=19$m=8,t=1,p=1" + tail,
		"$scrypt$ln=17,r=8,p=2" + tail, "$scrypt$ln=20,r=1,p=2" + tail, "$scrypt$ln=14,r=8,p=16" + tail, "$scrypt$ln=10,r=1,p=1" + tail,
		"$pbkdf2-sha256$i=2000000" + tail, "$pbkdf2-sha256$i=1000000$" + s8 + "$" + s64, "$pbkdf2-sha512$2000000$" + s64 + "$" + s64,
		"$pbkdf2-sha256$1000" + tail, "$pbkdf2-sha256$i=1000,l=16" + tail,
	} {
		if err := password.CheckStored(stored); err != nil {
			t.Errorf("%s: %v", stored, err)
		}
	}
	for _, stored := range []string{
		// cost
		"$argon2id$v=19$m=131073,t=1,p=1" + tail, "$argon2id$v=19$m=131072,t=5,p=1" + tail, "$argon2id$v=19$m=1024,t=11,p=1" + tail,
		"$argon2id$v=19$m=1024,t=1,p=17" + tail, "$argon2id$v=19$m=15,t=1,p=2" + tail, "$argon2id$v=19$m=64,t=0,p=1" + tail,
		"$argon2id$v=19$m=64,t=1,p=0" + tail, "$argon2id$v=19$m=64,t=1,p=256" + tail, "$argon2id$v=19$m=4294967360,t=1,p=1" + tail,
		"$scrypt$ln=9,r=8,p=1" + tail, "$scrypt$ln=18,r=8,p=1" + tail, "$scrypt$ln=17,r=8,p=3" + tail, "$scrypt$ln=14,r=8,p=17" + tail,
		"$scrypt$ln=21,r=1,p=1" + tail, "$scrypt$ln=64,r=1,p=1" + tail, "$scrypt$ln=14,r=0,p=1" + tail, "$scrypt$ln=10,r=1073741824,p=1" + tail,
		"$pbkdf2-sha256$i=2000001" + tail, "$pbkdf2-sha256$i=1000001$" + s8 + "$" + s64, "$pbkdf2-sha512$2000001" + tail,
		"$pbkdf2-sha256$i=999" + tail, "$pbkdf2-sha256$999" + tail, "$pbkdf2-sha256$i=99999999999999999999" + tail,
		// parameters
		"$argon2id$m=64,t=1,p=1" + tail, "$argon2id$v=16$m=64,t=1,p=1" + tail, "$argon2id$v=19$m=64,p=1,t=1" + tail, "$argon2id$v=19$m=64,t=1" + tail,
		"$argon2id$v=19$m=64,t=1,p=1,keyid=x" + tail, "$argon2id$v=19$m=064,t=1,p=1" + tail, "$argon2id$v=19$m=+64,t=1,p=1" + tail,
		"$argon2id$v=19$m=6_4,t=1,p=1" + tail, "$argon2id$v=19$m=0x40,t=1,p=1" + tail, "$argon2id$v=19$m= 64,t=1,p=1" + tail, "$argon2id$v=19$m=,t=1,p=1" + tail,
		"$argon2id$v=19$M=64,t=1,p=1" + tail, "$argon2i$v=19$m=64,t=1,p=1" + tail, "$argon2d$v=19$m=64,t=1,p=1" + tail, "$Argon2id$v=19$m=64,t=1,p=1" + tail,
		"$scrypt$ln=10,p=1,r=8" + tail, "$scrypt$N=1024,r=8,p=1" + tail, "$scrypt$v=1$ln=10,r=8,p=1" + tail, "$scrypt$1024$8$1" + tail,
		"$pbkdf2$i=1000" + tail, "$pbkdf2-sha1$i=1000" + tail, "$pbkdf2-sha256$i=1000," + tail, "$pbkdf2-sha256$i=1000,l=32" + tail,
		"$pbkdf2-sha256$i=1000,l=016" + tail, "$pbkdf2-sha256$1000,l=16" + tail, "$pbkdf2-sha256$l=16,i=1000" + tail, "$pbkdf2-sha256$01000" + tail, "$pbkdf2-sha256$-1000" + tail,
		"$pbkdf2-sha256$i=i=1000" + tail,
		// salt and key
		"$pbkdf2-sha256$i=1000$MDEyMzQ1Ng$" + s16, "$pbkdf2-sha256$i=1000$$" + s16, "$pbkdf2-sha256$i=1000$" + s64 + "MDEy$" + s16,
		"$pbkdf2-sha256$i=1000$" + s8 + "$MDEyMzQ1Njc4OWFiY2Rl", "$pbkdf2-sha256$i=1000$" + s8 + "$" + s64 + "MDEy", "$pbkdf2-sha256$i=1000$" + s8 + "$",
		"$pbkdf2-sha256$i=1000$" + s8 + "=$" + s16, "$pbkdf2-sha256$i=1000" + tail + "==", "$pbkdf2-sha256$i=1000$MDEyMzQ1Njd$" + s16, // unused bits
		"$pbkdf2-sha256$i=1000$MDEyMzQ1Nj\n$" + s16, "$pbkdf2-sha256$i=1000$MDEy\nMzQ1Njc$" + s16, "$pbkdf2-sha256$i=1000" + tail + "\n", "$pbkdf2-sha256$i=1000" + tail + "\r",
		"$pbkdf2-sha256$i=1000$MDEyMzQ1.jc$" + s16, "$pbkdf2-sha256$1000$MDEyMzQ1+jc$" + s16, "$pbkdf2-sha256$i=1000$MDEyMzQ1_jc$" + s16,
		// the whole
		"$", "$$$$$", "$argon2id", "$argon2id$v=19$m=64,t=1,p=1$" + s8, "argon2id$v=19$m=64,t=1,p=1" + tail, " $scrypt$ln=10,r=8,p=1" + tail,
		"$argon2id$v=19$m=64,t=1,p=1" + tail + "$", "$scrypt$ln=10,r=8,p=1" + tail + "$x$y$z", "x$scrypt$ln=10,r=8,p=1" + tail,
	} {
		if err := password.CheckStored(stored); !errors.Is(err, password.ErrStored) {
			t.Errorf("%q: %v", stored, err)
		}
		if _, err := h.Compare(t.Context(), stored, "a password"); !errors.Is(err, password.ErrStored) {
			t.Errorf("compare with %q: %v", stored, err)
		}
	}
}

// spelling is how the formats may be written, said once more and in another way.
var spelling = regexp.MustCompile(`^\$(?:` +
	`2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}|` +
	`argon2id\$v=19\$m=([1-9]\d*),t=([1-9]\d*),p=([1-9]\d*)\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}|` +
	`scrypt\$ln=([1-9]\d*),r=([1-9]\d*),p=([1-9]\d*)\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}|` +
	`pbkdf2-sha(?:256|512)\$(?:i=([1-9]\d*)(?:,l=[1-9]\d)?\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}|` +
	`([1-9]\d*)\$[A-Za-z0-9./]{11,86}\$[A-Za-z0-9./]{22,86})` +
	`)$`)

// costs are the memory, in KiB, that is written for a stored string, and how often something is
// hashed; 0 where that does not apply.
func costs(stored string) (memory, hashes int, ok bool) {
	found := spelling.FindStringSubmatch(stored)
	if found == nil {
		return 0, 0, false
	}
	n := make([]int, len(found))
	for i, text := range found[1:] {
		n[i+1], _ = strconv.Atoi(text) // what is not there is 0
	}
	switch {
	case n[1] > 0:
		return 0, 50 << n[1], true // a round of bcrypt is some 50 of the others
	case n[2] > 0:
		return n[2] * n[3], 0, true
	case n[5] > 0:
		return n[6] * (1 << n[5]) * n[7] / 8, 0, true
	}
	return 0, n[8] + n[9], true
}

// Whatever is stored, Compare ends with a mismatch or ErrStored after a bounded time. What is
// taken at an import is written as documented and understood later. Strings that cost much are
// only read here.
func FuzzStored(f *testing.F) {
	h := newHasher(f)
	const pw = "correct horse"
	good, err := h.Hash(context.Background(), pw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, pw)
	f.Add(strings.Replace(good, "$04$", "$31$", 1), pw)
	f.Add("$2a$04$7EqJtq98hPqEX7fNZaFWoOhi5lUOIf7i2h3nI0VHnXJ5V7Ff1mZ1y", pw)
	f.Add("$bcrypt-hmac-sha256$$", pw)
	for _, stored := range made(f, pw) {
		f.Add(stored, pw)
		f.Add(stored, "wrong password")
	}
	f.Fuzz(func(t *testing.T, stored, pw string) {
		taken := password.CheckStored(stored) == nil
		memory, hashes, written := costs(stored)
		if taken && (!written || memory > 512<<10 || hashes > 2_000_000) {
			t.Fatalf("%q is taken", stored)
		}
		if memory > 1024 || hashes > 4096 || strings.HasPrefix(stored, "$bcrypt") && !strings.Contains(stored, "$04$") {
			return // real work: too slow to fuzz
		}
		r, err := h.Compare(context.Background(), stored, pw)
		if err != nil && (taken || !errors.Is(err, password.ErrStored)) {
			t.Fatalf("%q: %v", stored, err)
		}
		if r.Stale && !r.Match || r.Match && err != nil || r.Match && !taken && !strings.HasPrefix(stored, "$bcrypt-hmac-sha256$") {
			t.Fatalf("%q: %+v, %v", stored, r, err)
		}
	})
}
