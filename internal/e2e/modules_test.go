// Package e2e_test is the root of the module of the end-to-end tests that start authd in processes.
// They stand in a module of their own, so that an importer of github.com/zyotra/auth does not get
// the requirements of these tests.
//
//	commands    the command line
//	operations  settings, TLS, the roles of a bus, keys, events and backups
//	deploy      compose.yaml, the Kubernetes manifests, alarms and dashboard
//	browser     a real browser
//	events      the SDK of CloudEvents
//	faults      instances that are killed or cut off
//	fleet       replicas on a cluster that fail, and two releases beside each other
package e2e_test

import (
	"encoding/json"
	"os/exec"
	"testing"
)

// A module that both go.mod files require has one version, so that these tests run the code that
// is released.
func TestBothModulesRequireTheSameVersions(t *testing.T) {
	root := required(t, "../../go.mod")
	for path, version := range required(t, "go.mod") {
		if at, both := root[path]; both && at != version {
			t.Errorf("%s is %s here and %s in the root", path, version, at)
		}
	}
}

// required returns the versions of the modules that a go.mod requires, by their paths.
func required(t *testing.T, file string) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, r := range mod.Require {
		versions[r.Path] = r.Version
	}
	if len(versions) == 0 {
		t.Fatalf("%s requires nothing", file)
	}
	return versions
}
