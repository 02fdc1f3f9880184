package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command line, as people type it: testdata/script holds one file for each part.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}
