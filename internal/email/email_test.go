package email_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/zyotra/auth/internal/email"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ in, display, key string }{
		{"ada@example.com", "ada@example.com", "ada@example.com"},
		{"Ada.Lovelace@Example.COM", "Ada.Lovelace@example.com", "ada.lovelace@example.com"},
		{"ada+news@example.com", "ada+news@example.com", "ada+news@example.com"},
		{"Zoë@example.com", "Zoë@example.com", "zoë@example.com"},
		{"Zoe\u0308@example.com", "Zoë@example.com", "zoë@example.com"},
		{"a@Bücher.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"},
		{"a@xn--bcher-kva.example", "a@xn--bcher-kva.example", "a@xn--bcher-kva.example"},
		{"用户@例子.测试", "用户@xn--fsqu00a.xn--0zwm56d", "用户@xn--fsqu00a.xn--0zwm56d"},
		{"o'hara!#$%&*+-/=?^_`{|}~@a.b", "o'hara!#$%&*+-/=?^_`{|}~@a.b", "o'hara!#$%&*+-/=?^_`{|}~@a.b"},
	} {
		got, err := email.Parse(tt.in)
		if want := (email.Address{Display: tt.display, Key: tt.key}); err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", tt.in, got, err, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, in := range []string{
		"", "@", "a@", "@example.com", "example.com", "a@localhost", "a@[127.0.0.1]", "a@127.0.0.1",
		"a b@example.com", " a@example.com", "a@example.com ", "a@b@example.com", "a..b@example.com",
		".a@example.com", "a.@example.com", `"a b"@example.com`, "Ada <ada@example.com>",
		"a@example..com", "a@-example.com", "a@example.com.", "a@exam_ple.com", "a@example.com\n",
		"a\x00@example.com", "a\u200b@example.com", "a\u00a0@example.com", "a\xff@example.com",
		"\u1fefa@example.com",  // composes to a backtick
		"a\u034fb@example.com", // combining grapheme joiner
		"a\u115fb@example.com", // Hangul filler
		"a\u3164b@example.com", // and another
		"a\u2800b@example.com", // Braille blank
		"a\ufe0fb@example.com", // variation selector
		"a\U000e0100@example.com",
		"\ufb01n@example.com",    // ligature fi
		"\u0149a@example.com",    // apostrophe and n
		"\u212aate@example.com",  // Kelvin sign
		"\u0130zmir@example.com", // its lower case begins with i
		"a@\uff45xample.com",     // full-width e
		"a@exa\u017fmple.com",    // long s: no letter of a domain
		"a@example\u3002com",     // ideographic full stop
		"a@\u212aate.example",    // Kelvin sign in a domain
		"a@\u0130zmir.example",
		strings.Repeat("a", 65) + "@example.com",
		"a@" + strings.Repeat("b", 64) + ".com",
		"a@" + strings.Repeat("b.", 126) + "com",
	} {
		if got, err := email.Parse(in); err == nil {
			t.Errorf("Parse(%q) = %+v", in, got)
		}
	}
}

// The limit is that of the text as it was sent, although it is shorter in composed form.
func TestLongestAddress(t *testing.T) {
	domain := strings.Repeat("a.", 90) + "example" // 187 bytes
	longest := strings.Repeat("e\u0301", 22) + "@" + domain
	if len(longest) != email.MaxBytes {
		t.Fatalf("the address has %d bytes", len(longest))
	}
	if a, err := email.Parse(longest); err != nil || len(a.Display) >= len(longest) {
		t.Errorf("%d bytes: %q, %v", len(longest), a.Display, err)
	}
	if a, err := email.Parse("x" + longest); !errors.Is(err, email.ErrInvalid) {
		t.Errorf("%d bytes: %q, %v", len(longest)+1, a.Display, err)
	}
}

func TestLongestParts(t *testing.T) {
	local, domain := strings.Repeat("a", 64), strings.Repeat("b.", 90)+"example.c" // 189 bytes
	for _, in := range []string{local + "@" + domain, strings.Repeat("a", 62) + "é@b.example"} {
		if _, err := email.Parse(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{
		local[1:] + "@" + domain + "om",                   // 255 bytes
		strings.Repeat("a", 63) + "é@b.example",           // 65 before the @
		local + "@" + strings.Repeat("ü.", 23) + "a.b.cd", // 140 bytes, 255 in ASCII form
	} {
		if a, err := email.Parse(in); !errors.Is(err, email.ErrInvalid) {
			t.Errorf("%q: %+v, %v", in, a, err)
		}
	}
}

func TestUnicode(t *testing.T) {
	for in, want := range map[string]string{
		"a@xn--bcher-kva.example": "a@bücher.example",
		"a@example.com":           "a@example.com",
		"a@xn--a":                 "a@xn--a", // no name has this form
		"xn--bcher-kva@b.example": "xn--bcher-kva@b.example",
	} {
		if got := email.Unicode(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestLookAlikesAreOthers(t *testing.T) {
	mine, _ := email.Parse("sam@example.com")
	for _, in := range []string{"\u017fam@example.com", "s\u0430m@example.com", "s\uff41m@example.com", "sam+x@example.com"} {
		if got, err := email.Parse(in); err == nil && got.Key == mine.Key {
			t.Errorf("%q is taken for %q", in, mine.Display)
		}
	}
}

func TestOneMailboxIsOneKey(t *testing.T) {
	for _, same := range [][]string{
		{"οδος", "ΟΔΟΣ", "οδοσ", "Οδος"},
		{"µx", "Μx", "μx"},
		{"zoë", "ZOË", "zoe\u0308"},
		{"straße", "STRAẞE", "Straße"},
		{"ᾳx", "ᾼx", "αιx"},
		{"\uab70", "\u13a0"}, // Cherokee folds to capitals
		{"ǰ", "j\u030c", "J\u030c"},
	} {
		var want string
		for _, local := range same {
			a, err := email.Parse(local + "@example.com")
			if err != nil {
				t.Errorf("%q: %v", local, err)
			}
			if want == "" {
				want = a.Key
			}
			if a.Key != want {
				t.Errorf("%q has the key %q, %q has %q", same[0], want, local, a.Key)
			}
		}
	}
	eszett, _ := email.Parse("straße@example.com")
	if ascii, _ := email.Parse("strasse@example.com"); ascii.Key == eszett.Key {
		t.Error("straße is taken for strasse")
	}
}

// The key of a key is itself, and every spelling by letter case has it.
func TestEveryCharacterHasOneKey(t *testing.T) {
	for r := rune(0); r < 0x20000; r++ {
		if unicode.In(r, unicode.Han, unicode.Hangul) { // many, without case
			continue
		}
		a, err := email.Parse("x" + string(r) + "@a.b")
		if err != nil {
			continue
		}
		for _, spelling := range []string{a.Key, strings.ToLower(a.Display), norm.NFD.String(a.Display)} {
			other, err := email.Parse(spelling)
			if err != nil || other.Key != a.Key {
				t.Errorf("%U has the key %q, %q has %q, %v", r, a.Key, spelling, other.Key, err)
			}
		}
	}
}

// Both forms of an accepted address are accepted, are short enough, and have the same key;
// an ASCII key comes from ASCII alone.
func FuzzParse(f *testing.F) {
	f.Add("Ada.Lovelace+x@Bücher.example")
	f.Add("\u212a@a.b")
	f.Add("o\u0308\u0304@ß.de")
	f.Add("I\u0307@ß.A")
	f.Add("ΟΔΟΣ@ς.gr")
	f.Add("\u1fb3\u0345\u1e9b\u0323@a.b")
	f.Add("\u3164a@a.b")
	f.Fuzz(func(t *testing.T, in string) {
		a, err := email.Parse(in)
		if err != nil {
			if a != (email.Address{}) {
				t.Fatalf("%q: %+v with %v", in, a, err)
			}
			return
		}
		for _, form := range []string{a.Display, a.Key} {
			again, err := email.Parse(form) // so folding what is folded changes nothing
			if err != nil || again.Key != a.Key || len(form) > email.MaxBytes {
				t.Fatalf("%q gives %+v, but %q gives %+v, %v", in, a, form, again, err)
			}
		}
		for _, spelling := range []string{strings.ToLower(a.Display), norm.NFD.String(a.Display)} {
			if other, err := email.Parse(spelling); err == nil && other.Key != a.Key {
				t.Fatalf("%q has the key %q, %q has %q", a.Display, a.Key, spelling, other.Key)
			}
		}
		local := in[:strings.LastIndexByte(in, '@')]
		if isASCII(a.Key[:strings.LastIndexByte(a.Key, '@')]) && !isASCII(local) {
			t.Fatalf("%q passes for %q", in, a.Key)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 127 })
}
