package password

import "syscall"

// lowerPriority gives this thread the lowest priority: nice values are per thread on Linux
// (sched(7)). If that fails, hashing goes on as everything else does.
func lowerPriority() {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
}
