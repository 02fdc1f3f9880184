package embedded_test

import (
	"encoding/json"
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

// patience is how long something may take that is bound to happen, on a busy machine.
const patience = 2 * time.Minute

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
		publish: `_INBOX.x _INBOX_edge.x _INBOX_service.x _INBOX_admin.x _INBOX_subscriber.x _R_.x auth.revocations $SYS.REQ.USER.INFO`,
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
	t.Run("guest", func(t *testing.T) {
		t.Parallel()
		rights[0].hold(t, dialURL(t, s.URL())) // the app's
	})
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
	case <-time.After(patience):
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

// A client without credentials is a guest, over the socket and in the process.
func TestNoCredentials(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	for name, in := range map[string]nats.Option{"socket": nats.Name("stranger"), "in process": s.InProcess()} {
		t.Run(name, func(t *testing.T) {
			c := dialURL(t, s.URL(), in)
			allowed(t, c, "ask", func(nc *nats.Conn) error { return nc.Publish("auth.verify", nil) })
			refused(t, c, `for Publish to "session.revoked"`, func(nc *nats.Conn) error { return nc.Publish("session.revoked", nil) })
		})
	}
}

// Guests are let in on a listener that only this machine can reach, unless the configuration says
// otherwise. The key of an app is good everywhere.
func TestGuestsAreLetInOnLoopback(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		listen string
		guests embedded.Guests
		want   bool
	}{
		{"127.0.0.1:0", embedded.GuestsOnLoopback, true},
		{"127.8.8.8:0", embedded.GuestsOnLoopback, true},
		{"localhost:0", embedded.GuestsOnLoopback, true},
		{"0.0.0.0:0", embedded.GuestsOnLoopback, false},
		{"[::]:0", embedded.GuestsOnLoopback, false},
		{":0", embedded.GuestsOnLoopback, false},
		{"0.0.0.0:0", embedded.GuestsAnywhere, true},
		{"127.0.0.1:0", embedded.GuestsNever, false},
	} {
		s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: c.listen, Guests: c.guests})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Shutdown)
		nc, err := nats.Connect(s.URL())
		switch {
		case err == nil:
			nc.Close()
		case !errors.Is(err, nats.ErrAuthorization):
			t.Fatal(err)
		}
		if (err == nil) != c.want || s.AllowsGuests() != c.want {
			t.Errorf("%s, %d: a guest connects with %v, and AllowsGuests is %v", c.listen, c.guests, err, s.AllowsGuests())
		}
		dial(t, s, embedded.App)
	}
}

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]bool{
		embedded.Off: true, "127.0.0.1:4222": true, "[::1]:0": true, "[::ffff:127.0.0.1]:0": true, "localhost:4222": true,
		"0.0.0.0:4222": false, ":4222": false, "[::]:4222": false, "192.0.2.1:4222": false, "[fe80::1%eth0]:4222": false, "169.254.1.1:1": false,
	} {
		if got, err := embedded.IsLoopback(t.Context(), listen); err != nil || got != want {
			t.Errorf("%s: %v, %v", listen, got, err)
		}
	}
	if _, err := embedded.IsLoopback(t.Context(), "nowhere.invalid:4222"); err == nil {
		t.Error("a host that does not exist has an address")
	}
}

// A guest reads no inbox of a client with a key, and hears the events and the answers to itself.
func TestGuestsReadNoInboxOfOthers(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	guestsAreApart(t, func() client { return dialURL(t, s.URL()) }, func(role string) client { return dial(t, s, role) })
}

// guestsAreApart checks what a guest gets of what others send, and what others get of its requests.
func guestsAreApart(t *testing.T, dialGuest func() client, in func(role string) client) {
	t.Helper()
	service, app, guest := in(embedded.Service), in(embedded.App), dialGuest()
	seen := make(chan *nats.Msg, 16)
	_, err := service.QueueSubscribe("auth.verify", "q", func(m *nats.Msg) { seen <- m; _ = m.Respond([]byte("yes")) })
	if err := errors.Join(err, service.Flush()); err != nil {
		t.Fatal(err)
	}
	inboxes, heard := subscribe(t, guest, "_INBOX.>"), subscribe(t, guest, "session.>")

	asked(t, app, "auth.verify")
	if info := (<-seen).Header.Get("Nats-Request-Info"); info != "" {
		t.Errorf("the request of an app is stamped with %s", info)
	}
	publish(t, in(embedded.Relay), "session.revoked")
	if _, err := heard.NextMsg(patience); err != nil {
		t.Errorf("a guest hears no event: %v", err)
	}
	if n, _, _ := inboxes.Pending(); n != 0 { // it was sent before the event
		t.Error("a guest reads the inbox of an app")
	}

	forged := nats.NewMsg("auth.verify")
	forged.Header.Set("Nats-Request-Info", `{"acc":"APP","host":"192.0.2.1"}`)
	if _, err := guest.RequestMsg(forged, patience); err != nil {
		t.Fatalf("a guest is not answered: %v", err)
	}
	var info struct{ Acc, Host string }
	if err := json.Unmarshal([]byte((<-seen).Header.Get("Nats-Request-Info")), &info); err != nil || info.Acc != "GUESTS" || info.Host != "127.0.0.1" {
		t.Errorf("the request of a guest is stamped with %+v, %v", info, err)
	}
	if _, err := dialGuest().Request("auth.logout", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("nobody answers a guest, which it learns with %v", err)
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
