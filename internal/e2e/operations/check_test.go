// Package operations_test starts authd as operators do and runs its commands beside it: settings
// that it refuses, TLS, the roles of a bus, keys, events and backups.
package operations_test

import "testing"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
