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
	// system is the name of the key of the system account.
	system = "sys"

	// routesPassword is the file of what the servers of a cluster know each other by. It is
	// no key: routes know passwords alone.
	routesPassword = "routes.password"

	// routesPort is where the servers of a cluster listen for each other.
	routesPort = 6222

	// leastServers is how many a cluster needs to go on when one is lost.
	leastServers = 3

	// maxExternalConnections is that of a server that shares its process with nothing, and
	// maxExternalGuests that of its guests.
	maxExternalConnections = 10_000
	maxExternalGuests      = maxExternalConnections / 4

	// visitor is the name of the key of guests. It is kept, so that the same configuration comes out
	// again; no client needs it.
	visitor = "guest"
)

// External says what the configuration of NATS servers outside of authd is made from. The
// zero value of all but Dir is one server, whose clients need credentials, without TLS.
type External struct {
	// Dir has the keys, <role>.nk. Those that are there are kept, so that the same
	// configuration comes out again; a <role>.former.nk is let in beside <role>.nk. It is
	// made with mode 0700 if absent. The keys of an embedded server are such a directory.
	Dir string
	// Servers are the hosts of a cluster, three or more; none for a server alone.
	Servers []string
	// AnonymousApp lets in clients without credentials, as guests: see Guests.
	AnonymousApp bool
	// TLS is the directory on the servers that has ca.pem, server.pem and server-key.pem.
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

// Config makes the keys that are absent and returns the configuration, in the language of
// nats-server. What is wrong with the fields is an error of ErrServers or of the file system;
// after one of ErrServers nothing was made.
func (e External) Config() (string, error) {
	servers, err := routes(e.Servers)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(e.Dir, 0o700); err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	// The directory is its own lock file, so that nothing but keys is left there.
	lock := flock.New(e.Dir, flock.SetFlag(os.O_RDONLY))
	if err := lock.Lock(); err != nil {
		return "", fmt.Errorf("lock %s: %w", e.Dir, err)
	}
	defer func() { _ = lock.Close() }() // it was locked

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

// users adds the users of the roles, with their former keys, and that of the system account.
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

// keyNames are the names of all keys that the configuration has.
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

// ErrServers is a list of servers that makes no cluster.
var ErrServers = errors.New("not the servers of a cluster")

var hostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// routes are the hosts of a cluster as URLs have them.
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

// loadPassword reads a password, making it if it is absent. The caller holds a lock of its
// directory.
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

// password is what needs no quoting, neither in the configuration nor in a URL.
var password = regexp.MustCompile(`^[A-Za-z0-9]{26,}$`)
