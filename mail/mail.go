// Package mail sends the mails that the service requests.
//
// The event mail.requested requests a mail. It leaves the outbox as every event does
// and waits in the stream AUTH_MAIL. The Mailer of any free instance takes the mail from
// the stream, writes it from Templates and passes it to a Sender: a server (SMTP), or a Mailbox in
// memory for development. The request that caused the mail is answered before, so a
// slow or unreachable server delays no request.
//
// The Mailer acknowledges a mail after the server has accepted it with a 250 after the data. It retries
// a failed mail with increasing back-off for a day. Then, or immediately if the server permanently refuses
// the mail, the mail becomes a Failed in the stream AUTH_MAIL_FAILED, sealed as in the outbox, which an
// operator can inspect and put back. A mail whose link or code has expired is not sent.
//
// No mail is lost. Each is sent once unless a connection ends, or a process dies, after the
// server accepts the mail and before the stream confirms the acknowledgement. Then the mail is sent
// again under the same Message-ID.
//
// The package depends neither on the rules that request mails nor on the database.
package mail

import (
	"regexp"
	"strings"
	"time"

	"github.com/zyotra/auth/events"
)

// Letter is a mail in the form that is sent: one text, plain and as HTML.
type Letter struct {
	ID      string      // of the event that requested it, the same for each attempt
	Time    time.Time   // when it was requested
	Mail    events.Mail // the requested mail
	Subject string      // one line
	Text    string
	HTML    string
}

// address matches possible mail addresses.
var address = regexp.MustCompile(`[^\s<>"'(),:;]+@[^\s<>"'(),:;]+`)

// Masked replaces possible mail addresses in a text by their first letter and their domain, as in
// a***@example.com. It is for logs and for the answers of servers.
func Masked(text string) string {
	return address.ReplaceAllStringFunc(text, func(a string) string {
		at := strings.LastIndexByte(a, '@')
		for _, first := range a[:at] {
			return string(first) + "***" + a[at:]
		}
		return "***" + a[at:]
	})
}
