package testnats

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// nsc is the tool, of the version in testdata/nsc/go.mod: a module of its own, so that what nsc
// needs is not among the dependencies of the service.
const nsc = "github.com/nats-io/nsc/v2"

var buildNSC = sync.OnceValues(func() (string, error) {
	w, err := build()
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/zyotra/auth/internal/testnats").Output()
	if err != nil {
		return "", fmt.Errorf("find testdata: %w", err)
	}
	module := filepath.Join(strings.TrimSpace(string(out)), "testdata", "nsc")
	binary := filepath.Join(w.dir, "nsc")
	if out, err := exec.Command("go", "build", "-C", module, "-o", binary, nsc).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", nsc, err, out)
	}
	return binary, nil
})

// RunNSC runs a shell script in which nsc is the real one, with keys of its own.
func RunNSC(t testing.TB, script string) {
	t.Helper()
	binary, err := buildNSC()
	if err != nil {
		t.Fatal(err)
	}
	sh, home := exec.Command("sh", "-s"), t.TempDir()
	sh.Stdin = strings.NewReader(script)
	sh.Env = []string{"HOME=" + home, "NSC_HOME=" + home, "NKEYS_PATH=" + filepath.Join(home, "keys"),
		"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH")}
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
