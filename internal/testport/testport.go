// Package testport reserves TCP ports of the loopback interface for the servers of tests. A server
// that is killed and started again keeps its port meanwhile, because no other test of this machine
// gets that port.
package testport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// The ports are below those that the system gives to outgoing connections (32768 on Linux): such a
// connection could otherwise take the port of a server that is down.
const (
	first = 20_000
	last  = 32_000
	tries = 1000
)

// Reserve returns n different ports on which no server listens. Other processes and later calls do
// not get them until release is called or this process ends.
func Reserve(n int) (ports []int, release func(), err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("authd-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	var locks []*os.File
	release = func() {
		for _, lock := range locks {
			_ = lock.Close() // nothing was written
		}
	}
	for range max(tries, 10*n) {
		if len(ports) == n {
			return ports, release, nil
		}
		port := first + rand.IntN(last-first)
		lock, err := lockPort(dir, port)
		if err != nil {
			release()
			return nil, nil, err
		}
		if lock != nil {
			ports, locks = append(ports, port), append(locks, lock)
		}
	}
	release()
	return nil, nil, errors.New("no free ports")
}

// Ports returns n reserved ports, which are released when the test ends.
func Ports(t testing.TB, n int) []int {
	t.Helper()
	ports, release, err := Reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return ports
}

// Address returns a host and a port on which no server listens. The port is reserved until the test ends.
func Address(t testing.TB) string {
	t.Helper()
	return address(Ports(t, 1)[0])
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// lockPort returns the lock of a port, or nil if another caller has the lock or a server listens.
func lockPort(dir string, port int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	listener, err := net.Listen("tcp", address(port))
	if err != nil {
		_ = lock.Close()
		return nil, nil
	}
	return lock, listener.Close()
}
