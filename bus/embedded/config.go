package embedded

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"text/template"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

const (
	// maxMemory bounds memory-backed streams and consumers. Ours are on disk, so this is for
	// the odd ephemeral consumer, and keeps an app from growing the process.
	maxMemory = 64 << 20

	// maxDisk bounds all streams together: room for a month of events of a busy service
	// and small enough to leave the database, which shares the disk, its space.
	maxDisk = 4 << 30

	// maxConsumers is the most consumers a stream may have that sets no limit itself. The
	// server's own 1000 is met by a fleet in which each instance follows the events.
	maxConsumers = 10_000

	// maxConnections is below the server's 65536, because the process shares its file
	// descriptors with HTTP and the database: an app that leaks connections must not take all.
	maxConnections = 4096

	// writeDeadline is how long a client may leave its socket unread. What it has not
	// read meanwhile is our memory.
	writeDeadline = "5s"

	// pingInterval and pingMax say how soon a client is let go that a network without a word keeps
	// from us: after the third interval. Until then requests are dealt to it as to any other.
	pingInterval = "3s"
	pingMax      = 2
)

// accountsText is the account of the service with the roles, and that of the system.
const accountsText = `{{define "accounts"}}system_account: SYS
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
      {
        nkey: "{{.Key}}"
        permissions: {
          publish: {{.Role.Publish}}
          subscribe: {{.Role.Subscribe}}
        }
      }
{{- end}}
    ]
  }
}
{{- with .NoAuthUser}}
no_auth_user: "{{.}}" # an app: whoever has no credentials
{{- end}}
{{end}}`

// configText is what nats-server would read from a file. Signals belong to the program and
// have no word in this language, so options sets that.
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
	Key    string // public
	Former bool   // on its way out
}

// options makes the server's options: keys name the roles that have one.
func options(c Config, host string, port int, keys map[string]nkeys.KeyPair) (*server.Options, error) {
	users, app, err := configUsers(keys)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	err = configText.Execute(&text, map[string]any{
		"Listening": c.Listen != Off, "Host": host, "Port": port,
		"Dir": c.Dir, "System": "", "Users": users, "NoAuthUser": app,
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

// configUsers lists the user of each role, and which of them is the app's.
//
// The app's user is an nkey whose seed is thrown away: nobody can sign for it, and nobody
// has to, being the user of those without credentials. A random password would do the same
// but has to stand in the text in the clear, of which the server warns at each start.
func configUsers(keys map[string]nkeys.KeyPair) (users []configUser, app string, err error) {
	for _, role := range Roles() {
		key := keys[role.Name]
		if role.Name == App {
			if key, err = nkeys.CreateUser(); err != nil {
				return nil, "", fmt.Errorf("app key: %w", err)
			}
		}
		public, err := key.PublicKey()
		if err != nil {
			return nil, "", fmt.Errorf("%s key: %w", role.Name, err)
		}
		if role.Name == App {
			app = public
		}
		users = append(users, configUser{Role: role, Key: public})
	}
	return users, app, nil
}

// parseListen splits a "host:port" in the server's terms, in which any free port is -1 and 0
// would be 4222.
func parseListen(listen string) (host string, port int, err error) {
	if listen == Off {
		return "", 0, nil
	}
	host, digits, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("NATS_LISTEN %q: want host:port or %s: %w", listen, Off, err)
	}
	port, err = strconv.Atoi(digits)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("NATS_LISTEN %q: want host:port or %s: bad port %q", listen, Off, digits)
	}
	if port == 0 {
		port = -1
	}
	return host, port, nil
}

// quote writes s as a string of the configuration language. It knows these escapes only,
// so Go's own quoting is not for it; everything else, a $ too, stands for itself.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s) + `"`
}
