package embedded_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
)

// right is what a role may do and what not, by subjects that are separated by spaces.
type right struct {
	role                    string
	publish, notPublish     string
	subscribe, notSubscribe string
}

// Subjects are spelled out here instead of taken from the table, so that a slip there shows.
var rights = []right{
	{
		role: embedded.App,
		publish: `auth.register auth.login auth.login.code auth.verify auth.refresh auth.logout auth.keys auth.revocations
			auth.account.get auth.password.change auth.password.forgot auth.sessions.revoke_others auth.email.verify
			$SRV.PING $SRV.INFO.auth`,
		notPublish: `session.revoked user.registered apikey.created key.rotated mail.send
			auth.admin.users.disable auth.admin auth.account auth.account.a.b auth.users.list auth.users.snapshot auth.oidc.authorize auth.verify.x auth.login.x
			_INBOX.x _INBOX_edge.x _INBOX_service.x anything
			mail.requested mail.failed $JS.API.STREAM.MSG.GET.AUTH_MAIL $JS.API.DIRECT.GET.AUTH_MAIL $JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer
			$JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer $JS.ACK.AUTH_MAIL.mailer.1.1.1.1.1
			$JS.API.INFO $JS.API.STREAM.DELETE.X $JS.API.CONSUMER.CREATE.AUTH_EVENTS $JS.ACK.X.Y $SYS.REQ.SERVER.PING $SYS.REQ.USER.INFO`,
		subscribe: `_INBOX.x.* user.registered user.> session.revoked session.> apikey.> key.rotated key.>`,
		notSubscribe: `> *.> auth.login auth.> auth.*  _INBOX_edge.> _INBOX_service.> _INBOX_admin.> mail.>
			$SRV.PING $SRV.> $JS.API.> $JS.> $SYS.> _R_.> anything`,
	},
	{
		role:    embedded.Edge,
		publish: `auth.login auth.verify auth.account.get auth.oidc.authorize $SYS.REQ.USER.INFO`,
		notPublish: `auth.users.snapshot auth.admin.users.disable session.revoked user.registered mail.send _INBOX.x _INBOX_service.x $SRV.PING $JS.API.INFO $JS.ACK.X.Y
			mail.requested $JS.API.STREAM.MSG.GET.AUTH_MAIL $JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer $JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer`,
		subscribe: `_INBOX_edge.x.* session.revoked user.disabled key.rotated`,
		notSubscribe: `> auth.login auth.> _INBOX.> _INBOX_service.> _INBOX_admin.> user.> user.registered session.> key.>
			apikey.> mail.> $SRV.> $JS.>`,
	},
	{
		role:    embedded.Service,
		publish: `_INBOX.x _INBOX_edge.x _INBOX_service.x _INBOX_admin.x _INBOX_subscriber.x auth.revocations $SYS.REQ.USER.INFO`,
		notPublish: `auth.admin.users.disable user.registered session.revoked apikey.created key.rotated mail.send $SRV.PING
			$JS.API.INFO $JS.ACK.X.Y anything $SYS.REQ.SERVER.PING _INBOX_other.x _INBOX_relay.x`,
		subscribe:    `auth.> auth.login $SRV.PING $SRV.> _INBOX_service.x.* session.revoked user.> key.rotated apikey.>`,
		notSubscribe: `> _INBOX.> _INBOX_edge.> _INBOX_admin.> _INBOX_relay.> mail.> $JS.> $JS.API.> $SYS.> anything`,
	},
	{
		role:         embedded.Relay,
		publish:      `user.registered session.revoked apikey.created key.rotated mail.send $JS.API.INFO $JS.ACK.X.Y`,
		notPublish:   `auth.login auth.admin.users.disable _INBOX.x _INBOX_edge.x _INBOX_service.x $SRV.PING $SYS.REQ.SERVER.PING anything`,
		subscribe:    `_INBOX_relay.x.*`,
		notSubscribe: `> auth.login auth.> _INBOX.> _INBOX_edge.> _INBOX_service.> user.> mail.> $SRV.> $JS.> $SYS.>`,
	},
	{
		role:         embedded.Admin,
		publish:      `auth.admin.users.disable auth.verify auth.users.snapshot $SRV.PING $JS.API.INFO $JS.API.STREAM.INFO.X`,
		notPublish:   `session.revoked user.registered mail.send _INBOX.x _INBOX_service.x $SYS.REQ.SERVER.PING anything`,
		subscribe:    `_INBOX_admin.x.* user.> session.> apikey.> key.>`,
		notSubscribe: `> auth.login auth.> _INBOX.> _INBOX_edge.> _INBOX_service.> mail.> $SRV.> $JS.> $SYS.>`,
	},
	{
		role: embedded.Subscriber,
		publish: `auth.register auth.verify auth.account.get auth.users.snapshot $SRV.PING
			$JS.API.CONSUMER.INFO.AUTH_EVENTS.mailer $JS.API.CONSUMER.CREATE.AUTH_EVENTS.mailer
			$JS.API.CONSUMER.MSG.NEXT.AUTH_EVENTS.mailer $JS.ACK.AUTH_EVENTS.mailer.1.1.1.1.1`,
		notPublish: `session.revoked user.registered key.rotated mail.send auth.admin.users.disable auth.users.list
			_INBOX.x _INBOX_subscriber.x _INBOX_service.x $JS.API.INFO $JS.API.STREAM.INFO.AUTH_EVENTS $JS.API.STREAM.DELETE.AUTH_EVENTS
			$JS.API.STREAM.MSG.GET.AUTH_EVENTS $JS.API.CONSUMER.DELETE.AUTH_EVENTS.mailer $JS.API.CONSUMER.LIST.AUTH_EVENTS
			$JS.API.CONSUMER.CREATE.OTHER.mailer $JS.API.CONSUMER.MSG.NEXT.OTHER.mailer $JS.ACK.OTHER.mailer.1.1.1.1.1 anything
			mail.requested $JS.API.STREAM.MSG.GET.AUTH_MAIL $JS.API.CONSUMER.INFO.AUTH_MAIL.mailer $JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer
			$JS.API.CONSUMER.CREATE.AUTH_MAIL.own $JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer $JS.ACK.AUTH_MAIL.mailer.1.1.1.1.1`,
		subscribe:    `_INBOX_subscriber.x.* user.> session.> apikey.> key.>`,
		notSubscribe: `> auth.login auth.> _INBOX.> _INBOX_edge.> _INBOX_service.> _INBOX_admin.> mail.> $SRV.> $JS.> $SYS.>`,
	},
	{
		role: embedded.Mailer,
		publish: `mail.failed $JS.API.CONSUMER.INFO.AUTH_MAIL.mailer $JS.API.CONSUMER.CREATE.AUTH_MAIL.mailer
			$JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.mailer $JS.ACK.AUTH_MAIL.mailer.1.1.1.1.1`,
		notPublish: `mail.requested mail.send auth.login auth.verify auth.admin.users.disable session.revoked user.registered $SRV.PING
			_INBOX.x _INBOX_mailer.x $JS.API.INFO $JS.API.STREAM.INFO.AUTH_MAIL $JS.API.STREAM.DELETE.AUTH_MAIL $JS.API.STREAM.MSG.GET.AUTH_MAIL
			$JS.API.CONSUMER.CREATE.AUTH_MAIL.other $JS.API.CONSUMER.DELETE.AUTH_MAIL.mailer $JS.API.CONSUMER.MSG.NEXT.AUTH_MAIL.other
			$JS.API.CONSUMER.CREATE.AUTH_EVENTS.mailer $JS.API.CONSUMER.CREATE.AUTH_MAIL_FAILED.mailer $JS.ACK.AUTH_EVENTS.mailer.1.1.1.1.1 anything`,
		subscribe:    `_INBOX_mailer.x.*`,
		notSubscribe: `> mail.> mail.requested mail.failed auth.login auth.> user.> session.> _INBOX.> _INBOX_relay.> _INBOX_service.> $SRV.> $JS.> $SYS.>`,
	},
}

func TestRights(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	for _, r := range rights {
		t.Run(r.role, func(t *testing.T) {
			t.Parallel()
			r.hold(t, dial(t, s, r.role))
		})
	}
}

// hold checks that they are the rights of a client.
func (r right) hold(t *testing.T, c client) {
	t.Helper()
	publish := func(subject string) func(*nats.Conn) error {
		return func(nc *nats.Conn) error { return nc.Publish(subject, nil) }
	}
	subscribe := func(subject string) func(*nats.Conn) error {
		return func(nc *nats.Conn) error { _, err := nc.Subscribe(subject, func(*nats.Msg) {}); return err }
	}
	queue := func(subject string) func(*nats.Conn) error {
		return func(nc *nats.Conn) error {
			_, err := nc.QueueSubscribe(subject, "q", func(*nats.Msg) {})
			return err
		}
	}
	for _, subject := range strings.Fields(r.publish) {
		allowed(t, c, "publish "+subject, publish(subject))
	}
	for _, subject := range strings.Fields(r.notPublish) {
		refused(t, c, `for Publish to "`+subject+`"`, publish(subject))
	}
	for _, subject := range strings.Fields(r.subscribe) {
		allowed(t, c, "subscribe "+subject, subscribe(subject))
		allowed(t, c, "queue subscribe "+subject, queue(subject))
	}
	for _, subject := range strings.Fields(r.notSubscribe) {
		refused(t, c, `for Subscription to "`+subject+`"`, subscribe(subject))
		refused(t, c, `for Subscription to "`+subject+`" using queue`, queue(subject))
	}
}

// allowed does something and expects that the server has nothing against it. The server
// complains before it answers a flush.
func allowed(t *testing.T, c client, what string, do func(*nats.Conn) error) {
	t.Helper()
	before := c.LastError()
	if err := do(c.Conn); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := c.LastError(); err != before {
		t.Errorf("%s: %v", what, err)
		<-c.errs
	}
}

// refused does something and expects the client's error handler to hear that it may not.
func refused(t *testing.T, c client, want string, do func(*nats.Conn) error) {
	t.Helper()
	if err := do(c.Conn); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-c.errs:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("no error %s", want)
	}
}

// Each role that asks gets its answer, in an inbox of its own. Relay and mailer ask nobody.
func TestEachRoleHearsItsReply(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	service := dial(t, s, embedded.Service)
	_, err := service.QueueSubscribe("auth.>", "q", func(m *nats.Msg) { _ = m.Respond([]byte(m.Reply)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, role := range embedded.Roles() {
		if role.Name == embedded.Relay || role.Name == embedded.Mailer {
			continue
		}
		reply, err := dial(t, s, role.Name).Request("auth.verify", nil, time.Minute)
		if err != nil {
			t.Errorf("%s: %v", role.Name, err)
			continue
		}
		if !strings.HasPrefix(string(reply.Data), role.InboxPrefix+".") {
			t.Errorf("%s is answered in %s", role.Name, reply.Data)
		}
	}
}

// Strangers are apps, whichever way in they take.
func TestNoCredentials(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	for name, in := range map[string]nats.Option{"socket": nats.Name("stranger"), "in process": s.InProcess()} {
		t.Run(name, func(t *testing.T) {
			c := client{errs: make(chan error, 1)}
			var err error
			c.Conn, err = nats.Connect(s.URL(), in, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.errs <- err }))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			allowed(t, c, "ask", func(nc *nats.Conn) error { return nc.Publish("auth.verify", nil) })
			refused(t, c, `for Publish to "session.revoked"`, func(nc *nats.Conn) error { return nc.Publish("session.revoked", nil) })
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	s, other := start(t, t.TempDir()), start(t, t.TempDir())
	for name, option := range map[string]nats.Option{
		"key of another server": other.As(embedded.Service),
		"user and password":     nats.UserInfo("app", "guess"),
		"system user":           nats.UserInfo("sys", "sys"),
		"token":                 nats.Token("guess"),
	} {
		nc, err := nats.Connect(s.URL(), option)
		if err == nil {
			nc.Close()
		}
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownRole(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	if _, err := nats.Connect(s.URL(), s.As("root")); err == nil || !strings.Contains(err.Error(), `"root"`) {
		t.Error(err)
	}
}

// An app can neither reach the streams by their API nor by a reply subject that looks like
// an acknowledgement.
func TestAppCannotTouchStreams(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	app := dial(t, s, embedded.App)
	js := jetStream(t, dial(t, s, embedded.Relay).Conn)
	if err := keep(t.Context(), js, "ada"); err != nil {
		t.Fatal(err)
	}
	const drop = "$JS.API.STREAM.DELETE.AUTH_EVENTS"
	refused(t, app, `for Publish to "`+drop+`"`, func(nc *nats.Conn) error { return nc.PublishRequest(drop, nc.NewInbox(), nil) })
	refused(t, app, `for Publish with Reply of "$JS.ACK.`, func(nc *nats.Conn) error {
		return nc.PublishRequest("auth.verify", "$JS.ACK.AUTH_EVENTS.c.1.1.1.1.1", nil)
	})
	if _, err := js.Stream(t.Context(), "AUTH_EVENTS"); err != nil {
		t.Error(err)
	}
	if err := dropStream(t, s); err != nil {
		t.Errorf("an admin may: %v", err)
	}
	if _, err := js.Stream(t.Context(), "AUTH_EVENTS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the admin's request did nothing: %v", err)
	}
}

func dropStream(t *testing.T, s *embedded.Server) error {
	return jetStream(t, dial(t, s, embedded.Admin).Conn).DeleteStream(t.Context(), "AUTH_EVENTS")
}
