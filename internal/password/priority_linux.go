package password

import "golang.org/x/sys/unix"

// lowerPriority lets this thread, and the processes that it starts, run only when nothing else
// wants to: scheduling policies are those of threads on Linux, and inherited (sched(7)). If
// that fails, hashing goes on as everything else does.
func lowerPriority() {
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
