// Withpg runs a command with a Postgres for its tests and returns the command's exit code:
//
//	go run ./internal/testpg/cmd/withpg -- go test ./...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/zyotra/auth/internal/testpg"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return 2, errors.New("usage: withpg -- command [argument ...]")
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	pg, err := testpg.Find(context.Background())
	if err != nil {
		return 1, err
	}
	defer pg.Close()

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), testpg.Env+"="+pg.URL)
	// A group of its own gets a signal exactly once, whether a terminal sent it to all of
	// us or someone to this process only; go test would not pass it on to its tests.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			syscall.Kill(-cmd.Process.Pid, sig.(syscall.Signal)) // if it fails they have ended
		case err := <-ended:
			return status(err)
		}
	}
}

// status is the exit code a shell would give.
func status(err error) (int, error) {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err == nil || !ok {
		return 0, err
	}
	if s := exit.Sys().(syscall.WaitStatus); s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return exit.ExitCode(), nil
}
