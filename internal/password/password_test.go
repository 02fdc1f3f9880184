package password_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
)

// newHasher is as the service makes it, but for bcrypt's lowest cost.
func newHasher(t testing.TB, masters ...string) *password.Hasher {
	t.Helper()
	if masters == nil {
		masters = []string{secret.Generate()}
	}
	keys, err := secret.Parse(strings.Join(masters, ","))
	if err != nil {
		t.Fatal(err)
	}
	h, err := password.New(password.Peppers(keys), bcrypt.MinCost, password.MinLength, "zyotra")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func hash(t *testing.T, h *password.Hasher, pw string) string {
	t.Helper()
	stored, err := h.Hash(context.Background(), pw)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func compare(t *testing.T, h *password.Hasher, stored, pw string) password.Result {
	t.Helper()
	r, err := h.Compare(context.Background(), stored, pw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckCountsCodePoints(t *testing.T) {
	h := newHasher(t)
	for _, tt := range []struct{ name, in, reason string }{
		{"7 letters", "8346719", "too_short"},
		{"8 letters", "83467194", ""},
		{"8 emoji, 32 bytes", strings.Repeat("😀", 8), ""},
		{"7 composed letters, 14 as typed", strings.Repeat("e\u0301", 7), "too_short"},
		{"64 emoji, 256 bytes", strings.Repeat("😀", 64), ""},
		{"256", strings.Repeat("語", 256), ""},
		{"257", strings.Repeat("a", 257), "too_long"},
		{"256 that grow when normalised", strings.Repeat("\u0958", 256), "too_long"},
		{"spaces", "        ", ""},
		{"NUL", "12345678\x00", "not_unicode"},
		{"newline", "1234\n5678", "not_unicode"},
		{"C1 control", "12345678\u0085", "not_unicode"},
		{"invalid UTF-8", "12345678\xff", "not_unicode"},
		{"a lone surrogate, as bytes", "12345678\xed\xa0\x80", "not_unicode"},
	} {
		if got := h.Check(t.Context(), tt.in); got != tt.reason {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.reason)
		}
	}
}

func TestCheckRefusesWhatOthersWouldTry(t *testing.T) {
	h := newHasher(t)
	own := []string{"ada.lovelace@example.com", "ada.lovelace", "Ada Lovelace", "Al"}
	for _, tt := range []struct{ in, reason string }{
		{"password", "too_common"},
		{"PassWord", "too_common"},
		{"football", "too_common"},
		{"ada.lovelace@example.com", "contains_context"},
		{"Ada.Lovelace2026", "contains_context"},
		{"ada lovelace", "contains_context"},
		{"Zyotra-123", "contains_context"},
		{"zyotrazyotra", "contains_context"},
		{"ada.lovelace wrote the first program", ""},
		{"all about Al and Ada", ""},
		{"football, rowing", ""},
	} {
		if got := h.Check(t.Context(), tt.in, own...); got != tt.reason {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.reason)
		}
	}
}

func TestEveryByteCounts(t *testing.T) {
	h := newHasher(t)
	long := strings.Repeat("a", 72)
	stored := hash(t, h, long+"x")
	if !compare(t, h, stored, long+"x").Match {
		t.Error("the right one does not match")
	}
	for _, wrong := range []string{long, long + "y", long + "X", long + "x ", long + "x\x00", ""} {
		if compare(t, h, stored, wrong).Match {
			t.Errorf("%q matches", wrong)
		}
	}
}

func TestEquivalentSpellingsMatch(t *testing.T) {
	h := newHasher(t)
	stored := hash(t, h, "Zoe\u0308 Zoë \u212bngström")
	if !compare(t, h, stored, "Zoë Zoe\u0308 Ångstro\u0308m").Match {
		t.Error("an equivalent spelling does not match")
	}
	for _, other := range []string{"zoë Zoë Ångström", "ZoëZoë Ångström", "Ｚoë Zoë Ångström"} {
		if compare(t, h, stored, other).Match {
			t.Errorf("%q matches", other)
		}
	}
}

func TestPlainBcryptVerifiesAndIsStale(t *testing.T) {
	h := newHasher(t)
	raw, err := bcrypt.GenerateFromPassword([]byte("ancestor's password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"2a", "2b", "2y"} {
		stored := strings.Replace(string(raw), "2a", kind, 1)
		if got := compare(t, h, stored, "ancestor's password"); got != (password.Result{Match: true, Stale: true}) {
			t.Errorf("%s: %+v", kind, got)
		}
		if compare(t, h, stored, "another password").Match {
			t.Errorf("%s: another password matches", kind)
		}
	}
}

func TestPlainBcryptTakesNoMoreThanItReads(t *testing.T) {
	h := newHasher(t)
	long := strings.Repeat("a", 72)
	raw, err := bcrypt.GenerateFromPassword([]byte(long), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if !compare(t, h, string(raw), long).Match {
		t.Error("72 bytes do not match")
	}
	if compare(t, h, string(raw), long+"b").Match {
		t.Error("a 73rd byte is passed over")
	}
}

func TestStaleByCostAndPepper(t *testing.T) {
	oldMaster, newMaster := secret.Generate(), secret.Generate()
	old := newHasher(t, oldMaster)
	stored := hash(t, old, "correct horse")
	if got := compare(t, old, stored, "correct horse"); got.Stale {
		t.Error("a fresh string is stale")
	}
	rotated := newHasher(t, newMaster, oldMaster)
	if got := compare(t, rotated, stored, "correct horse"); got != (password.Result{Match: true, Stale: true}) {
		t.Errorf("old pepper: %+v", got)
	}
	old.Cost++
	if got := compare(t, old, stored, "correct horse"); got != (password.Result{Match: true, Stale: true}) {
		t.Errorf("old cost: %+v", got)
	}
	if _, err := newHasher(t, newMaster).Compare(context.Background(), stored, "correct horse"); !errors.Is(err, password.ErrStored) {
		t.Errorf("unknown pepper: %v", err)
	}
}

func TestCheckStoredTakesWellFormedBcrypt(t *testing.T) {
	raw, err := bcrypt.GenerateFromPassword([]byte("ancestor's password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	plain := string(raw)
	for _, kind := range []string{"2a", "2b", "2y"} {
		if err := password.CheckStored(strings.Replace(plain, "2a", kind, 1)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for name, stored := range map[string]string{
		"nothing":            "",
		"the password":       "ancestor's password",
		"our own":            hash(t, newHasher(t), "correct horse"),
		"another kind":       strings.Replace(plain, "2a", "2x", 1),
		"cost 3":             strings.Replace(plain, "$04$", "$03$", 1),
		"cost 16":            strings.Replace(plain, "$04$", "$16$", 1),
		"cut argon2id":       "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b0",
		"a space behind":     plain + " ",
		"cut":                plain[:59],
		"a NUL":              plain[:59] + "\x00",
		"a foreign letter":   plain[:30] + "+" + plain[31:],
		"a two-byte letter":  plain[:30] + "é" + plain[32:],
		"a newline in front": "\n" + plain[:59],
	} {
		if err := password.CheckStored(stored); !errors.Is(err, password.ErrStored) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingStoredMatchesNothing(t *testing.T) {
	h := newHasher(t)
	for _, pw := range []string{"", "password", strings.Repeat("a", 10000), "\x00"} {
		if compare(t, h, "", pw).Match {
			t.Errorf("%q matches", pw)
		}
	}
}

func TestAGoneCallerIsNotHashedFor(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h := newHasher(t)
	if _, err := h.Hash(ctx, "correct horse"); !errors.Is(err, context.Canceled) {
		t.Errorf("Hash: %v", err)
	}
	if _, err := h.Compare(ctx, "", "correct horse"); !errors.Is(err, context.Canceled) {
		t.Errorf("Compare: %v", err)
	}
}
