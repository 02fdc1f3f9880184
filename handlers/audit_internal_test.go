package handlers

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/zyotra/auth"
)

func TestWhatWasTypedIsMasked(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"ada@example.com":               "a***@e***.com",
		"Ada.Lovelace+x@MAIL.Example":   "A***@M***.Example",
		"élise@müller.de":               "é***@m***.de",
		"ada@example.com\n":             "a***@e***",
		"ada@example.com\x00.evil":      "a***@e***.evil",
		"ada@localhost":                 "a***@l***",
		"ada@[192.0.2.1]":               "a***@***",
		"a@b@example.com":               "a***@b***.com",
		"@":                             "***@***",
		"\"; DROP":                      "***",
		"correct horse battery":         "c***",
		"hunter2.mypassword":            "h***",
		"a@b.correcthorsebatterystaple": "a***@b***",
		"\xff@\xff.com":                 "***@***.com",
	} {
		if got := masked(typed); got != want {
			t.Errorf("%q became %q, want %q", typed, got, want)
		}
	}
}

// Whatever is typed, what the log tells of it is short, of one line, and tells little.
func FuzzMasked(f *testing.F) {
	f.Add("ada@example.com")
	f.Add("\xe2\x80\xa8@\n.\r")
	f.Fuzz(func(t *testing.T, typed string) {
		got := masked(typed)
		if len(got) > 32 || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("*@.", r)
		}) {
			t.Errorf("%q became %q", typed, got)
		}
		local, _, isAddress := strings.Cut(typed, "@")
		if shown, _, _ := strings.Cut(got, "*"); isAddress && utf8.RuneCountInString(shown) > 1 || !strings.HasPrefix(local, shown) {
			t.Errorf("%q became %q", typed, got)
		}
	})
}

func TestAnAttemptThatPanicsIsLoggedToo(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	func() {
		defer func() { _ = recover() }()
		_, _ = audited(t.Context(), log, auditEvent{subject: "auth.login", method: byPassword}, auth.LoginRequest{}, func(context.Context, auth.LoginRequest, *auditEvent) (auth.LoginReply, error) {
			panic("a bug")
		})
	}()
	if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "outcome=failed reason=internal") {
		t.Errorf("%q", got)
	}
}

// What logging an attempt costs.
func BenchmarkLogged(b *testing.B) {
	log := slog.New(slog.NewJSONHandler(io.Discard, nil))
	a := auditEvent{subject: string(auth.Login), method: byPassword, user: 1, client: &auth.ClientInfo{IP: "192.0.2.1"}}
	fn := func(context.Context, int, *auditEvent) (int, error) { return 0, nil }
	b.ReportAllocs()
	for b.Loop() {
		_, _ = audited(context.Background(), log, a, 0, fn)
	}
}
