package requestid_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/zyotra/auth/internal/requestid"
)

func TestAnIDIsAUUIDv7(t *testing.T) {
	t.Parallel()
	seen := map[requestid.ID]bool{}
	for range 1000 {
		before := time.Now()
		made := requestid.New()
		id, err := uuid.Parse(string(made[:]))
		if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 || id.String() != string(made[:]) {
			t.Fatalf("%s: %v", made, err)
		}
		seconds, nanoseconds := id.Time().UnixTime()
		if at := time.Unix(seconds, nanoseconds); at.Before(before.Truncate(time.Millisecond)) || at.After(time.Now()) {
			t.Errorf("%s is of %s", made, at)
		}
		if seen[made] || !requestid.IsSane(string(made[:])) {
			t.Errorf("%s", made)
		}
		seen[made] = true
	}
}

func TestAnIDOfOthersIsTakenIfItIsSane(t *testing.T) {
	t.Parallel()
	for id, sane := range map[string]bool{
		"":                         false,
		"x":                        true,
		"Root_1-67891233.abcdef":   true,
		strings.Repeat("a", 64):    true,
		strings.Repeat("a", 65):    false,
		"a b":                      false,
		"a\nb":                     false,
		"\x1b[31m":                 false,
		`a"b`:                      false,
		"ada@example.com":          false,
		"é":                        false,
		"Authorization: Bearer x":  false,
		"019aa2c3-4b1c-7def-8123-": true,
	} {
		if requestid.IsSane(id) != sane {
			t.Errorf("%q: sane is %v", id, !sane)
		}
		if got := requestid.From(requestid.With(t.Context(), id)); (got == id) != sane || got == "" {
			t.Errorf("%q became %q", id, got)
		}
	}
}

func TestAContextWithoutARequestHasNoID(t *testing.T) {
	t.Parallel()
	if id := requestid.From(t.Context()); id != "" {
		t.Errorf("%q", id)
	}
	type other struct{}
	ctx := requestid.With(context.WithValue(t.Context(), other{}, 7), "")
	if first := requestid.From(ctx); first == "" || first != requestid.From(context.WithoutCancel(ctx)) || ctx.Value(other{}) != 7 {
		t.Errorf("%q", first)
	}
}

func TestMakingAnIDAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = requestid.New() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
