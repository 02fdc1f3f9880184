// Package commands_test runs the command line of authd as an operator types it.
package commands_test

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zyotra/auth/internal/testauthd"
)

// testdata/script holds one file for each part of the command line.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	path := testauthd.PathWith(t, "authd") + string(os.PathListSeparator) + os.Getenv("PATH")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error { env.Setenv("PATH", path); return nil },
	})
}
