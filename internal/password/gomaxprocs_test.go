package password

import (
	"runtime"
	"testing"
)

func TestGOMAXPROCSIsRaisedWhilePasswordsAreHashed(t *testing.T) {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	idle := false
	isIdle := func() bool { return idle }
	g := gomaxprocs{cores: cores}
	want := func(n int, when string) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != n {
			t.Errorf("%s: %d at once, want %d", when, got, n)
		}
	}
	g.lower(isIdle)
	want(cores, "before the first hash")
	g.raise()
	g.raise()
	want(2*cores, "while two hash")
	g.lower(isIdle)
	g.lower(isIdle)
	want(2*cores, "while a hash takes long")
	idle = true
	g.raise()
	g.lower(isIdle)
	want(2*cores, "just after")
	g.lower(isIdle)
	want(cores, "after the cooldown")
	g.raise()
	want(2*cores, "for the next hash")
}
