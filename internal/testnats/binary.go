package testnats

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// module is the program. It is in go.mod because the service embeds the server.
const module = "github.com/nats-io/nats-server/v2"

// workshop is the directory of this process's binary, and of a file for each server that runs,
// which has its process id as its name.
type workshop struct {
	dir   string
	owner io.WriteCloser // the janitor ends what runs when this is closed, as by our end
}

// janitorScript ends what its owner left.
const janitorScript = `
cat >/dev/null
cd "$1" || exit
for pid in [0-9]*; do kill -KILL "$pid"; done
rm -rf "$1"`

// build makes the workshop once for the process.
var build = sync.OnceValues(func() (*workshop, error) {
	dir, err := os.MkdirTemp("", "testnats-")
	if err != nil {
		return nil, err
	}
	w := &workshop{dir: dir}
	if out, err := exec.Command("go", "build", "-o", w.binary(), module).CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir) // the error that matters is the build's
		return nil, fmt.Errorf("build %s: %w\n%s", module, err, out)
	}
	janitor := exec.Command("sh", "-c", janitorScript, "testnats", dir)
	janitor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // away from the terminal's Ctrl-C
	if w.owner, err = janitor.StdinPipe(); err != nil {
		return nil, err
	}
	return w, janitor.Start()
})

func (w *workshop) binary() string { return filepath.Join(w.dir, "nats-server") }

// program is the path of the server's binary.
func program(t testing.TB) string {
	t.Helper()
	w, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return w.binary()
}

// watch lets the janitor know of a process, until ended is called. That may be called also if
// it returns an error.
func watch(pid int) (ended func(), err error) {
	w, err := build()
	if err != nil {
		return nil, err
	}
	note := filepath.Join(w.dir, strconv.Itoa(pid))
	return func() { _ = os.Remove(note) }, os.WriteFile(note, nil, 0o600)
}
