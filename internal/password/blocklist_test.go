package password_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
	"github.com/trustelem/zxcvbn/frequency"

	"github.com/zyotra/auth/internal/password"
)

// listed are the passwords of the lists that we are built with.
func listed(t *testing.T) []string {
	t.Helper()
	words := map[string]bool{}
	for _, list := range frequency.FrequencyLists {
		for _, word := range list {
			words[strings.ToLower(word)] = true
		}
	}
	for _, name := range data.AssetNames() {
		asset, err := data.Asset(name)
		if err != nil {
			t.Fatal(err)
		}
		var file struct{ List []string }
		if err := json.Unmarshal(asset, &file); err != nil {
			t.Fatal(err)
		}
		for _, word := range file.List {
			words[strings.ToLower(word)] = true
		}
	}
	return slices.Sorted(maps.Keys(words))
}

func TestCommonPasswordsAreRefused(t *testing.T) {
	h := newHasher(t)
	all, long := listed(t), 0
	for _, word := range all {
		reason := "too_short"
		if utf8.RuneCountInString(word) >= password.MinLength {
			long, reason = long+1, "too_common"
		}
		for _, typed := range []string{word, strings.ToUpper(word)} {
			if got := h.Check(t.Context(), typed); got != reason {
				t.Errorf("%q: got %q, want %q", typed, got, reason)
			}
		}
	}
	if len(all) < 100_000 || long < 50_000 {
		t.Errorf("%d passwords, %d of them long enough to be tried here", len(all), long)
	}
}

// The lists of passwords lack these, as they are words and names too.
func TestCommonWordsAndNamesAreRefused(t *testing.T) {
	h := newHasher(t)
	for _, common := range []string{
		"jennifer", "michelle", "business", "birthday", "beautiful", "jennifer1", "Jennifer123!", "1michelle", "!football!",
		"elizabeth", "victoria", "princess", "football", "basketball", "sunshine", "computer", "internet", "whatever",
		"charlotte", "password1", "qwertyuiop", "1qaz2wsx", "zaq12wsx", "iloveyou", "superman", "samantha", "benjamin",
		"chocolate", "alexander", "stephanie", "christian", "university", "something",
		"password ", " jennifer", "passwordpassword", "JenniferJennifer",
	} {
		if got := h.Check(t.Context(), common); got != "too_common" {
			t.Errorf("%q: %q", common, got)
		}
	}
	for _, good := range []string{"correct horse", "jennifer walks", "jennifer 1 walks", "1234 and more", "correct horse correct horse ", "correct horsecorrect horse"} {
		if got := h.Check(t.Context(), good); got != "" {
			t.Errorf("%q: %q", good, got)
		}
	}
}

func TestAListOfOnesOwnIsAdded(t *testing.T) {
	h := newHasher(t)
	const list = "\ufeffour old slogan\r\n\n  with spaces  \nZoe\u0308 at work\nshort\nthe last line, without an end"
	if err := h.Block(strings.NewReader(list)); err != nil {
		t.Fatal(err)
	}
	for typed, reason := range map[string]string{
		"our old slogan": "too_common", "Our Old SLOGAN": "too_common", "  with spaces  ": "too_common", "Zoë at work": "too_common",
		"the last line, without an end": "too_common", "football": "too_common",
		"with spaces": "", "our old slogans": "", "our old sloga": "", "\ufeffour old slogan": "", "short": "too_short",
	} {
		if got := h.Check(t.Context(), typed); got != reason {
			t.Errorf("%q: got %q, want %q", typed, got, reason)
		}
	}
}

func TestAListThatCannotBeReadChangesNothing(t *testing.T) {
	h := newHasher(t)
	const start = "our old slogan\n"
	for name, tt := range map[string]struct {
		list io.Reader
		says string
	}{
		"Latin-1":       {strings.NewReader(start + "na\xefve password\nnext\n"), "line 2 is not UTF-8"},
		"UTF-16":        {strings.NewReader("\xff\xfeo\x00u\x00"), "line 1 is not UTF-8"},
		"one long line": {strings.NewReader(start + "\n" + strings.Repeat("x", 65<<10)), "line 3 is longer than 64 KiB"},
		"too large":     {io.MultiReader(strings.NewReader(start), io.LimitReader(endless{}, 64<<20)), "the list is larger than 64 MiB"},
	} {
		err := h.Block(tt.list)
		var wrong *password.ListError
		if !errors.As(err, &wrong) || wrong.Error() != tt.says {
			t.Errorf("%s: %v", name, err)
		}
	}
	lost := errors.New("lost")
	if err := h.Block(io.MultiReader(strings.NewReader(start), iotest.ErrReader(lost))); !errors.Is(err, lost) {
		t.Errorf("%v", err)
	}
	if reason := h.Check(t.Context(), "our old slogan"); reason != "" {
		t.Errorf("half a list is used: %s", reason)
	}
}

// endless are lines of some thousand characters: few, so that the race detector has little to
// watch.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	p = p[:min(len(p), 4<<10)]
	for i := range p {
		p[i] = 'x'
	}
	p[len(p)-1] = '\n'
	return len(p), nil
}

func TestAListTakesEightBytesAPassword(t *testing.T) {
	const n = 500_000
	var list strings.Builder
	for i := range n {
		list.WriteString("a common password, number " + strconv.Itoa(i) + "\n")
	}
	text := list.String()
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	h := newHasher(t)
	h.Check(t.Context(), "read the lists first")
	before := heap()
	if err := h.Block(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if grown := heap() - before; grown > 10*n {
		t.Errorf("%d bytes for %d passwords", grown, n)
	}
	if h.Check(t.Context(), "a common password, number 499999") != "too_common" {
		t.Error("the last one is missing")
	}
	runtime.KeepAlive(text)
}
