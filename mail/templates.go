package mail

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/zyotra/auth/events"
)

//go:embed templates
var embedded embed.FS

// fallback is the language of those whose own there are no templates for.
const fallback = "en"

// layout is the frame of all mails of a language.
const layout = "layout"

// Templates write mails. They are made by Load.
//
// Each language has a folder, named by its tag (BCP 47), and each kind of mail two files in it:
// KIND.txt, which defines "subject" and "content" for text/template, and KIND.html, which defines
// "content" for html/template. layout.txt and layout.html define "layout", the frame around
// "content", and what several contents use. A mail whose language lacks its kind is written in the
// base language, as in de for de-AT, or else in English; so is the layout.
type Templates struct {
	Service string // the name under which people know the service
	Site    string // host of PUBLIC_URL, which links lead to

	compiled map[string]map[events.MailKind]*compiled // by language in lower case
}

// compiled is what writes one kind of mail in one language.
type compiled struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

// content is what templates see: the members of the mail, and these.
type content struct {
	events.Mail
	Name     string // of the recipient, if it can be shown; "" if not
	Device   string // likewise
	Subject  string // "" while that is written
	Language string // tag
	Service  string
	Site     string
}

// functions are what templates can do beside what is built in.
var functions = map[string]any{
	// when writes a time as in "24 November 2026, 11:57 UTC".
	"when": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 MST") },
}

// Load reads the templates that are built in, file by file replaced and joined by those of
// overrides, unless that is nil. All are tried with sample data. Its errors name file and line.
func Load(overrides fs.FS, service, site string) (*Templates, error) {
	builtIn, err := fs.Sub(embedded, "templates")
	if err != nil {
		return nil, err
	}
	files := map[string]string{} // content by path
	if err := collect(builtIn, files); err != nil {
		return nil, err
	}
	if overrides != nil {
		if err := collect(overrides, files); err != nil {
			return nil, err
		}
	}
	t := &Templates{Service: service, Site: site, compiled: map[string]map[events.MailKind]*compiled{}}
	for file := range files {
		if err := t.compile(files, path.Dir(file), kindOf(file)); err != nil {
			return nil, err
		}
	}
	return t, t.check()
}

// collect reads the files of a folder. A file that is no template is a mistake in its name.
func collect(from fs.FS, files map[string]string) error {
	return fs.WalkDir(from, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if _, known := samples[kindOf(file)]; !known && kindOf(file) != layout || strings.Count(file, "/") != 1 || !isTemplate(file) {
			return fmt.Errorf("%s is no template: want LANGUAGE/KIND.txt or .html, KIND being %s or one of %s", file, layout, strings.Join(kinds(), ", "))
		}
		text, err := fs.ReadFile(from, file)
		if err != nil {
			return err
		}
		files[file] = string(text)
		return nil
	})
}

func isTemplate(file string) bool { return path.Ext(file) == ".txt" || path.Ext(file) == ".html" }

// kindOf is the kind of mail that a file is for, or layout.
func kindOf(file string) events.MailKind {
	return events.MailKind(strings.TrimSuffix(path.Base(file), path.Ext(file)))
}

// compile makes what writes a kind of mail in a language that has a file for it.
func (t *Templates) compile(files map[string]string, language string, kind events.MailKind) error {
	if kind == layout {
		return nil
	}
	text, html := path.Join(language, string(kind)+".txt"), path.Join(language, string(kind)+".html")
	for _, needed := range []string{text, html} {
		if _, ok := files[needed]; !ok {
			return fmt.Errorf("%s is missing: a mail has a .txt and a .html in one language", needed)
		}
	}
	var c compiled
	var err error
	inText, inHTML := texttemplate.New("").Funcs(functions), htmltemplate.New("").Funcs(functions)
	for _, file := range []string{frame(files, language, ".txt"), text} {
		if c.text, err = inText.New(file).Parse(files[file]); err != nil {
			return err
		}
	}
	for _, file := range []string{frame(files, language, ".html"), html} {
		if c.html, err = inHTML.New(file).Parse(files[file]); err != nil {
			return err
		}
	}
	language = strings.ToLower(language)
	if t.compiled[language] == nil {
		t.compiled[language] = map[events.MailKind]*compiled{}
	}
	t.compiled[language][kind] = &c
	return nil
}

// frame is the file of the layout for a language.
func frame(files map[string]string, language, ext string) string {
	for _, l := range languages(language) {
		for file := range files {
			if strings.EqualFold(file, path.Join(l, layout+ext)) {
				return file
			}
		}
	}
	return path.Join(fallback, layout+ext)
}

// languages are those that a mail for somebody may be written in, the best first, in lower case.
func languages(tag string) []string {
	tag = strings.ToLower(tag)
	base, _, _ := strings.Cut(tag, "-")
	return []string{tag, base, fallback}
}

// check writes each mail with all members that there may be, and with none that may be missing.
func (t *Templates) check() error {
	for language, list := range t.compiled {
		for kind := range list {
			full := samples[kind]
			bare := events.Mail{Kind: kind, UserID: full.UserID, To: full.To, Link: full.Link, Code: full.Code, ExpiresAt: full.ExpiresAt, Address: full.Address, At: full.At}
			for _, m := range []events.Mail{full, bare} {
				m.Locale = language
				if _, err := t.Write(events.Event{}, m); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Write writes the letter for a mail. It returns an error if there is no template of its kind.
func (t *Templates) Write(e events.Event, m events.Mail) (Letter, error) {
	for _, language := range languages(m.Locale) {
		if c, ok := t.compiled[language][m.Kind]; ok {
			return t.write(c, language, e, m)
		}
	}
	return Letter{}, fmt.Errorf("there is no template for mails of kind %q", m.Kind)
}

func (t *Templates) write(c *compiled, language string, e events.Event, m events.Mail) (Letter, error) {
	data := content{Mail: m, Name: shown(m.Name), Device: shown(m.Device), Language: language, Service: t.Service, Site: t.Site}
	subject, err := execute(c.text, "subject", data)
	if err != nil {
		return Letter{}, err
	}
	if subject = oneLine(subject); subject == "" {
		return Letter{}, errors.New(c.text.Name() + ": the subject is empty")
	}
	data.Subject = subject
	text, err := execute(c.text, layout, data)
	if err != nil {
		return Letter{}, err
	}
	html, err := execute(c.html, layout, data)
	if err != nil {
		return Letter{}, err
	}
	return Letter{ID: e.ID, Time: e.Time, Mail: m, Subject: subject, Text: text, HTML: html}, nil
}

// writer is a template of either package, named by its file.
type writer interface {
	Name() string
	ExecuteTemplate(w io.Writer, name string, data any) error
}

// execute runs one template of those that belong together.
func execute(t writer, name string, data content) (string, error) {
	var out strings.Builder
	if err := t.ExecuteTemplate(&out, name, data); err != nil {
		return "", fmt.Errorf("%s: %w", t.Name(), err)
	}
	return out.String(), nil
}

// oneLine makes a line of what a template wrote: it becomes a header.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// maxShown is the longest name that a mail repeats, in characters: longer ones are messages.
const maxShown = 64

// dotLike and slashLike are characters that people, and some mail programs, read as the dot of a
// domain or the slash of a path, and that compatibility composition leaves alone.
const (
	dotLike   = "\u3002\u06d4\u0701\u0702\u166e\u1803\u1809\u2e3c\ua4f8\ua60e\u0660\u06f0"
	slashLike = "\u2044\u2215\u29f8\u29f5\u2236\ua789"
)

// shown is a name as it is written in a mail, or "" if it is long, or if people or mail programs
// might take a part of it for a link: whoever registers with a stranger's address chooses what
// that stranger is called.
func shown(name string) string {
	name = oneLine(name)
	if utf8.RuneCountInString(name) > maxShown || strings.ContainsFunc(name, isDirection) || !strings.ContainsFunc(name, isVisible) {
		return ""
	}
	// What stands for full-width and other forms of dots, slashes and letters.
	plain := strings.ToLower(norm.NFKC.String(name))
	for _, after := range strings.Split(plain, ".")[1:] {
		if after != "" && !strings.HasPrefix(after, " ") {
			return ""
		}
	}
	if strings.ContainsAny(plain, "/@:\\<>"+dotLike+slashLike) || strings.Contains(plain, "www.") {
		return ""
	}
	return name
}

// blanks are letters and symbols that nobody sees.
const blanks = "\u115f\u1160\u2800\u3164\uffa0"

// isVisible reports whether people see a character that stands alone.
func isVisible(r rune) bool {
	return (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsSymbol(r) || unicode.IsPunct(r)) && !strings.ContainsRune(blanks, r)
}

// isDirection reports whether a character changes the direction of the text after it, by which
// other letters than those that are stored would be read.
func isDirection(r rune) bool { return unicode.Is(unicode.Bidi_Control, r) }

// Samples writes each mail in each language with sample data, by path without extension, as in
// "en/verify_email".
func (t *Templates) Samples() (map[string]Letter, error) {
	all := map[string]Letter{}
	for language, list := range t.compiled {
		for kind := range list {
			m := samples[kind]
			m.Locale = language
			letter, err := t.Write(events.Event{}, m)
			if err != nil {
				return nil, err
			}
			all[language+"/"+string(kind)] = letter
		}
	}
	return all, nil
}

// kinds are those of which there are mails, sorted.
func kinds() (names []string) {
	for _, kind := range slices.Sorted(maps.Keys(samples)) {
		names = append(names, string(kind))
	}
	return names
}
