package testnats

import (
	"math/rand/v2"
	"net"
	"testing"
)

// Ports of servers come from below those that the system gives to outgoing connections
// (32768 on Linux): one of them might otherwise take the port of a server that is away.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// freePorts returns different ports that nobody listens on.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // it was open
		}
	}()
	for range 1000 {
		if len(ports) == n {
			return ports
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", onLoopback(port))
		if err != nil {
			continue
		}
		held, ports = append(held, l), append(ports, port)
	}
	t.Fatal("no free ports")
	return nil
}
