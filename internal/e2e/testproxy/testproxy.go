// Package testproxy is a TCP proxy that fails as networks do: it falls silent without closing a
// connection, delays packets, and cuts connections.
//
// It must not be used outside of tests.
package testproxy

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy forwards TCP connections to a target. Its methods may be called at the same time.
type Proxy struct {
	listener net.Listener
	delay    atomic.Int64 // of each packet, in nanoseconds
	mu       sync.Mutex
	talks    *sync.Cond // broadcast when silence ends or a connection is closed
	silent   bool
	conns    map[net.Conn]bool
}

// Start runs a proxy on a free port of this machine until the test ends.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}}
	p.talks = sync.NewCond(&p.mu)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				_ = near.Close()
				continue
			}
			p.mu.Lock()
			p.conns[near], p.conns[far] = true, true
			p.mu.Unlock()
			group.Go(func() { p.forward(near, far) })
			group.Go(func() { p.forward(far, near) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); p.Cut(); p.Silence(false); group.Wait() })
	return p
}

// Addr returns the host and the port that the proxy listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Delay makes each packet late.
func (p *Proxy) Delay(by time.Duration) { p.delay.Store(int64(by)) }

// forward holds the lock while it writes, so that no data is on its way once silence has begun.
func (p *Proxy) forward(from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		time.Sleep(time.Duration(p.delay.Load()))
		p.mu.Lock()
		for p.silent && p.conns[to] {
			p.talks.Wait()
		}
		if n > 0 && p.conns[to] {
			_, err = to.Write(buffer[:n])
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Silence begins or ends a silence. During it, data wait and connections stay open.
func (p *Proxy) Silence(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = is
	p.talks.Broadcast()
}

// Cut closes all connections and drops the data that wait in them.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	clear(p.conns)
	p.talks.Broadcast()
}
