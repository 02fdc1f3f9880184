package mail

import (
	"context"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	_ "embed"

	"github.com/zyotra/auth/events"
)

// mailboxSize is the maximum number of letters in a Mailbox, which keeps the latest.
const mailboxSize = 100

// Mailbox keeps letters in memory, for development without a mail server, and shows them:
//
//	GET /dev/mailbox            a list, with each letter
//	GET /dev/mailbox.json       the same list for programs, the latest first
//	GET /dev/mailbox/{id}       one letter
//	GET /dev/mailbox/{id}/html  its HTML alone
//
// The zero value is empty. Letters hold links and codes that grant access, so serve a Mailbox only on a
// listener that no other person can reach.
type Mailbox struct {
	mu      sync.Mutex
	letters []Letter // the oldest first
}

// Send stores a letter. It replaces a stored letter with the same id.
func (b *Mailbox) Send(_ context.Context, l Letter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.letters = slices.DeleteFunc(b.letters, func(kept Letter) bool { return kept.ID == l.ID })
	b.letters = append(b.letters, l)
	b.letters = b.letters[max(0, len(b.letters)-mailboxSize):]
	return nil
}

// latest returns the letters, the latest first.
func (b *Mailbox) latest() []Letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := slices.Clone(b.letters)
	slices.Reverse(list)
	return list
}

func (b *Mailbox) find(id string) (Letter, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.letters, func(l Letter) bool { return l.ID == id })
	if i < 0 {
		return Letter{}, false
	}
	return b.letters[i], true
}

// Handler serves the pages. The caller must restrict access to it.
func (b *Mailbox) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dev/mailbox", b.list)
	mux.HandleFunc("GET /dev/mailbox.json", b.listJSON)
	mux.HandleFunc("GET /dev/mailbox/{id}", b.show)
	mux.HandleFunc("GET /dev/mailbox/{id}/html", b.showHTML)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		} {
			w.Header().Set(name, value)
		}
		mux.ServeHTTP(w, r)
	})
}

//go:embed mailbox.html
var mailboxPage string

var mailboxPages = template.Must(template.New("mailbox").Parse(mailboxPage))

func (b *Mailbox) list(w http.ResponseWriter, _ *http.Request) {
	page(w, "list", b.latest())
}

func (b *Mailbox) show(w http.ResponseWriter, r *http.Request) {
	l, ok := b.find(r.PathValue("id"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	page(w, "letter", l)
}

func page(w http.ResponseWriter, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = mailboxPages.ExecuteTemplate(w, name, data) // an error means that the client has disconnected
}

// showHTML serves the HTML as a mail program shows it. The page cannot run scripts, load resources or
// read data of the origin; its links open in a new window.
func (b *Mailbox) showHTML(w http.ResponseWriter, r *http.Request) {
	l, ok := b.find(r.PathValue("id"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'")
	_, _ = w.Write([]byte(strings.Replace(l.HTML, "<head>", `<head><base target="_blank">`, 1)))
}

// shownMail is a letter in mailbox.json.
type shownMail struct {
	ID      string          `json:"id"`
	Kind    events.MailKind `json:"kind"`
	To      string          `json:"to"`
	At      time.Time       `json:"at"`
	Subject string          `json:"subject"`
	Link    string          `json:"link,omitempty"`
	Code    string          `json:"code,omitempty"`
	Text    string          `json:"text"`
	HTML    string          `json:"html"`
}

func (b *Mailbox) listJSON(w http.ResponseWriter, _ *http.Request) {
	list := []shownMail{}
	for _, l := range b.latest() {
		list = append(list, shownMail{
			ID: l.ID, Kind: l.Mail.Kind, To: l.Mail.To, At: l.Time.UTC(), Subject: l.Subject,
			Link: l.Mail.Link, Code: l.Mail.Code, Text: l.Text, HTML: l.HTML,
		})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"mails": list}) // an error means that the client has disconnected
}
