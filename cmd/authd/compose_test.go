package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
)

// compose reads compose.yaml as docker compose does, with the environment.
func compose(t *testing.T, environment map[string]string) (*types.Project, error) {
	t.Helper()
	path := filepath.Join("..", "..", "compose.yaml")
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: t.TempDir(), ConfigFiles: []types.ConfigFile{{Filename: path}},
		Environment: maps.Clone(environment), // the loader adds to it
	}, func(o *loader.Options) { o.SetProjectName("zyotra-auth", true) })
}

var composeSecrets = map[string]string{"POSTGRES_PASSWORD": "pg", "NATS_PASSWORD": "n0123", "SECRET_KEY": "key"}

func TestComposeHasNoDefaultSecrets(t *testing.T) {
	for missing := range composeSecrets {
		environment := map[string]string{}
		for name, value := range composeSecrets {
			if name != missing {
				environment[name] = value
			}
		}
		if _, err := compose(t, environment); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

func TestComposeChecksHealthAndWaitsForIt(t *testing.T) {
	project, err := compose(t, composeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	for name, service := range project.Services {
		if service.HealthCheck == nil || len(service.HealthCheck.Test) == 0 {
			t.Errorf("%s has no health check", name)
		}
	}
	for name, needed := range project.Services["authd"].DependsOn {
		if needed.Condition != types.ServiceConditionHealthy {
			t.Errorf("authd does not wait for %s to be healthy", name)
		}
	}
	if len(project.Services["authd"].DependsOn) != 2 {
		t.Error("authd waits for less than its database and its bus")
	}
}

// composeServer runs the NATS server of compose.yaml, on another port.
func composeServer(t *testing.T) (options *server.Options, url string) {
	t.Helper()
	project, err := compose(t, composeSecrets)
	check(t, err)
	t.Setenv("NATS_PASSWORD", composeSecrets["NATS_PASSWORD"])
	store := t.TempDir()
	config := strings.NewReplacer("port: 4222", "listen: 127.0.0.1:-1", "http: 127.0.0.1:8222", "", "/data", store).
		Replace(project.Configs["nats"].Content)
	path := filepath.Join(store, "nats.conf")
	check(t, os.WriteFile(path, []byte(config), 0o600))
	options, err = server.ProcessConfigFile(path)
	check(t, err)
	options.NoLog, options.NoSigs = true, true
	s, err := server.NewServer(options)
	check(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(5 * time.Second) {
		t.Fatal("the server does not start")
	}
	return options, s.ClientURL()
}

// The NATS server of compose.yaml gives the service and strangers the rights that the
// embedded one gives them.
func TestComposeServerHasTheRoles(t *testing.T) {
	options, url := composeServer(t)
	conn, err := nats.Connect(url, nats.UserInfo("authd", composeSecrets["NATS_PASSWORD"]))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := nats.Connect(url, nats.UserInfo("authd", "")); err == nil {
		t.Error("the service needs no password")
	}

	written := map[string]*server.Permissions{}
	for _, u := range options.Users {
		written[u.Username] = u.Permissions
	}
	roles := map[string]embedded.Role{}
	for _, r := range embedded.Roles() {
		roles[r.Name] = r
	}
	service, relay, app := roles[embedded.Service], roles[embedded.Relay], roles[embedded.App]
	same(t, "authd publishes", written["authd"].Publish.Allow,
		remove(slices.Concat(service.Publish.Allow, remove(relay.Publish.Allow, embedded.RightsSubject)), "_INBOX_edge.>", "_INBOX_subscriber.>"))
	same(t, "authd subscribes", written["authd"].Subscribe.Allow, append(service.Subscribe.Allow, "_INBOX_admin.>"))
	same(t, "app publishes", written["app"].Publish.Allow, remove(app.Publish.Allow, "$SRV.>"))
	same(t, "app subscribes", written["app"].Subscribe.Allow, app.Subscribe.Allow)
}

// remove takes subjects out of a list, as the inboxes of roles that compose.yaml does not have.
func remove(list []string, unwanted ...string) (rest []string) {
	for _, s := range list {
		if !strings.Contains(" "+strings.Join(unwanted, " ")+" ", " "+s+" ") {
			rest = append(rest, s)
		}
	}
	return rest
}

// same compares two lists as sets.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, s := range want {
		if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+s+" ") {
			t.Errorf("%s lacks %s", what, s)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
