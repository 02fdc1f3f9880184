package mail_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/mail"
)

var update = flag.Bool("update", false, "write the golden files")

func load(t *testing.T, files fstest.MapFS) *mail.Templates {
	t.Helper()
	if files == nil {
		files = fstest.MapFS{}
	}
	templates, err := mail.Load(files, "Acme", "auth.example.com")
	check(t, err)
	return templates
}

func files(list map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, text := range list {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

// What people get: a difference here is one that they see.
func TestGoldenMails(t *testing.T) {
	t.Parallel()
	letters, err := load(t, nil).Samples()
	check(t, err)
	for name, l := range letters {
		for ext, got := range map[string]string{".txt": "Subject: " + l.Subject + "\n\n" + l.Text, ".html": l.HTML} {
			file := filepath.Join("testdata", "golden", filepath.FromSlash(name)+ext)
			if *update {
				check(t, os.MkdirAll(filepath.Dir(file), 0o755))
				check(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			check(t, err)
			if got != string(want) {
				t.Errorf("%s is\n%s\nwant\n%s", file, got, want)
			}
		}
	}
	golden, err := filepath.Glob(filepath.Join("testdata", "golden", "*", "*"))
	check(t, err)
	if len(golden) != 2*len(letters) {
		t.Errorf("%d golden files for %d mails", len(golden), len(letters))
	}
}

// A kind that package events names has a template, but for that of mails to nobody.
func TestEveryKindHasATemplate(t *testing.T) {
	t.Parallel()
	letters, err := load(t, nil).Samples()
	check(t, err)
	sources, err := filepath.Glob(filepath.Join("..", "events", "*.go"))
	check(t, err)
	for _, source := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
		check(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "MailKind" {
				value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				check(t, err)
				if _, ok := letters["en/"+value]; !ok && events.MailKind(value) != events.MailNone {
					t.Errorf("%s has no template", value)
				}
			}
			return false
		})
	}
}

// Mail programs show what is in the mail and fetch nothing.
func TestMailsLoadNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	letters, err := load(t, nil).Samples()
	check(t, err)
	for name, l := range letters {
		if found := regexp.MustCompile(`(?i)<(img|link|script|iframe|object|embed|video|audio|source|form)|url\(|@import|\son\w+=`).FindString(l.HTML); found != "" {
			t.Errorf("%s has %s", name, found)
		}
		for _, part := range []string{"color-scheme", "prefers-color-scheme: dark", "<h1>" + strings.ReplaceAll(l.Subject, "'", "&#39;")} {
			if !strings.Contains(l.HTML, part) {
				t.Errorf("%s lacks %s", name, part)
			}
		}
		for _, value := range []string{l.Mail.Link, l.Mail.Code} {
			if !strings.Contains(l.Text, value) || !strings.Contains(l.HTML, value) {
				t.Errorf("%s lacks %s", name, value)
			}
		}
	}
}

func TestTheLanguageIsTheNearest(t *testing.T) {
	t.Parallel()
	templates := load(t, files(map[string]string{
		"de/login_code.txt":     `{{define "subject"}}Ihr Code{{end}}{{define "content"}}{{.Code}}{{end}}`,
		"de/login_code.html":    `{{define "content"}}{{.Code}}{{end}}`,
		"de-AT/login_code.txt":  `{{define "subject"}}Servus{{end}}{{define "content"}}{{.Code}}{{end}}`,
		"de-AT/login_code.html": `{{define "content"}}{{.Code}}{{end}}`,
		"de/layout.txt":         `{{define "layout"}}Guten Tag {{template "content" .}}{{end}}`,
	}))
	for locale, want := range map[string][2]string{
		"de": {"Ihr Code", "Guten Tag 1"}, "de-DE": {"Ihr Code", "Guten Tag 1"}, "DE": {"Ihr Code", "Guten Tag 1"},
		"de-AT": {"Servus", "Guten Tag 1"}, "de-at": {"Servus", "Guten Tag 1"},
		"fr": {"1 is your code", "Hello"}, "": {"1 is your code", "Hello"}, "../en": {"1 is your code", "Hello"},
	} {
		l, err := templates.Write(events.Event{}, events.Mail{Kind: "login_code", Code: "1", Locale: locale})
		if err != nil || l.Subject != want[0] || !strings.HasPrefix(l.Text, want[1]) {
			t.Errorf("%s: %q %.20q, %v", locale, l.Subject, l.Text, err)
		}
		if html := `<html lang="` + strings.ToLower(locale) + `">`; strings.HasPrefix(want[0], "Servus") && !strings.Contains(l.HTML, html) {
			t.Errorf("%s: %.60s", locale, l.HTML)
		}
	}
	l, err := templates.Write(events.Event{}, events.Mail{Kind: "new_device", Locale: "de"})
	if err != nil || l.Subject != "A new device logged in" || !strings.HasPrefix(l.Text, "Hello") {
		t.Errorf("what is not there in German: %+v, %v", l, err)
	}
}

func TestTemplatesAreReplacedFileByFile(t *testing.T) {
	t.Parallel()
	templates := load(t, files(map[string]string{"en/login_code.txt": `{{define "subject"}}Code{{end}}{{define "content"}}{{.Service}} {{.Code}}{{end}}`}))
	l, err := templates.Write(events.Event{}, events.Mail{Kind: "login_code", Code: "1234"})
	if err != nil || l.Subject != "Code" || !strings.HasPrefix(l.Text, "Hello,\n\nAcme 1234") || !strings.Contains(l.HTML, `<p class="code">1234</p>`) {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestWrongTemplatesAreNamedWithFileAndLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, text, want string }{
		"does not parse":    {"en/login_code.txt", "{{define \"subject\"}}x{{end}}\n{{if}}", "en/login_code.txt:2"},
		"HTML that is none": {"en/login_code.html", "{{define \"content\"}}\n<a href=\"{{.Link}}{{end}}", "en/login_code.html"},
		"unknown member":    {"en/login_code.txt", "{{define \"subject\"}}x{{end}}{{define \"content\"}}\n\n{{.Password}}{{end}}", "en/login_code.txt:3"},
		"no subject":        {"en/login_code.txt", `{{define "content"}}{{end}}`, "subject"},
		"empty subject":     {"en/login_code.txt", `{{define "subject"}} {{end}}{{define "content"}}{{end}}`, "en/login_code.txt: the subject is empty"},
		"unknown kind":      {"en/logincode.txt", ``, "en/logincode.txt is no template"},
		"unknown form":      {"en/login_code.md", ``, "en/login_code.md is no template"},
		"no language":       {"login_code.txt", ``, "login_code.txt is no template"},
		"one form alone":    {"de/login_code.txt", `{{define "subject"}}x{{end}}{{define "content"}}{{end}}`, "de/login_code.html is missing"},
	} {
		if _, err := mail.Load(files(map[string]string{c.file: c.text}), "Acme", "auth.example.com"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What people choose or send is text wherever it goes.
func TestStrangersWordsStayText(t *testing.T) {
	t.Parallel()
	templates := load(t, nil)
	for name, wanted := range map[string]string{
		"Ada": "Hello Ada,", "Dr. Ada King": "Hello Dr. Ada King,", "Ada\r\nBcc: x": "Hello,", "A\nB": "Hello A B,",
		"win。example。com": "Hello,", "evil．example": "Hello,", "win\u2024example": "Hello,", "win｡example": "Hello,", "a⁄b": "Hello,",
		"ｗｗｗ．x": "Hello,", "x\u202emoc": "Hello,", strings.Repeat("a", 64): "Hello " + strings.Repeat("a", 64) + ",", strings.Repeat("a", 65): "Hello,",
		"Renée O’Neill-Škvorecký": "Hello Renée O’Neill-Škvorecký,", "Ada K.": "Hello Ada K.,", "山田 太郎": "Hello 山田 太郎,",
		"win.example.com": "Hello,", "https:x": "Hello,", "a@b": "Hello,", "Ада": "Hello Ада,", "<b>": "Hello,", "": "Hello,",
		"\u200b": "Hello,", "\u3164\u2800": "Hello,", "😀": "Hello 😀,",
	} {
		l, err := templates.Write(events.Event{}, events.Mail{Kind: "verify_email", Name: name, Link: "https://x"})
		if err != nil || !strings.HasPrefix(l.Text, wanted) {
			t.Errorf("%q: %.40q, %v", name, l.Text, err)
		}
	}
	l, err := templates.Write(events.Event{}, events.Mail{
		Kind: "login_code", Code: "1\r\nBcc: eve@example.com", Client: auth.ClientInfo{IP: `"><script>`}, Device: "<script>x", Link: "javascript:x",
	})
	if err != nil || strings.ContainsAny(l.Subject, "\r\n") || strings.Contains(l.HTML, "<script>") || strings.Contains(l.HTML, "javascript:") {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestAKindWithoutTemplateIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := load(t, nil).Write(events.Event{}, events.Mail{Kind: "newsletter"}); err == nil {
		t.Error("it is written")
	}
}

func TestAddressesAreMasked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"ada@example.com": "a***@example.com",
		`550 5.1.1 <ada.king@example.com>: no such user "ada.king@example.com", sorry`: `550 5.1.1 <a***@example.com>: no such user "a***@example.com", sorry`,
		"ада@пример.рф": "а***@пример.рф",
		"no address":    "no address",
		"":              "",
	} {
		if got := mail.Masked(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestSamplesAreOfEachKind(t *testing.T) {
	t.Parallel()
	letters, err := load(t, nil).Samples()
	check(t, err)
	want := []string{"email_change", "email_changed", "email_taken", "login_code", "new_device", "password_changed", "password_reset", "verify_email"}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(letters)) {
		got = append(got, strings.TrimPrefix(name, "en/"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if l := letters["en/login_code"]; !l.Mail.ExpiresAt.After(l.Mail.At) || l.Mail.ExpiresAt.Sub(l.Mail.At) > time.Hour {
		t.Errorf("%+v", l.Mail)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
