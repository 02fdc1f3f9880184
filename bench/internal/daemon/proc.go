package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticks is how many parts of a second the kernel counts CPU time in: USER_HZ, which is 100 for
// every program on Linux.
const ticks = 100

// CPU is the time that a process has used of all cores, without that of its children. It is 0
// for a process that has gone, and where the system does not tell.
func CPU(pid int) time.Duration {
	f := fields(pid)
	if f == nil {
		return 0
	}
	return span(f[11], f[12]) // utime, stime: proc_pid_stat(5) counts from 1, and we begin at 3
}

// CPUWithChildren is CPU with the time of the process's children, those that have ended too.
func CPUWithChildren(pid int) time.Duration {
	f := fields(pid)
	if f == nil {
		return 0
	}
	sum := span(f[11], f[12], f[13], f[14])
	dirs, _ := filepath.Glob("/proc/[0-9]*") // fails on a bad pattern only
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if of := fields(child); of != nil && of[1] == strconv.Itoa(pid) {
			sum += span(of[11], of[12])
		}
	}
	return sum
}

// ResidentOwn is what of Resident is not mapped from files.
func (d *Daemon) ResidentOwn() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.PID))
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}

// Parent is the process that started one, 0 where the system does not tell.
func Parent(pid int) int {
	f := fields(pid)
	if f == nil {
		return 0
	}
	parent, _ := strconv.Atoi(f[1]) // 0 if that is none
	return parent
}

// fields are those of /proc/PID/stat behind the program's name, or nil.
func fields(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 15 {
		return nil
	}
	return f
}

func span(counts ...string) (sum time.Duration) {
	for _, c := range counts {
		n, err := strconv.ParseInt(c, 10, 64)
		if err == nil {
			sum += time.Duration(n) * time.Second / ticks
		}
	}
	return sum
}
