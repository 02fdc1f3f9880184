// Package testapt installs what tests need from Debian's packages. It must not be used
// outside of tests.
package testapt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

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
	fmt.Fprintln(os.Stderr, "testapt: installing", names, "by apt-get")
	cmd := exec.CommandContext(ctx, "sh", "-c", "apt-get update && apt-get install -y --no-install-recommends "+names)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get install %s: %w\n%s", names, err, out)
	}
	return nil
}
