package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/zyotra/auth/internal/testtool"
)

// mostExposure is what "systemd-analyze security" may find of at most 100, ten times what it
// shows. A unit that says nothing has 96.
const mostExposure = "15"

// By systemd itself, with this program in place of the one that would be installed.
func TestSystemdTakesTheUnit(t *testing.T) {
	t.Parallel()
	analyze := testtool.Find(t, "systemd-analyze", "systemd")
	program, err := exec.LookPath("authd")
	check(t, err)
	file := filepath.Join(t.TempDir(), "authd.service")
	text := document(t, "operations/systemd/authd.service", map[string]string{"ExecStart=/usr/local/bin/authd": "ExecStart=" + program})
	check(t, os.WriteFile(file, []byte(text), 0o644))
	// A directive that it does not know is said, and no error.
	if out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold="+mostExposure, "--no-pager", file).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

func TestTheUnitSetsWhatThereIs(t *testing.T) {
	t.Parallel()
	text := document(t, "operations/systemd/authd.service", nil)
	settings := settingNames(t)
	set := regexp.MustCompile(`(?m)^Environment=([A-Z_]+)=`).FindAllStringSubmatch(text, -1)
	if len(set) < 2 {
		t.Errorf("%d settings", len(set))
	}
	for _, s := range set {
		if !settings[s[1]] {
			t.Errorf("%s is no setting", s[1])
		}
	}
	command := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(text)
	if _, _, err := parse(commandLine(t), strings.Fields(command[1])[1:]); err != nil {
		t.Error(err)
	}
	user := regexp.MustCompile(`(?m)^User=(.*)$`).FindStringSubmatch(text)[1]
	if made := document(t, "operations/systemd/authd.sysusers", nil); !strings.Contains(made, "\nu     "+user+" ") {
		t.Errorf("authd.sysusers does not make %s", user)
	}
}
