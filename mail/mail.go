// Package mail sends what others ask to be sent.
//
// A mail is asked for by the event mail.requested, which leaves the outbox as every event does
// and waits in the stream AUTH_MAIL. A Mailer takes one at a time from there, whichever instance
// is free, writes it from Templates and hands it to a Sender: a server (SMTP), or a Mailbox in
// memory for those who develop. Whoever caused the mail has long had their answer, so a server
// that is slow or away holds up nobody.
//
// A mail is acknowledged once the server has taken it, which is its 250 after the data. What fails
// is tried again, ever later, for a day. Then, or at once if the server refuses the mail for good,
// it is a Failed in the stream AUTH_MAIL_FAILED, sealed as in the outbox, for an operator to look
// at and to put back. A mail whose link or code has expired is not sent any more.
//
// No mail is lost, and each is sent once unless a connection ends, or a process dies, between the
// server's taking it and our noting that. Then it is sent again under the same Message-ID.
//
// The package knows neither the rules by which mails are asked for nor the database.
package mail

import (
	"regexp"
	"strings"
	"time"

	"github.com/zyotra/auth/events"
)

// Letter is a mail as it is sent: one text in two forms.
type Letter struct {
	ID      string      // of the event that asked for it, the same each time it is tried
	Time    time.Time   // when it was asked for
	Mail    events.Mail // what was asked for
	Subject string      // one line
	Text    string
	HTML    string
}

// address finds what may be an address.
var address = regexp.MustCompile(`[^\s<>"'(),:;]+@[^\s<>"'(),:;]+`)

// Masked replaces what may be addresses in a text by their first letter and their domain, as in
// a***@example.com: for logs, and for what servers say.
func Masked(text string) string {
	return address.ReplaceAllStringFunc(text, func(a string) string {
		at := strings.LastIndexByte(a, '@')
		for _, first := range a[:at] {
			return string(first) + "***" + a[at:]
		}
		return "***" + a[at:]
	})
}
