package password

import (
	"runtime"
	"testing"
)

func TestRoomIsThereWhileSomebodyHashes(t *testing.T) {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	idle := false
	isIdle := func() bool { return idle }
	r := room{cores: cores}
	want := func(n int, when string) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != n {
			t.Errorf("%s: %d at once, want %d", when, got, n)
		}
	}
	r.giveBack(isIdle)
	want(cores, "before anybody")
	r.take()
	r.take()
	want(2*cores, "while two hash")
	r.giveBack(isIdle)
	r.giveBack(isIdle)
	want(2*cores, "while one takes long")
	idle = true
	r.take()
	r.giveBack(isIdle)
	want(2*cores, "just after")
	r.giveBack(isIdle)
	want(cores, "when it is calm")
	r.take()
	want(2*cores, "when the next one comes")
}
