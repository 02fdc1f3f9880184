package embedded

import (
	"fmt"
	"strings"
	"text/template"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

const (
	// maxMemory bounds memory-backed streams and consumers, in bytes. Our streams are on disk, so
	// this is for the occasional ephemeral consumer, and keeps an app from growing the process.
	maxMemory = 64 << 20

	// maxDisk bounds all streams together, in bytes: large enough for a month of events of a busy
	// service, and small enough to leave space for the database on the same disk.
	maxDisk = 4 << 30

	// maxConsumers is the limit of consumers for a stream that sets no limit itself. A fleet in
	// which each instance follows the events reaches the server's own limit of 1000.
	maxConsumers = 10_000

	// maxConnections is below the server's 65536, because the process shares its file
	// descriptors with HTTP and the database: an app that leaks connections must not exhaust them.
	maxConnections = 4096

	// maxGuests bounds the connections of all guests together. The remaining connections are for clients
	// with keys, so that guests cannot lock out operators.
	maxGuests = maxConnections / 4

	// writeDeadline is how long a client may leave its socket unread. Its unread messages
	// occupy our memory.
	writeDeadline = "5s"

	// pingInterval and pingMax bound when the server disconnects a client that the network cuts off
	// silently: after the third interval. Until then the server still sends requests to that client.
	pingInterval = "3s"
	pingMax      = 2
)

// accountsText is the template of the accounts: the service's with the roles, the guests' if guests are
// admitted, and the system account.
const accountsText = `{{define "user"}}
      {
        nkey: "{{.Key}}"
        permissions: {
          publish: {{.Role.Publish}}
          subscribe: {{.Role.Subscribe}}
        }
      }
{{- end}}
{{- define "accounts"}}system_account: SYS
accounts {
  SYS {
{{- with .System}}
    # the operators of the servers: nats server report, nats server raft
    users = [ { nkey: "{{.}}" } ]
{{- end}}
  }
  APP {
    jetstream: enabled
    users = [
{{- range .Users}}
      # {{.Role.Name}}: {{.Role.About}}{{if .Former}} (the former key){{end}}
      {{- template "user" .}}
{{- end}}
    ]
{{- if .Guest}}
    exports = [
{{- range .Public}}
      { service: {{quote .}}, accounts: [GUESTS] }
{{- end}}
      { service: {{quote .Discovery}}, response_type: stream, accounts: [GUESTS] } # every instance answers
{{- range .Events}}
      { stream: {{quote .}}, accounts: [GUESTS] }
{{- end}}
    ]
{{- end}}
  }
{{- with .Guest}}
  # Clients without credentials. "share" has the server say in each request where it came from.
  GUESTS {
    limits { max_connections: {{$.MaxGuests}} } # the rest of max_connections is for clients with keys
    users = [
      {{- template "user" .}}
    ]
    imports = [
{{- range $.Public}}
      { service: { account: APP, subject: {{quote .}} }, share: true }
{{- end}}
      { service: { account: APP, subject: {{quote $.Discovery}} } }
{{- range $.Events}}
      { stream: { account: APP, subject: {{quote .}} } }
{{- end}}
    ]
  }
{{- end}}
}
{{- with .Guest}}
no_auth_user: "{{.Key}}" # the guest
{{- end}}
{{end}}`

// configText is the configuration as nats-server would read it from a file. The configuration
// language has no setting for signals, so options sets it.
var configText = template.Must(template.New("nats").Funcs(template.FuncMap{"quote": quote}).Parse(
	accountsText + `server_name: "authd"
{{- if .Listening}}
host: {{quote .Host}}
port: {{.Port}}
{{- end}}
max_connections: {{.MaxConnections}}
write_deadline: "{{.WriteDeadline}}"
ping_interval: "{{.PingInterval}}"
ping_max: {{.PingMax}}

jetstream {
  store_dir: {{quote .Dir}} # the server adds /jetstream
  sync_interval: always
  max_memory_store: {{.MaxMemory}}
  max_file_store: {{.MaxDisk}}
  limits { default_max_consumers: {{.MaxConsumers}} }
}

{{template "accounts" .}}`))

type configUser struct {
	Role   Role
	Key    string // the public key
	Former bool   // the role's former key
}

// options returns the server's options. keys are the keys of the roles, by role name.
func options(c Config, at listener, keys map[string]nkeys.KeyPair) (*server.Options, error) {
	users, err := configUsers(keys)
	if err != nil {
		return nil, err
	}
	var anonymous *configUser
	if c.Guests.allowed(at.loopback) {
		if anonymous, err = newGuest(); err != nil {
			return nil, err
		}
	}
	var text strings.Builder
	err = configText.Execute(&text, map[string]any{
		"Listening": c.Listen != Off, "Host": at.host, "Port": at.port,
		"Dir": c.Dir, "System": "", "Users": users,
		"Guest": anonymous, "MaxGuests": maxGuests, "Public": public, "Discovery": discovery, "Events": events,
		"MaxConnections": maxConnections, "WriteDeadline": writeDeadline,
		"PingInterval": pingInterval, "PingMax": pingMax,
		"MaxMemory": maxMemory, "MaxDisk": maxDisk, "MaxConsumers": maxConsumers,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	opts := &server.Options{DontListen: c.Listen == Off, NoSigs: true, DisableJetStreamBanner: true}
	if err := opts.ProcessConfigString(text.String()); err != nil {
		return nil, fmt.Errorf("embedded NATS server: configuration: %w", err)
	}
	return opts, nil
}

// configUsers returns the user of each role.
func configUsers(keys map[string]nkeys.KeyPair) (users []configUser, err error) {
	for _, role := range Roles() {
		public, err := keys[role.Name].PublicKey()
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", role.Name, err)
		}
		users = append(users, configUser{Role: role, Key: public})
	}
	return users, nil
}

// newGuest returns the user of clients without credentials, an nkey whose seed is discarded: no
// client signs for it. A random password would have the same effect, but the configuration would
// contain it in plain text, and the server warns of that at each start.
func newGuest() (*configUser, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("guest key: %w", err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("guest key: %w", err)
	}
	return &configUser{Role: guest(), Key: public}, nil
}

// quote returns s as a string of the configuration language. The language supports only these
// escapes, so Go's own quoting does not fit; every other character, including $, is literal.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}
