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
	// events are the subjects that every client may subscribe to.
	events = []string{"user.>", "session.>", "apikey.>", "key.>"}
	// public are the subjects to which every client may send requests.
	public = []string{
		"auth.register", "auth.login", "auth.login.code", "auth.verify", "auth.refresh", "auth.logout",
		"auth.keys", "auth.revocations",
		"auth.account.*", "auth.password.*", "auth.sessions.*", "auth.email.*",
	}
)

// discovery are the subjects of the services protocol, on which clients look up the instances of a service.
const discovery = "$SRV.>"

// guest returns the role of clients without credentials. It has the rights of an app, in a separate
// account. The service's account imports nothing from that account, so a guest can read only the inboxes
// of guests. The server adds the source address to each guest request (the header Nats-Request-Info);
// a client cannot set that header itself.
func guest() Role {
	return Role{
		Name:        "guest",
		About:       "clients without credentials",
		InboxPrefix: "_INBOX",
		Publish:     Subjects{Allow: join(public, discovery)},
		Subscribe:   Subjects{Allow: join(events, "_INBOX.>")},
	}
}

// Role is a set of rights on the bus. The server refuses any subject that the lists do not allow.
type Role struct {
	Name        string
	About       string // its purpose, in one line
	InboxPrefix string // as in nats.CustomInboxPrefix
	Publish     Subjects
	Subscribe   Subjects
}

// Subjects are the allowed subjects, without the denied subjects.
type Subjects struct {
	Allow []string
	Deny  []string
}

// Roles returns the table of rights, for the embedded server and, through External and NSC, for
// other servers.
//
// Inboxes differ by role because a reply may contain tokens: with all inboxes under _INBOX, an app
// could read the replies to the edge. Apps share one inbox prefix, as they share one user. A cluster
// with apps that distrust each other gives each app a user and a prefix.
//
// These rights do not limit the reply subject in a request, and the services protocol answers its
// own subjects without a check of ours. So the role that answers requests may publish to inboxes
// but not events, and the role that publishes events answers no requests: service and relay are two
// roles.
//
// A mail contains credentials, such as a code for a login. So no role may subscribe to mails, and
// the mailer may take them from their queue through one consumer only.
//
// The parts of authd and operators may query their own rights at the server (RightsSubject), as
// "authd doctor" does. Apps may not: the server replies to any subject that the request names.
//
// Clients without credentials have no role in this table: see guest.
//
// A pull request on a stream names the subject that receives the messages. So a subscriber can send
// events, and a mailer mails, to any subject: their keys are for the operator's own services only.
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
			// the events that its verifier needs
			Subscribe: Subjects{Allow: []string{"_INBOX_edge.>", "session.revoked", "user.disabled", "key.rotated"}},
		},
		{
			Name:        Service,
			About:       "answers",
			InboxPrefix: "_INBOX_service",
			Publish: Subjects{Allow: []string{
				"_INBOX.>", "_INBOX_edge.>", "_INBOX_service.>", "_INBOX_admin.>", "_INBOX_subscriber.>", // replies
				"_R_.>",  // replies to guests, which the server maps to their account
				"auth.>", // an instance that includes the edge sends its requests as the service
				RightsSubject,
			}, Deny: []string{"auth.admin.>"}}, // no stranger's request may lead to these subjects
			// the events too: each instance has to receive the revocations of the other instances
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
				"auth.users.snapshot", // the addresses of all users
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
				"mail.failed", // mails that it gave up
				RightsSubject,
				"$JS.API.CONSUMER.INFO.AUTH_MAIL.mailer", "$JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer",
				"$JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer", "$JS.ACK.AUTH_MAIL.mailer.>",
			}},
			Subscribe: Subjects{Allow: []string{"_INBOX_mailer.>"}},
		},
	}
}

// String returns the value of "publish" or "subscribe" in the configuration. It always writes the
// deny list: without it, an empty allow list would allow every subject.
func (s Subjects) String() string {
	return fmt.Sprintf("{ allow: [%s], deny: [%s] }", quoteAll(s.Allow), quoteAll(s.Denied()))
}

// Denied returns the denied subjects: all subjects if none is allowed.
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

// join appends b to a copy of a: it never writes into the array behind a.
func join(a []string, b ...string) []string {
	return append(a[:len(a):len(a)], b...)
}

// names returns the names of all roles. Each role has a key.
func names() (list []string) {
	for _, r := range Roles() {
		list = append(list, r.Name)
	}
	return list
}

// lookup returns the role of a name, or an error if there is none.
func lookup(name string) (Role, error) {
	for _, r := range Roles() {
		if r.Name == name {
			return r, nil
		}
	}
	return Role{}, fmt.Errorf("no role %q on the bus", name)
}
