package password

import "golang.org/x/sys/unix"

// lowerPriority lets this thread run only when nothing else wants to: scheduling policies are
// those of threads on Linux (sched(7)). If that fails, hashing goes on as everything else does.
func lowerPriority() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
