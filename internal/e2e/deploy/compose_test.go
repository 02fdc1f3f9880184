package deploy_test

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v4"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/internal/testtool"
)

// compose reads compose.yaml as docker compose does, with the environment.
func compose(t *testing.T, environment map[string]string) (*types.Project, error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "compose.yaml"))
	check(t, err)
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(path), ConfigFiles: []types.ConfigFile{{Filename: path}},
		Environment: maps.Clone(environment), // the loader adds to it
	}, func(o *loader.Options) { o.SetProjectName("zyotra-auth", true) })
}

var composeSecrets = map[string]string{"POSTGRES_PASSWORD": "pg", "SECRET_KEY": testauthd.MasterSecret, "GRAFANA_PASSWORD": "g"}

func composed(t *testing.T) *types.Project {
	t.Helper()
	project, err := compose(t, composeSecrets)
	check(t, err)
	return project
}

func TestComposeHasNoDefaultSecrets(t *testing.T) {
	t.Parallel()
	for missing := range composeSecrets {
		environment := maps.Clone(composeSecrets)
		delete(environment, missing)
		if _, err := compose(t, environment); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// once are the services that do something and end.
var once = []string{"roles", "migrate"}

func TestComposeChecksHealthAndWaitsForIt(t *testing.T) {
	t.Parallel()
	project := composed(t)
	for name, service := range project.Services {
		ends := slices.Contains(once, name)
		if checked := service.HealthCheck != nil && len(service.HealthCheck.Test) > 0; checked == ends {
			t.Errorf("%s: health check %v", name, checked)
		}
		for needed, how := range service.DependsOn {
			want := types.ServiceConditionHealthy
			if slices.Contains(once, needed) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if how.Condition != want {
				t.Errorf("%s waits for %s to be %s, want %s", name, needed, how.Condition, want)
			}
		}
	}
	waits := slices.Sorted(maps.Keys(project.Services["authd"].DependsOn))
	if want := []string{"migrate", "nats-1", "nats-2", "nats-3", "postgres"}; !slices.Equal(waits, want) {
		t.Errorf("authd waits for %v, want %v", waits, want)
	}
}

func TestComposePinsAndBoundsWhatRuns(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?(-\w+)?$`)
	for name, service := range composed(t).Services {
		if !pinned.MatchString(service.Image) {
			t.Errorf("%s: %s is of no version", name, service.Image)
		}
		if slices.Contains(once, name) {
			continue
		}
		if service.Restart != types.RestartPolicyUnlessStopped {
			t.Errorf("%s: restart is %q", name, service.Restart)
		}
		if d := service.Deploy; d == nil || d.Resources.Limits == nil || d.Resources.Limits.MemoryBytes == 0 {
			t.Errorf("%s may take all memory", name)
		}
		for _, p := range service.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s to the network", name, p.Published)
			}
		}
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/nats-io/nats-server/v2").Output()
	check(t, err)
	want := "nats:" + strings.TrimPrefix(strings.TrimSpace(string(module)), "v") + "-alpine"
	if got := composed(t).Services["nats-1"].Image; got != want {
		t.Errorf("the servers are %s, and tests are about %s", got, want)
	}
}

func TestComposeRunsWhatThereIs(t *testing.T) {
	t.Parallel()
	project := composed(t)
	settings := settingNames(t)
	for _, name := range []string{"authd", "migrate", "roles"} {
		service := project.Services[name]
		if err := isCommand(t, service.Command); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for variable := range service.Environment {
			if !settings[variable] {
				t.Errorf("%s: %s is no setting", name, variable)
			}
		}
	}
	if n := replicas(project); n != 2 {
		t.Errorf("%d replicas", n)
	}
	if _, given := project.Services["authd"].Environment["MAIL_FROM"]; !given {
		t.Error("the replicas have no sender of mails")
	}
}

func replicas(project *types.Project) int {
	authd := project.Services["authd"]
	return authd.GetScale()
}

// Each service sees of the keys and passwords what it needs.
func TestComposeMountsWhatIsThere(t *testing.T) {
	t.Parallel()
	seen := map[string][]string{}
	for name, service := range composed(t).Services {
		for _, v := range service.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				}
				if !v.ReadOnly {
					t.Errorf("%s may write to %s", name, v.Source)
				}
			}
			if v.Source == "roles" {
				part := "all"
				if v.Volume != nil && v.Volume.Subpath != "" {
					part = v.Volume.Subpath
				}
				seen[part] = append(seen[part], name)
			}
		}
	}
	for _, names := range seen {
		slices.Sort(names)
	}
	want := map[string][]string{"all": {"roles"}, "servers": {"nats-1", "nats-2", "nats-3"}, "keys": {"authd"}}
	if testauthd.Encode(t, seen) != testauthd.Encode(t, want) {
		t.Errorf("the volume of roles is seen by %v, want %v", seen, want)
	}
}

// composeRoles does what the service "roles" does, in a directory of the test in place of its
// volume.
func composeRoles(t *testing.T, project *types.Project) (volume string) {
	t.Helper()
	volume = t.TempDir()
	var args []string
	for _, arg := range project.Services["roles"].Command {
		args = append(args, strings.Replace(arg, "/data", volume, 1))
	}
	cmd := testauthd.Command(t, "authd", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("authd %v: %v\n%s", args, err, out)
	}
	return volume
}

// composeCluster runs the NATS servers of compose.yaml on the configuration that they get there,
// in which only addresses and directories are replaced.
func composeCluster(t *testing.T, project *types.Project, volume string) *testnats.Cluster {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(volume, "servers", "nats.conf"))
	check(t, err)
	for _, host := range testnats.Hosts {
		if name := project.Services[host].Environment["SERVER_NAME"]; name == nil || *name != host {
			t.Errorf("the name of server %s is not its own", host)
		}
	}
	return testnats.StartCluster(t, testnats.Config{Text: testnats.Moved(string(content))})
}

// Two replicas with the settings of compose.yaml, on its NATS servers: what one did the other
// knows, events are kept on three servers, and apps come in without a key.
func TestComposeWorks(t *testing.T) {
	t.Parallel()
	project := composed(t)
	volume := composeRoles(t, project)
	cluster := composeCluster(t, project, volume)
	database := testpg.URL(t)
	migrated := testauthd.Command(t, "authd", project.Services["migrate"].Command...)
	migrated.Env = append(os.Environ(), "DATABASE_URL="+database)
	if out, err := migrated.CombinedOutput(); err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}

	var running []*testauthd.Instance
	for range replicas(project) {
		cmd := testauthd.Command(t, testauthd.Owned, append([]string(project.Services["authd"].Command), "--port=0", "--metrics-addr=127.0.0.1:0")...)
		for name, value := range project.Services["authd"].Environment {
			cmd.Env = append(cmd.Env, name+"="+*value)
		}
		cmd.Env = append(cmd.Env, "DATABASE_URL="+database, "NATS_URL="+cluster.URLs(),
			"NATS_NKEY_SEED_FILE="+filepath.Join(volume, "keys"), "SMTP_URL=smtp://127.0.0.1:1?tls=none")
		running = append(running, testauthd.Execute(t, t.TempDir(), cmd).Ready(t))
	}

	running[0].Post(t, "/register", testauthd.Credentials).Answered(t, 201, `{"message":"User registered successfully","userId":1}`)
	access := running[1].Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	running[0].Get(t, "/verify", access).Answered(t, 200, testauthd.Verified)
	testauthd.Ask(t, testauthd.Connect(t, cluster.Servers[0].URL()), "auth.verify", nil, `{"token":"`+access+`"}`).Replied(t, testauthd.Verified)

	keptOnThree(t, cluster, volume)
	operates(t, cluster, volume)
}

// keptOnThree wants streams that outlive the loss of a server.
func keptOnThree(t *testing.T, cluster *testnats.Cluster, volume string) {
	t.Helper()
	seed, err := nats.NkeyOptionFromSeed(filepath.Join(volume, "keys", "admin.nk"))
	check(t, err)
	js, err := jetstream.New(testauthd.Connect(t, cluster.URLs(), seed, nats.CustomInboxPrefix("_INBOX_"+embedded.Admin)))
	check(t, err)
	for _, name := range []string{"AUTH_EVENTS", "AUTH_MAIL"} {
		stream, err := js.Stream(t.Context(), name)
		check(t, err)
		if n := stream.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("%s is on %d servers", name, n)
		}
	}
}

// operates wants the replicas' keys to be the operator's, and strangers not to be one.
func operates(t *testing.T, cluster *testnats.Cluster, volume string) {
	t.Helper()
	end := []string{"users", "end-sessions", "ada@example.com", "--yes", "--nats-url=" + cluster.URLs()}
	if said := testauthd.Run(t, t.TempDir(), append(end, "--nats-nkey-seed-file="+filepath.Join(volume, "keys"))...); said != "ada@example.com (id 1): sessions ended: 1\n" {
		t.Error(said)
	}
	cmd := testauthd.Command(t, "authd", end...)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "only operators may ask") {
		t.Errorf("a stranger: %s, %v", out, err)
	}
}

// By Caddy itself.
func TestComposeProxyIsUnderstood(t *testing.T) {
	t.Parallel()
	caddy := testtool.Find(t, "caddy", "caddy")
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(composed(t).Configs["proxy"].Content), 0o600))
	cmd := exec.Command(caddy, "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var adapted strings.Builder
	cmd = exec.Command(caddy, "adapt", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, []string{"HOME=" + dir}, &adapted, io.Discard
	check(t, cmd.Run())
	var read any
	check(t, json.Unmarshal([]byte(adapted.String()), &read))
	if !strings.Contains(adapted.String(), `"name":"authd","port":"3000"`) || !strings.Contains(adapted.String(), `":3000"`) {
		t.Errorf("it listens or asks elsewhere: %s", &adapted)
	}
}

// What Prometheus scrapes is the replicas, where their metrics are.
func TestComposePrometheusFindsTheReplicas(t *testing.T) {
	t.Parallel()
	project := composed(t)
	var config struct {
		RuleFiles []string `yaml:"rule_files"`
		Scrape    []struct {
			Job string `yaml:"job_name"`
			DNS []struct {
				Names []string
				Port  int
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	check(t, yaml.Unmarshal([]byte(project.Configs["prometheus"].Content), &config))
	job := config.Scrape[0]
	metrics := *project.Services["authd"].Environment["METRICS_ADDR"]
	if job.Job != "authd" || job.DNS[0].Names[0] != "authd" || !strings.HasSuffix(metrics, ":"+strconv.Itoa(job.DNS[0].Port)) {
		t.Errorf("%+v, and metrics are on %s", job, metrics)
	}
	rules := filepath.Join("/etc/prometheus", config.RuleFiles[0])
	mounted := slices.ContainsFunc(project.Services["prometheus"].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == rules })
	if !mounted {
		t.Errorf("%s is not mounted", rules)
	}
}
