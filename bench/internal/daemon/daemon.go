// Package daemon starts authd for the programs that measure it: the binary as it is shipped,
// in processes of its own, on loopback.
package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Daemon is a running authd.
type Daemon struct {
	HTTP string // URL of its edge, "" without one
	NATS string // URL of its bus, "" if that is elsewhere
	Dir  string // its DATA_DIR
	PID  int
	Took time.Duration // from start to ready

	cmd *exec.Cmd
}

// Build compiles authd into a new directory, which clean removes with all that is in it.
func Build() (binary, dir string, clean func(), err error) {
	if dir, err = os.MkdirTemp("", "authd-bench-"); err != nil {
		return "", "", nil, err
	}
	clean = func() { _ = os.RemoveAll(dir) } // it is a temporary one
	binary = filepath.Join(dir, "authd")
	if out, err := exec.Command("go", "build", "-o", binary, "./cmd/authd").CombinedOutput(); err != nil {
		clean()
		return "", "", nil, fmt.Errorf("build authd: %w\n%s", err, out)
	}
	return binary, dir, clean, nil
}

// Start runs the binary in dir with the arguments, on free ports and without limits, and waits
// until it is ready.
func Start(binary, dir string, args ...string) (*Daemon, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, append([]string{"serve", "--port=0", "--nats-listen=127.0.0.1:0", "--log-format=json"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "RATE_LIMITS=off", "SESSION_LIMIT=0", "METRICS_ADDR=127.0.0.1:0")
	output, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &Daemon{Dir: filepath.Join(dir, "data"), PID: cmd.Process.Pid, cmd: cmd}
	for lines := json.NewDecoder(output); ; {
		var line struct{ Level, Msg, Err, HTTP, NATS string }
		if err := lines.Decode(&line); err != nil {
			return nil, errors.Join(fmt.Errorf("authd is not ready: %w", err), d.Stop())
		}
		if line.Level == "ERROR" {
			fmt.Fprintln(os.Stderr, "authd:", line.Msg, line.Err)
		}
		if line.Msg == "ready" {
			d.HTTP, d.NATS, d.Took = line.HTTP, line.NATS, time.Since(began)
			go func() { _, _ = io.Copy(io.Discard, output) }() // until it ends
			return d, nil
		}
	}
}

// Stop ends it as an operator would.
func (d *Daemon) Stop() error {
	return errors.Join(d.cmd.Process.Signal(os.Interrupt), d.cmd.Wait())
}

// Resident is its memory in bytes, 0 where the system does not tell.
func (d *Daemon) Resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.PID))
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
