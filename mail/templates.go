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

// fallback is the language for recipients whose language has no templates.
const fallback = "en"

// layout is the frame of all mails of a language.
const layout = "layout"

// Templates write mails. Create them with Load.
//
// Each language has a folder, named by its tag (BCP 47), and each kind of mail two files in it:
// KIND.txt, which defines "subject" and "content" for text/template, and KIND.html, which defines
// "content" for html/template. layout.txt and layout.html define "layout", the frame around
// "content", and templates that several contents share. If a language lacks a kind of mail, the mail is
// written in the base language, as in de for de-AT, or else in English. The same applies to the layout.
type Templates struct {
	Service string // display name of the service
	Site    string // host of PUBLIC_URL, the target of links

	compiled map[string]map[events.MailKind]*compiled // by language in lower case
}

// compiled holds the templates of one kind of mail in one language.
type compiled struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

// content is the data of templates: the members of the mail, and the fields below.
type content struct {
	events.Mail
	Name     string // of the recipient; "" if it is not safe to show
	Device   string // "" if it is not safe to show
	Subject  string // "" while the subject itself is written
	Language string // tag (BCP 47), in lower case
	Service  string
	Site     string
}

// functions are the template functions besides the built-in ones.
var functions = map[string]any{
	// when formats a time as in "24 November 2026, 11:57 UTC".
	"when": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 MST") },
}

// Load reads the built-in templates. Files in overrides, unless it is nil, replace built-in files of the
// same path or add new ones. Load executes all templates with sample data. Its errors name file and line.
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

// collect reads the template files of a folder. It returns an error for a file whose name is not that of a
// template.
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

// kindOf returns the kind of mail that a file is for, or layout.
func kindOf(file string) events.MailKind {
	return events.MailKind(strings.TrimSuffix(path.Base(file), path.Ext(file)))
}

// compile compiles the templates of one kind of mail in a language that has a file for it.
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

// frame returns the file of the layout for a language.
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

// languages returns the languages for a recipient with the given tag, the best first, in lower case.
func languages(tag string) []string {
	tag = strings.ToLower(tag)
	base, _, _ := strings.Cut(tag, "-")
	return []string{tag, base, fallback}
}

// check writes each mail twice: with all members, and without the optional ones.
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

// execute runs one named template of a set.
func execute(t writer, name string, data content) (string, error) {
	var out strings.Builder
	if err := t.ExecuteTemplate(&out, name, data); err != nil {
		return "", fmt.Errorf("%s: %w", t.Name(), err)
	}
	return out.String(), nil
}

// oneLine joins the output of a template into one line, so that it can be a header.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// maxShown is the longest name that a mail repeats, in characters: a longer one could be a message.
const maxShown = 64

// dotLike and slashLike are characters that people, and some mail programs, read as the dot of a
// domain or the slash of a path, and that compatibility composition leaves alone.
const (
	dotLike   = "\u3002\u06d4\u0701\u0702\u166e\u1803\u1809\u2e3c\ua4f8\ua60e\u0660\u06f0"
	slashLike = "\u2044\u2215\u29f8\u29f5\u2236\ua789"
)

// shown returns a name in the form that a mail shows, or "" if it is too long, or if people or mail
// programs might read a part of it as a link: an attacker who registers with another person's address
// also chooses the name in the mail to that person.
func shown(name string) string {
	name = oneLine(name)
	if utf8.RuneCountInString(name) > maxShown || strings.ContainsFunc(name, isDirection) || !strings.ContainsFunc(name, isVisible) {
		return ""
	}
	// NFKC maps full-width and other forms of dots, slashes and letters to plain ones.
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

// blanks are invisible letters and symbols.
const blanks = "\u115f\u1160\u2800\u3164\uffa0"

// isVisible reports whether a character is visible on its own.
func isVisible(r rune) bool {
	return (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsSymbol(r) || unicode.IsPunct(r)) && !strings.ContainsRune(blanks, r)
}

// isDirection reports whether a character changes the direction of the text after it. People would
// then read other text than the stored text.
func isDirection(r rune) bool { return unicode.Is(unicode.Bidi_Control, r) }

// Samples returns each mail in each language with sample data, by path without extension, as in
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

// kinds returns the kinds of mails, sorted.
func kinds() (names []string) {
	for _, kind := range slices.Sorted(maps.Keys(samples)) {
		names = append(names, string(kind))
	}
	return names
}
