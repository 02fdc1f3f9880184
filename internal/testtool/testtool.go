// Package testtool finds the programs of others that tests run, and installs them from
// Debian's packages where they are missing. It is for tests only.
package testtool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long an installation may take.
const patience = 5 * time.Minute

// Find returns the path of a program. Where it is missing, root on Debian installs it from
// the packages; elsewhere the test fails and says what to install. It never skips, except
// that nothing is installed for go test -short.
func Find(t testing.TB, program string, packages ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if testing.Short() {
		t.Skipf("%v, and -short installs nothing", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = Install(ctx, os.Geteuid() == 0, func() (bool, error) {
		_, err := exec.LookPath(program)
		return err == nil, nil
	}, packages...)
	if err == nil {
		path, err = exec.LookPath(program)
	}
	if err != nil {
		t.Fatalf("%s is missing (on Debian: apt-get install %s): %v", program, strings.Join(packages, " "), err)
	}
	return path
}

// Install installs packages. When it is this process's turn it calls prepare, which tells
// whether somebody else has installed them meanwhile.
func Install(ctx context.Context, root bool, prepare func() (done bool, err error), packages ...string) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return errors.New("this is no Debian to install it on")
	}
	if !root {
		return errors.New("only root can install it")
	}
	// The tests of several packages may get here at once, and apt-get will not wait.
	lock, err := os.Open(apt)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", apt, err)
	}
	if done, err := prepare(); done || err != nil {
		return err
	}
	names := strings.Join(packages, " ")
	fmt.Fprintln(os.Stderr, "testtool: installing", names, "by apt-get")
	cmd := exec.CommandContext(ctx, "sh", "-c", "apt-get update && apt-get install -y --no-install-recommends "+names)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get install %s: %w\n%s", names, err, out)
	}
	return nil
}
