//go:build linux || darwin || freebsd

package main

import (
	"io/fs"
	"syscall"
)

// openFiles returns the number of files that a process may open.
func openFiles() (most uint64, known bool) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err == nil
}

// freeSpace returns the number of bytes that an unprivileged user may still write to the disk of path.
func freeSpace(path string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return 0, err
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil
}

func ownerOf(info fs.FileInfo) (user int, known bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}

// privateFiles makes all files that this process creates from now on accessible only to its user.
func privateFiles() { syscall.Umask(0o077) }
