package embedded

import (
	"fmt"
	"strings"
)

// The names of the roles.
const (
	App        = "app"
	Edge       = "edge"
	Service    = "service"
	Relay      = "relay"
	Admin      = "admin"
	Subscriber = "subscriber"
	Mailer     = "mailer"
)

var (
	// events are the subjects that every client may hear.
	events = []string{"user.>", "session.>", "apikey.>", "key.>"}
	// public are the subjects that every client may ask.
	public = []string{
		"auth.register", "auth.login", "auth.login.code", "auth.verify", "auth.refresh", "auth.logout",
		"auth.keys", "auth.revocations",
		"auth.account.*", "auth.password.*", "auth.sessions.*", "auth.email.*",
	}
)

// discovery are the subjects of the services protocol: who serves this?
const discovery = "$SRV.>"

// guest has the rights of clients without credentials. They are those of an app, in an account of
// their own: the account of the service imports nothing from it, so a guest sees no inbox but those
// of other guests, and the server stamps each of their requests with the address that it came from
// (the header Nats-Request-Info), which no client can do for itself.
func guest() Role {
	return Role{
		Name:        "guest",
		About:       "clients without credentials",
		InboxPrefix: "_INBOX",
		Publish:     Subjects{Allow: join(public, discovery)},
		Subscribe:   Subjects{Allow: join(events, "_INBOX.>")},
	}
}

// Role is a set of rights on the bus. What neither list allows is refused.
type Role struct {
	Name        string
	About       string // who it is for, in a line
	InboxPrefix string // as in nats.CustomInboxPrefix
	Publish     Subjects
	Subscribe   Subjects
}

// Subjects are the allowed ones, without the denied ones.
type Subjects struct {
	Allow []string
	Deny  []string
}

// Roles is the table of rights, for the embedded server and, by External and NSC, for any
// other.
//
// Inboxes differ by role because a reply holds tokens: were they all under _INBOX, an app
// could read the replies to the edge. Apps share one, as they share one user; a cluster with
// apps that distrust each other gives each a user and a prefix.
//
// Nothing here limits the reply subject in a request, and the services protocol answers its
// own subjects without asking us. So whoever answers may publish to inboxes but not events,
// and whoever publishes events answers nobody: service and relay are two roles.
//
// A mail holds what lets its reader in. So nobody may subscribe to mails, and the mailer may take
// them from their queue by one consumer alone.
//
// The parts of authd and operators may ask the server what they may (RightsSubject), which "authd
// doctor" does. Apps may not: the server answers there on whatever subject it is told to.
//
// Clients without credentials are no role of this table: see guest.
//
// A subscriber can have events, and a mailer mails, sent to any subject: who pulls from a
// stream says where to. So their keys are for services of one's own.
func Roles() []Role {
	return []Role{
		{
			Name:        App,
			About:       "whoever asks: verifies, registers, hears the events",
			InboxPrefix: "_INBOX",
			Publish:     Subjects{Allow: join(public, discovery)},
			Subscribe:   Subjects{Allow: join(events, "_INBOX.>")},
		},
		{
			Name:        Edge,
			About:       "the HTTP side: asks for strangers",
			InboxPrefix: "_INBOX_edge",
			Publish:     Subjects{Allow: []string{"auth.>", RightsSubject}, Deny: []string{"auth.admin.>", "auth.users.>", "auth.place.>"}},
			// the news its verifier needs
			Subscribe: Subjects{Allow: []string{"_INBOX_edge.>", "session.revoked", "user.disabled", "key.rotated"}},
		},
		{
			Name:        Service,
			About:       "answers",
			InboxPrefix: "_INBOX_service",
			Publish: Subjects{Allow: []string{
				"_INBOX.>", "_INBOX_edge.>", "_INBOX_service.>", "_INBOX_admin.>", "_INBOX_subscriber.>", // replies
				"_R_.>",  // replies to guests, which the server maps to their account
				"auth.>", // an instance with the edge in it asks as the service
				RightsSubject,
			}, Deny: []string{"auth.admin.>"}}, // which no stranger's request may lead to
			// the events too: each instance has to hear what the others revoke
			Subscribe: Subjects{Allow: join(events, "_INBOX_service.>", "auth.>", "$SRV.>")},
		},
		{
			Name:        Relay,
			About:       "publishes events, keeps the streams",
			InboxPrefix: "_INBOX_relay",
			Publish:     Subjects{Allow: join(events, "mail.>", "$JS.API.>", "$JS.ACK.>", RightsSubject)},
			Subscribe:   Subjects{Allow: []string{"_INBOX_relay.>"}},
		},
		{
			Name:        Admin,
			About:       "the command line",
			InboxPrefix: "_INBOX_admin",
			Publish:     Subjects{Allow: []string{"auth.>", "$SRV.>", "$JS.API.>", RightsSubject}},
			Subscribe:   Subjects{Allow: join(events, "_INBOX_admin.>")},
		},
		{
			Name:        Subscriber,
			About:       "services that must miss no event: events.Subscribe",
			InboxPrefix: "_INBOX_subscriber",
			Publish: Subjects{Allow: join(public, discovery,
				"auth.users.snapshot", // everybody's addresses
				"$JS.API.CONSUMER.INFO.AUTH_EVENTS.*", "$JS.API.CONSUMER.CREATE.AUTH_EVENTS.*",
				"$JS.API.CONSUMER.MSG.NEXT.AUTH_EVENTS.*", "$JS.ACK.AUTH_EVENTS.>",
			)},
			Subscribe: Subjects{Allow: join(events, "_INBOX_subscriber.>")},
		},
		{
			Name:        Mailer,
			About:       "sends mails, alone of all to read them",
			InboxPrefix: "_INBOX_mailer",
			Publish: Subjects{Allow: []string{
				"mail.failed", // what it gave up
				RightsSubject,
				"$JS.API.CONSUMER.INFO.AUTH_MAIL.mailer", "$JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer",
				"$JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer", "$JS.ACK.AUTH_MAIL.mailer.>",
			}},
			Subscribe: Subjects{Allow: []string{"_INBOX_mailer.>"}},
		},
	}
}

// String is the value of "publish" or "subscribe". The deny list is always written: without
// it, an empty allow list would mean everything.
func (s Subjects) String() string {
	return fmt.Sprintf("{ allow: [%s], deny: [%s] }", quoteAll(s.Allow), quoteAll(s.Denied()))
}

// Denied are the denied subjects: all of them where none is allowed.
func (s Subjects) Denied() []string {
	if len(s.Allow) == 0 {
		return []string{">"}
	}
	return s.Deny
}

func quoteAll(subjects []string) string {
	quoted := make([]string, len(subjects))
	for i, s := range subjects {
		quoted[i] = quote(s)
	}
	return strings.Join(quoted, ", ")
}

// join never writes into the array behind a.
func join(a []string, b ...string) []string {
	return append(a[:len(a):len(a)], b...)
}

// names are the names of all roles. Each has a key.
func names() (list []string) {
	for _, r := range Roles() {
		list = append(list, r.Name)
	}
	return list
}

// lookup finds a role by its name.
func lookup(name string) (Role, error) {
	for _, r := range Roles() {
		if r.Name == name {
			return r, nil
		}
	}
	return Role{}, fmt.Errorf("no role %q on the bus", name)
}
