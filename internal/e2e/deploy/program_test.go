// Package deploy_test checks the files that people deploy authd with against the real program:
// compose.yaml, the Kubernetes manifests, the alarms of Prometheus and the dashboard of Grafana.
package deploy_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/zyotra/auth/internal/testauthd"
)

// isCommand returns an error if authd does not understand a command line. With --help it parses
// the command line and runs nothing.
func isCommand(t *testing.T, args []string) error {
	t.Helper()
	if out, err := testauthd.Command(t, "authd", append(args[:len(args):len(args)], "--help")...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// version returns the version of the program.
func version(t *testing.T) string {
	t.Helper()
	said := testauthd.Run(t, t.TempDir(), "version")
	name, rest, _ := strings.Cut(said, " ")
	number, _, ok := strings.Cut(rest, " ")
	if name != "authd" || !ok {
		t.Fatalf("authd version says %q", said)
	}
	return number
}

var (
	// commandInHelp matches the first line of a command in the help of authd.
	commandInHelp = regexp.MustCompile(`(?m)^  ([a-z][a-z -]*[a-z])(?: [<\[-].*)?$`)
	// variablesInHelp matches the variables of a flag, at the end of its description.
	variablesInHelp = regexp.MustCompile(`\((\$[A-Z0-9_]+(?:,\s+\$[A-Z0-9_]+)*)\)`)
)

var (
	settingsOnce sync.Once
	settings     map[string]bool
)

// settingNames returns all variables of the environment that some command reads, as the help of
// the commands lists them.
func settingNames(t *testing.T) map[string]bool {
	t.Helper()
	settingsOnce.Do(func() {
		names := map[string]bool{}
		_, list, _ := strings.Cut(testauthd.Run(t, t.TempDir(), "--help"), "\nCommands:\n")
		for _, command := range commandInHelp.FindAllStringSubmatch(list, -1) {
			help := testauthd.Run(t, t.TempDir(), append(strings.Fields(command[1]), "--help")...)
			for _, variables := range variablesInHelp.FindAllStringSubmatch(help, -1) {
				for name := range strings.SplitSeq(variables[1], ",") {
					names[strings.TrimPrefix(strings.TrimSpace(name), "$")] = true
				}
			}
		}
		settings = names
	})
	if len(settings) == 0 {
		t.Fatal("the help of authd lists no setting")
	}
	return settings
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
