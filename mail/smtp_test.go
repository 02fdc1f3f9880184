package mail_test

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testsmtp"
	"github.com/zyotra/auth/mail"
)

func TestSendersDomainIsSentInASCII(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Bücher <post@bücher.example>": "post@xn--bcher-kva.example",
		"post@BÜCHER.example":          "post@xn--bcher-kva.example",
		"post@Example.com":             "post@Example.com",
	} {
		if from, err := mail.ParseSender(text); err != nil || from.Address != want {
			t.Errorf("%q is %v, %v", text, from, err)
		}
	}
	for _, text := range []string{"", "post", "post@exa\u2024mple.com", "post@\u2460.example"} {
		if from, err := mail.ParseSender(text); err == nil {
			t.Errorf("%q is %v", text, from)
		}
	}
}

func TestHelloAndSenderReachTheServer(t *testing.T) {
	t.Parallel()
	server := testsmtp.Start(t)
	from, err := mail.ParseSender("post@bücher.example")
	check(t, err)
	s, err := mail.NewSMTP(server.URL, from)
	check(t, err)
	authority, err := os.ReadFile(server.CAFile)
	check(t, err)
	s.Roots, s.Hello = x509.NewCertPool(), "mx.acme.example"
	s.Roots.AppendCertsFromPEM(authority)
	check(t, s.Send(t.Context(), mail.Letter{ID: "1", Mail: events.Mail{To: "ada@example.com"}, Subject: "s", Text: "t", HTML: "h"}))
	l := server.Wait(t, "ada@example.com")
	if l.Hello != "mx.acme.example" || l.From != "post@xn--bcher-kva.example" || !strings.Contains(l.Header.Get("From"), "post@xn--bcher-kva.example") {
		t.Errorf("%+v", l)
	}
}

// An address that is not ASCII needs a server that takes it. What would never arrive is refused for
// good; a sender's address is the operator's to change.
func TestAddressesThatAreNotASCIINeedSMTPUTF8(t *testing.T) {
	t.Parallel()
	const jörg = "jörg@example.com"
	server := testsmtp.Start(t)
	authority, err := os.ReadFile(server.CAFile)
	check(t, err)
	send := func(sender, recipient string) error {
		from, err := mail.ParseSender(sender)
		check(t, err)
		s, err := mail.NewSMTP(server.URL, from)
		check(t, err)
		s.Roots = x509.NewCertPool()
		s.Roots.AppendCertsFromPEM(authority)
		return s.Send(t.Context(), mail.Letter{ID: "1", Mail: events.Mail{To: recipient}, Subject: "s", Text: "t", HTML: "h"})
	}
	var refused *mail.Refused
	if err := send("post@example.com", jörg); !errors.As(err, &refused) || !strings.Contains(err.Error(), "SMTPUTF8") {
		t.Errorf("to a server without it: %v", err)
	}
	if err := send(jörg, "ada@example.com"); err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "MAIL_FROM") {
		t.Errorf("from such an address to a server without it: %v", err)
	}
	check(t, send("post@example.com", "ada@example.com"))
	server.Down()
	server.UTF8 = true
	server.Up(t)
	check(t, send("post@example.com", jörg))
	check(t, send(jörg, "ada@example.com"))
	if l := server.Wait(t, jörg); l.To != jörg {
		t.Errorf("%+v", l)
	}
}

func TestHelloNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"mail.example.com": true, "localhost": true, "[192.0.2.1]": true, "[IPv6:2001:db8::1]": true,
		"": false, "a b": false, "a\r\nMAIL": false, "-a": false, "bücher.example": false, strings.Repeat("a.", 200) + "a": false,
	} {
		if mail.IsHello(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}
