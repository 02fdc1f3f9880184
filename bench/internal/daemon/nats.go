package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// NATS is a NATS server in a process of its own, with JetStream and its own defaults.
type NATS struct {
	URL string
	PID int

	cmd *exec.Cmd
}

// StartNATS builds the server of the version that the embedded one has, and runs it on a free
// port of loopback with its files in dir.
func StartNATS(dir string) (*NATS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	binary := filepath.Join(dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	n := &NATS{cmd: exec.Command(binary, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", dir, "--ports_file_dir", dir, "-l", filepath.Join(dir, "log"))}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	n.PID = n.cmd.Process.Pid
	ports := filepath.Join(dir, fmt.Sprintf("nats-server_%d.ports", n.PID))
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if n.URL = listens(ports); n.URL != "" {
			return n, nil
		}
	}
	return nil, errors.Join(errors.New("nats-server is not ready"), n.Stop())
}

// listens reads where a server listens from the file that it writes when it does.
func listens(ports string) string {
	text, err := os.ReadFile(ports)
	if err != nil {
		return ""
	}
	var file struct{ NATS []string }
	if json.Unmarshal(text, &file) != nil || len(file.NATS) == 0 {
		return ""
	}
	return file.NATS[0]
}

// Stop ends it as an operator would.
func (n *NATS) Stop() error {
	if err := n.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := n.cmd.Wait(); err != nil && !errors.As(err, &exit) { // it ends with 1 then
		return err
	}
	return nil
}
