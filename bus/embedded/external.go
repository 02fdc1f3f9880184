package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/gofrs/flock"
	"github.com/nats-io/nkeys"
)

const (
	// system is the key name of the system account.
	system = "sys"

	// routesPassword is the file with the password by which the servers of a cluster authenticate
	// each other. It is not a key: routes support only passwords.
	routesPassword = "routes.password"

	// routesPort is the port on which the servers of a cluster listen for each other.
	routesPort = 6222

	// leastServers is the number of servers that a cluster needs to survive the loss of one.
	leastServers = 3

	// maxExternalConnections is the limit of connections to a server in a separate process, and
	// maxExternalGuests the limit of its guests' connections.
	maxExternalConnections = 10_000
	maxExternalGuests      = maxExternalConnections / 4

	// visitor is the key name of guests. The key is kept, so that a second run returns the same
	// configuration; no client needs it.
	visitor = "guest"
)

// External is the input for the configuration of NATS servers outside of authd. With only Dir set,
// it is one server without TLS, whose clients need credentials.
type External struct {
	// Dir contains the keys, <role>.nk. Config keeps existing keys, so that a second run returns
	// the same configuration. The servers admit <role>.former.nk as well as <role>.nk. Config
	// makes Dir with mode 0700 if absent. The keys directory of an embedded server fits too.
	Dir string
	// Servers are the hosts of a cluster, three or more; none for a single server.
	Servers []string
	// AnonymousApp admits clients without credentials, as guests: see Guests.
	AnonymousApp bool
	// TLS is the directory on the servers with ca.pem, server.pem and server-key.pem; "" is without TLS.
	TLS string
}

var externalText = template.Must(template.New("external").Funcs(template.FuncMap{"quote": quote}).Parse(
	accountsText + `# NATS for authd, by "authd nats-config". To try it: nats-server -c FILE -t; to apply a change
# to a server that runs: nats-server --signal reload.
{{- if .Servers}}
# The same file is for all servers; it holds a password of theirs, so keep it from others (0600).

server_name: $SERVER_NAME # from the environment: a name of its own for each, which begins with a letter
{{- else}}

server_name: "nats"
{{- end}}
listen: "0.0.0.0:4222"
http: "127.0.0.1:8222" # /healthz and more, without a login: not for others
{{if .TLS}}
tls {
  cert_file: {{quote (print .TLS "/server.pem")}}
  key_file: {{quote (print .TLS "/server-key.pem")}}
  timeout: 5
}
{{else}}
# Without TLS, tokens and passwords cross the network in the clear. --tls DIR writes:
# tls { cert_file: "/etc/nats/tls/server.pem", key_file: "/etc/nats/tls/server-key.pem", timeout: 5 }
{{end}}
max_connections: {{.MaxConnections}} # each takes a file descriptor
write_deadline: "{{.WriteDeadline}}" # what a client has not read meanwhile is the server's memory
# A replica that the network cuts off gets its share of requests until it is let go, after three of these:
ping_interval: "{{.PingInterval}}"
ping_max: {{.PingMax}}

jetstream {
  store_dir: "/data" # the server adds /jetstream
  sync_interval: always # what is acknowledged outlives a power cut, of all servers too
  max_memory_store: {{.MaxMemory}}
  max_file_store: {{.MaxDisk}} # of all streams together; those of authd take up to 1.4 GB
  limits { default_max_consumers: {{.MaxConsumers}} }
}
{{with .Servers}}
cluster {
  name: "authd"
  listen: "0.0.0.0:{{$.RoutesPort}}"
  authorization { user: "authd", password: "{{$.Password}}", timeout: 5 }
  routes: [
{{- range .}}
    "nats-route://authd:{{$.Password}}@{{.}}:{{$.RoutesPort}}"
{{- end}}
  ]
{{- if $.TLS}}
  tls { # each proves to the other who it is: the certificates must be for servers and clients
    cert_file: {{quote (print $.TLS "/server.pem")}}
    key_file: {{quote (print $.TLS "/server-key.pem")}}
    ca_file: {{quote (print $.TLS "/ca.pem")}}
    timeout: 5
  }
{{- else}}
  # tls { cert_file: "/etc/nats/tls/server.pem", key_file: "/etc/nats/tls/server-key.pem", ca_file: "/etc/nats/tls/ca.pem", timeout: 5 }
{{- end}}
}
{{end}}
# In operator mode all that follows gives way to one line: include "resolver.conf"
{{template "accounts" .}}`))

// Config makes absent keys and returns the configuration, in the language of nats-server. It
// returns an ErrServers error for invalid Servers, before it makes any file, and an error of the
// file system or of a key file otherwise.
func (e External) Config() (string, error) {
	servers, err := routes(e.Servers)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(e.Dir, 0o700); err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	// The directory is its own lock file, so that it contains no extra file.
	lock := flock.New(e.Dir, flock.SetFlag(os.O_RDONLY))
	if err := lock.Lock(); err != nil {
		return "", fmt.Errorf("lock %s: %w", e.Dir, err)
	}
	defer func() { _ = lock.Close() }() // the lock is held

	keys, err := loadKeys(e.Dir, e.keyNames())
	if err != nil {
		return "", err
	}
	values := map[string]any{
		"Servers": servers, "RoutesPort": routesPort, "TLS": strings.TrimRight(e.TLS, "/"),
		"Public": public, "Discovery": discovery, "Events": events, "MaxGuests": maxExternalGuests,
		"MaxConnections": maxExternalConnections, "WriteDeadline": writeDeadline,
		"PingInterval": pingInterval, "PingMax": pingMax,
		"MaxMemory": maxMemory, "MaxDisk": maxDisk, "MaxConsumers": maxConsumers,
	}
	if err := e.users(keys, values); err != nil {
		return "", err
	}
	if len(servers) > 0 {
		if values["Password"], err = loadPassword(filepath.Join(e.Dir, routesPassword)); err != nil {
			return "", err
		}
	}
	var text strings.Builder
	if err := externalText.Execute(&text, values); err != nil {
		return "", fmt.Errorf("configuration of NATS: %w", err)
	}
	return text.String(), nil
}

// users adds the users of the roles, with their former keys, of the system account and of guests.
func (e External) users(keys map[string]nkeys.KeyPair, values map[string]any) error {
	var users []configUser
	for _, role := range Roles() {
		key, err := keys[role.Name].PublicKey()
		if err != nil {
			return fmt.Errorf("%s key: %w", role.Name, err)
		}
		users = append(users, configUser{Role: role, Key: key})
		former, err := publicKey(seedPath(e.Dir, role.Name+".former"))
		switch {
		case err == nil:
			users = append(users, configUser{Role: role, Key: former, Former: true})
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	key, err := keys[system].PublicKey()
	if err != nil {
		return fmt.Errorf("%s key: %w", system, err)
	}
	values["Users"], values["System"] = users, key
	if !e.AnonymousApp {
		return nil
	}
	if key, err = keys[visitor].PublicKey(); err != nil {
		return fmt.Errorf("%s key: %w", visitor, err)
	}
	values["Guest"] = &configUser{Role: guest(), Key: key}
	return nil
}

// keyNames returns the names of all keys in the configuration.
func (e External) keyNames() []string {
	list := append(names(), system)
	if e.AnonymousApp {
		list = append(list, visitor)
	}
	return list
}

func publicKey(file string) (string, error) {
	pair, err := readSeed(file)
	if err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// ErrServers means that a list of servers does not form a cluster.
var ErrServers = errors.New("not the servers of a cluster")

var hostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// routes returns the hosts of a cluster in the form of URLs: IPv6 addresses in brackets.
func routes(servers []string) (hosts []string, err error) {
	if len(servers) > 0 && len(servers) < leastServers {
		return nil, fmt.Errorf("%w: %d cannot lose one, %d can", ErrServers, len(servers), leastServers)
	}
	seen := map[string]bool{}
	for _, server := range servers {
		host := strings.TrimSpace(server)
		ip, err := netip.ParseAddr(host)
		switch {
		case err == nil && ip.Is6() && ip.Zone() == "":
			host = "[" + host + "]"
		case err != nil && !hostname.MatchString(host):
			return nil, fmt.Errorf("%w: %q is neither a host name nor an address; routes are on port %d", ErrServers, host, routesPort)
		}
		if seen[host] {
			return nil, fmt.Errorf("%w: %s is there twice", ErrServers, host)
		}
		seen[host] = true
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// loadPassword reads a password, and makes it if the file is absent. The caller holds a lock of
// the file's directory.
func loadPassword(file string) (string, error) {
	line, err := readSecret(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeSecret(file, []byte(rand.Text())); err != nil {
			return "", fmt.Errorf("write %s: %w", file, err)
		}
		line, err = readSecret(file)
	}
	if err != nil {
		return "", err
	}
	if !password.Match(line) {
		return "", fmt.Errorf("%s: not a password of 26 letters and digits or more", file)
	}
	return string(line), nil
}

// password matches a password that needs no quoting, neither in the configuration nor in a URL.
var password = regexp.MustCompile(`^[A-Za-z0-9]{26,}$`)
