package embedded_test

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testcert"
	"github.com/zyotra/auth/internal/testnats"
)

// everything is what a client may do on a server that restricts nobody.
var everything = []string{
	"administer streams", "ask auth.admin.>", "publish events", "publish mails", "publish to inboxes of others",
	"read inboxes of others", "read requests",
}

func probed(t *testing.T, p embedded.Probe, want ...string) {
	t.Helper()
	got, err := p.Run(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("as %s, clients may %q, %v; want %q", p.Role, got, err, want)
	}
}

func inText(text string) testnats.Config {
	return testnats.Config{Text: func(p testnats.Place) string {
		return "jetstream { store_dir: " + strconv.Quote(p.Store) + " }\n" + text
	}}
}

// A server that restricts nobody lets strangers do everything. The probe changes no stream.
func TestProbeOfAnOpenServer(t *testing.T) {
	t.Parallel()
	s := testnats.Start(t, testnats.Config{})
	js := jetStream(t, dialURL(t, s.URL()).Conn)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ALL", Subjects: []string{"user.>", "session.>", "apikey.>", "key.>", "mail.>", "auth.>"}})
	if err != nil {
		t.Fatal(err)
	}
	probed(t, embedded.Probe{URL: s.URL(), Role: embedded.Service}, everything...)
	probed(t, embedded.Probe{URL: s.URL(), Role: embedded.Edge}, everything...)
	probed(t, embedded.Probe{URL: strings.Replace(s.URL(), "//", "//authd:secret@", 1), Role: embedded.Service}, everything...)
	account, err := js.AccountInfo(t.Context())
	if err != nil || account.Streams != 1 || account.Consumers != 0 {
		t.Errorf("%+v, %v", account, err)
	}
	stream, err := js.Stream(t.Context(), "ALL")
	if err != nil || stream.CachedInfo().State.LastSeq != 0 {
		t.Errorf("the probe is stored: %v, %v", stream.CachedInfo().State, err)
	}
}

// The configuration that nats-config prints passes, with guests, without them, and with TLS.
func TestProbeOfThePrintedConfiguration(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	for name, e := range map[string]embedded.External{"closed": {}, "guests": {AnonymousApp: true}, "TLS": {TLS: ca.Dir, AnonymousApp: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e.Dir = t.TempDir() + "/keys"
			s := testnats.Start(t, testnats.Config{Text: at(external(t, e))})
			var tls []nats.Option
			if e.TLS != "" {
				tls = []nats.Option{nats.RootCAs(ca.CAFile())}
			}
			passes(t, s.URL(), e.Dir, tls)
		})
	}
}

// passes checks that neither strangers nor apps may do anything on a server that is not theirs.
func passes(t *testing.T, url, dir string, tls []nats.Option) {
	t.Helper()
	for _, role := range []string{embedded.Service, embedded.Edge} {
		p := embedded.Probe{URL: url, TLS: tls, Role: role, Ours: []nats.Option{credentials(t, dir, role)}}
		probed(t, p)
		p.App = []nats.Option{credentials(t, dir, embedded.App)}
		probed(t, p)
	}
}

// The embedded server passes, although it has guests.
func TestProbeOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	p := embedded.Probe{URL: s.URL(), Role: embedded.Service, Ours: []nats.Option{s.As(embedded.Service)}}
	probed(t, p)
	p.App = []nats.Option{s.As(embedded.App)}
	probed(t, p)
}

func TestProbeOfOtherConfigurations(t *testing.T) {
	t.Parallel()
	const (
		roles = `{ user: service, password: s }, { user: edge, password: s }`
		app   = `publish: { allow: ["auth.*", "$SRV.>"] }, subscribe: { allow: ["user.>", "session.>", "_INBOX.>"] }`
	)
	for name, c := range map[string]struct {
		text string
		app  []nats.Option
		want []string
	}{
		"strangers are refused":                    {"authorization { users: [ " + roles + " ] }", nil, nil},
		"strangers share an account with apps":     {"authorization { users: [ " + roles + ", { user: app, password: a, permissions: { " + app + " } } ] }\nno_auth_user: app", nil, []string{"read inboxes of others"}},
		"strangers may do everything elsewhere":    {"accounts { APP { users: [ " + roles + " ] }, WEB { users: [ { user: web, password: w } ] } }\nno_auth_user: web", nil, nil},
		"strangers may do everything here":         {"authorization { users: [ " + roles + ", { user: web, password: w } ] }\nno_auth_user: web", nil, everything},
		"strangers may ask everything":             {`authorization { users: [ ` + roles + `, { user: web, password: w, permissions: { publish: ["auth.>"], subscribe: ["_INBOX.>"] } } ] }` + "\nno_auth_user: web", nil, []string{"ask auth.admin.>", "read inboxes of others"}},
		"an imported service is asked as operator": {`accounts { APP { users: [ ` + roles + ` ], exports: [ { service: "auth.>" } ] }, WEB { users: [ { user: web, password: w, permissions: { publish: ["auth.>"], subscribe: ["_INBOX.>"] } } ], imports: [ { service: { account: APP, subject: "auth.>" } } ] } }` + "\nno_auth_user: web", nil, []string{"ask auth.admin.>", "read inboxes of others"}},
		"apps may do what they need":               {"authorization { users: [ " + roles + ", { user: app, password: a, permissions: { " + app + " } } ] }", []nats.Option{nats.UserInfo("app", "a")}, nil},
		"apps may do everything":                   {"authorization { users: [ " + roles + ", { user: app, password: a } ] }", []nats.Option{nats.UserInfo("app", "a")}, everything},
		"apps may publish events":                  {`authorization { users: [ ` + roles + `, { user: app, password: a, permissions: { publish: ["user.>", "_INBOX_service.>"], subscribe: ["_INBOX.>"] } } ] }`, []nats.Option{nats.UserInfo("app", "a")}, []string{"publish events", "publish to inboxes of others"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testnats.Start(t, inText(c.text))
			probed(t, embedded.Probe{URL: strings.Replace(s.URL(), "//", "//service:s@", 1), Role: embedded.Service, App: c.app}, c.want...)
		})
	}
}

// A server that cannot be asked is an error, and never passes.
func TestProbeThatCannotFindOut(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	open := testnats.Start(t, testnats.Config{})
	blind := testnats.Start(t, inText(`authorization { users: [ { user: service, password: s, permissions: { subscribe: ["_INBOX_service.>"] } }, { user: web, password: w } ] }`+"\nno_auth_user: web"))
	full := testnats.Start(t, inText("max_connections: 1"))
	dialURL(t, full.URL())
	for name, p := range map[string]embedded.Probe{
		"nothing listens":          {URL: "nats://127.0.0.1:1", Role: embedded.Service},
		"a server says nothing":    {URL: "nats://" + silent.Addr().String(), Role: embedded.Service},
		"a server wants TLS":       {URL: strings.Replace(open.URL(), "nats://", "tls://", 1), Role: embedded.Service},
		"the server is full":       {URL: full.URL(), Role: embedded.Service},
		"our own user sees little": {URL: strings.Replace(blind.URL(), "//", "//service:s@", 1), Role: embedded.Service},
		"our own user is refused":  {URL: strings.Replace(blind.URL(), "//", "//service:wrong@", 1), Role: embedded.Service},
	} {
		if got, err := p.Run(t.Context()); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
