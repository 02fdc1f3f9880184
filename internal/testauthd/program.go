package testauthd

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Names of the programs that the test binary of cmd/authd holds beside "authd". Each ends when
// its standard input does, and so with the test process.
const (
	Owned       = "owned-authd"
	OwnedAhead  = "owned-authd-ahead"  // its clock is 30 s ahead
	OwnedBehind = "owned-authd-behind" // its clock is 30 s behind
)

// Command returns a command that runs authd under one of its names. A test binary that registers
// the names with testscript.Main finds itself in PATH; for any other, the test binary of
// cmd/authd is built once for the process.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(Owned); err == nil {
		return exec.Command(name, args...)
	}
	b, err := built()
	Check(t, err)
	return As(name, b.path, args...)
}

// PathWith makes a directory for PATH in which the program stands under a name.
func PathWith(t testing.TB, name string) (dir string) {
	t.Helper()
	b, err := built()
	Check(t, err)
	dir = t.TempDir()
	Check(t, os.Symlink(b.path, filepath.Join(dir, name)))
	return dir
}

// As returns a command that runs a test binary of cmd/authd under one of its names.
func As(name, binary string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Args[0] = name
	return cmd
}

// Build builds the test binary of cmd/authd from the tree in dir, with the race detector if race is
// true.
func Build(dir, binary string, race bool) error {
	args := []string{"test", "-C", dir, "-c", "-ldflags=-s -w", "-o", binary}
	if race {
		// The flags are those of .ci/run, which says why bcrypt and SQLite go without a part of it.
		args = append(args, "-race", "-gcflags=golang.org/x/crypto/blowfish=-race=false", "-gcflags=modernc.org/...=-d=checkptr=0")
	}
	if out, err := exec.Command("go", append(args, "./cmd/authd")...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// janitorScript removes a directory when its standard input ends, as it does with the test process.
const janitorScript = `cat >/dev/null; rm -rf "$1"`

// build is the program that was built for this process.
type build struct {
	path  string
	owner io.WriteCloser // standard input of the janitor, which our end closes
}

// built builds the program once for the process.
var built = sync.OnceValues(func() (*build, error) {
	root, err := rootDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "testauthd-")
	if err != nil {
		return nil, err
	}
	b := &build{path: filepath.Join(dir, "authd.test")}
	janitor := exec.Command("sh", "-c", janitorScript, "testauthd", dir)
	janitor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // away from the terminal's Ctrl-C
	if b.owner, err = janitor.StdinPipe(); err != nil {
		return nil, err
	}
	if err := janitor.Start(); err != nil {
		return nil, err
	}
	return b, Build(root, b.path, raceDetector)
})

// rootDir is the directory of the module github.com/zyotra/auth.
var rootDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/zyotra/auth").Output()
	if err != nil {
		return "", fmt.Errorf("find the root of the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Root returns the directory of the module github.com/zyotra/auth.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := rootDir()
	Check(t, err)
	return dir
}

// Document returns a file of docs with replacements, each of which the file must hold.
func Document(t testing.TB, name string, replacements map[string]string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root(t), "docs", name))
	Check(t, err)
	text := string(content)
	for from, to := range replacements {
		if !strings.Contains(text, from) {
			t.Fatalf("%s has no %q", name, from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	return text
}
