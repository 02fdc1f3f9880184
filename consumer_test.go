package auth_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/consumer.txt")

// A service that imports bus gets the modules of testdata/consumer.txt into its go.mod, in our
// versions. A difference is a change for every importer; -update makes it, for review in the diff.
// Modules that only tests need are not even among those whose versions the service's build chooses.
func TestAConsumerOfTheBusGetsFewRequirements(t *testing.T) {
	root, err := os.Getwd()
	check(t, err)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	ours := required(t, "go.mod")
	write("go.mod", "module example.com/consumer\n\ngo "+ours.Go+"\n\nrequire "+module+" v0.0.0\n\nreplace "+module+" => "+root+"\n")
	write("consumer.go", "package consumer\n\nimport _ \""+module+"/bus\"\n")
	sums, err := os.ReadFile("go.sum")
	check(t, err)
	write("go.sum", string(sums)) // the versions are ours, and so nothing has to be looked up

	goList(t, dir, "-deps", "./...") // completes go.mod
	var paths []string
	consumer := required(t, filepath.Join(dir, "go.mod"))
	for path, version := range consumer.versions() {
		if path == module {
			continue
		}
		paths = append(paths, path)
		if want := ours.versions()[path]; version != want {
			t.Errorf("the consumer gets %s %s, and our go.mod has %q", path, version, want)
		}
	}
	slices.Sort(paths)
	got := strings.Join(paths, "\n") + "\n"
	golden := filepath.Join("testdata", "consumer.txt")
	if *update {
		check(t, os.WriteFile(golden, []byte(got), 0o600))
	}
	want, err := os.ReadFile(golden)
	check(t, err)
	if got != string(want) {
		t.Errorf("go.mod of the consumer requires\n%s\nwant\n%s", got, want)
	}

	for _, path := range strings.Fields(goList(t, dir, "-m", "-f", "{{.Path}}", "all")) {
		if slices.ContainsFunc(onlyTests, func(prefix string) bool { return strings.HasPrefix(path, prefix) }) {
			t.Errorf("the consumer's build considers %s, which only tests need: they stand in internal/e2e", path)
		}
	}
}

// onlyTests are the heavy modules that only tests need. Go considers a requirement of ours, and
// raises its version, in the build of each importer, whether a package or a test needs it.
var onlyTests = []string{
	"github.com/chromedp/", "github.com/cloudevents/", "github.com/compose-spec/", "github.com/prometheus/prometheus",
	"k8s.io/", "sigs.k8s.io/kustomize/",
}

// goList runs go list in the directory of a module and lets it complete go.mod.
func goList(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-mod=mod"}, args...)...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, &stderr)
	}
	return string(out)
}

// requirements are those of a go.mod.
type requirements struct {
	Go      string
	Require []struct{ Path, Version string }
}

func required(t *testing.T, file string) (r requirements) {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	check(t, err)
	check(t, json.Unmarshal(out, &r))
	return r
}

// versions returns the version of each module, by its path.
func (r requirements) versions() map[string]string {
	all := map[string]string{}
	for _, m := range r.Require {
		all[m.Path] = m.Version
	}
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
