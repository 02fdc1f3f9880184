// Package testtool finds the programs of others that tests run. It is for tests only.
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
	if path, err = install(t.Context(), program, packages); err != nil {
		t.Fatalf("%s is missing (on Debian: apt-get install %s): %v", program, strings.Join(packages, " "), err)
	}
	return path
}

func install(ctx context.Context, program string, packages []string) (string, error) {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return "", fmt.Errorf("this is no Debian to install it on: %w", err)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("only root can install it")
	}
	// Several tests may get here at once, also those of testpg, and apt-get will not wait.
	lock, err := os.Open(apt)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", apt, err)
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "testtool: installing %s by apt-get\n", strings.Join(packages, " "))
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return exec.LookPath(program)
}
