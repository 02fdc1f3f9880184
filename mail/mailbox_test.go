package mail_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/mail"
)

// page asks the mailbox for a page under a host.
func page(box *mail.Mailbox, host, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	box.Handler().ServeHTTP(w, r)
	return w
}

// shown are the ids of the letters in the mailbox, as programs see them.
func shown(t *testing.T, box *mail.Mailbox) (ids []string) {
	t.Helper()
	var body struct {
		Mails []struct{ ID string }
	}
	check(t, json.Unmarshal(page(box, "127.0.0.1:9464", "/dev/mailbox.json").Body.Bytes(), &body))
	for _, m := range body.Mails {
		ids = append(ids, m.ID)
	}
	return ids
}

func TestTheMailboxShowsLetters(t *testing.T) {
	t.Parallel()
	var box mail.Mailbox
	if w := page(&box, "localhost:9464", "/dev/mailbox.json"); w.Body.String() != "{\"mails\":[]}\n" {
		t.Error(w.Body)
	}
	l := mail.Letter{
		ID: "one", Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Subject: "<b>Hello</b>", Text: "Hello <i>", HTML: "<html><head></head><body><script>alert(1)</script></body></html>",
		Mail: events.Mail{Kind: "password_reset", To: "ada@example.com", Link: "https://auth.example.com/reset", Code: "12345678"},
	}
	check(t, box.Send(t.Context(), l))
	want := `{"mails":[{"id":"one","kind":"password_reset","to":"ada@example.com","at":"2026-03-01T12:00:00Z","subject":"\u003cb\u003eHello\u003c/b\u003e",` +
		`"link":"https://auth.example.com/reset","code":"12345678","text":"Hello \u003ci\u003e","html":"\u003chtml\u003e\u003chead\u003e\u003c/head\u003e\u003cbody\u003e\u003cscript\u003ealert(1)\u003c/script\u003e\u003c/body\u003e\u003c/html\u003e"}]}` + "\n"
	if w := page(&box, "[::1]:9464", "/dev/mailbox.json"); w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s\nwant\n%s", w.Body, want)
	}
	for path, texts := range map[string][]string{
		"/dev/mailbox":          {"&lt;b&gt;Hello", `href="/dev/mailbox/one"`, "ada@example.com"},
		"/dev/mailbox/one":      {"Hello &lt;i&gt;", `sandbox="allow-popups`, `src="/dev/mailbox/one/html"`, `href="https://auth.example.com/reset"`},
		"/dev/mailbox/one/html": {`<base target="_blank">`, "<script>"},
	} {
		w := page(&box, "127.0.0.1", path)
		for _, text := range texts {
			if !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s lacks %s:\n%s", path, text, w.Body)
			}
		}
		policy := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(policy, "default-src 'none'") ||
			strings.HasSuffix(path, "html") != strings.HasPrefix(policy, "sandbox allow-popups") {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	for _, path := range []string{"/dev/mailbox/two", "/dev/mailbox/two/html", "/"} {
		if w := page(&box, "localhost", path); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestTheMailboxKeepsTheLatest(t *testing.T) {
	t.Parallel()
	var box mail.Mailbox
	for i := range 150 {
		check(t, box.Send(t.Context(), mail.Letter{ID: fmt.Sprint(i)}))
	}
	if ids := shown(t, &box); len(ids) != 100 || ids[0] != "149" || ids[99] != "50" {
		t.Errorf("%q", ids)
	}
}
