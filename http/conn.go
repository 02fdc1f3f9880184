package http

import (
	"cmp"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth/internal/accept"
)

const (
	// skipTimeout bounds how long the rest of a head is read that is too large.
	skipTimeout = time.Second
	// lingerTimeout and maxSkippedBytes bound what is read of a connection after a refusal. A
	// connection that is closed with unread bytes is reset, and the client may lose the answer.
	lingerTimeout = time.Second
	// roomInterval is how often a full listener looks for a connection that it can close.
	roomInterval = 50 * time.Millisecond
	// shedShare is the part of all connections that make room at once.
	shedShare = 32
)

// state is what a connection waits for.
type state = int32

const (
	idle      state = iota // for the client to begin a request
	receiving              // for the client to finish its request
	answering              // for the edge
	shed                   // for nothing: the edge has closed it to make room
)

// listener accepts at most max connections at once. When there are more, it closes some that wait for
// their clients, and none whose request is being answered.
type listener struct {
	*accept.Listener
	max   int
	log   *slog.Logger
	freed chan struct{} // has an element if a connection ended

	mu     sync.Mutex
	open   map[*conn]struct{}
	logged time.Time // of the latest log line about closed connections
}

func newListener(l net.Listener, most int, log *slog.Logger) *listener {
	limited := &listener{Listener: accept.New(l, log), max: most, log: log, freed: make(chan struct{}, 1), open: map[*conn]struct{}{}}
	limited.Exhausted = limited.shed
	return limited
}

// Accept returns the next connection, once there is room for it.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for l.isFull() {
		l.shed()
		if !l.isFull() {
			break
		}
		select { // all are being answered
		case <-l.freed:
		case <-time.After(roomInterval):
		case <-l.Closed():
			raw.Close()
			return nil, net.ErrClosed
		}
	}
	c := &conn{Conn: raw, listener: l, source: sourceOf(raw)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return c, nil
}

func (l *listener) isFull() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open) >= l.max
}

// shed closes a part of the connections that wait for their clients: of the sources that have most of
// them, so that one client cannot close those of others; idle ones before those that have begun a
// request; and then those whose time is up first.
func (l *listener) shed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var waiting []candidate
	bySource := map[netip.Addr]int{}
	for c := range l.open {
		if s := c.state.Load(); s == idle || s == receiving {
			waiting = append(waiting, candidate{c, s, c.due.Load()})
			bySource[c.source]++
		}
	}
	slices.SortFunc(waiting, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(bySource[b.source], bySource[a.source]), cmp.Compare(a.state, b.state), cmp.Compare(a.due, b.due))
	})
	closed := 0
	for _, c := range waiting[:min(len(waiting), max(1, len(l.open)/shedShare))] {
		if c.conn.state.CompareAndSwap(c.state, shed) {
			delete(l.open, c.conn)
			c.conn.Conn.Close()
			closed++
		}
	}
	if closed > 0 && time.Since(l.logged) >= time.Minute {
		l.logged = time.Now()
		l.log.Warn("too many connections: those that wait for their clients are closed", "open", len(l.open), "most", l.max)
	}
}

// candidate is a connection that may be closed, as it was seen.
type candidate struct {
	*conn
	state state
	due   int64
}

// sourceOf returns the address of the peer, of IPv6 its /64.
func sourceOf(c net.Conn) netip.Addr {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	a := peer.AddrPort().Addr().Unmap()
	if !a.Is6() {
		return a
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
}

// conn gives the server one request at a time, and none whose head the framer refuses. The server then
// fails to read, and asks its ErrorHandler, which finds the refusal here.
type conn struct {
	net.Conn
	listener *listener
	source   netip.Addr
	state    atomic.Int32
	due      atomic.Int64 // read deadline in Unix nanoseconds
	framer   framer
	held     []byte      // read already, of later requests
	refusal  error       // of the request under way
	linger   atomic.Bool // it ends with a refusal, while the client may still send
}

// Read reads of the request under way, or of the next one if that has ended.
func (c *conn) Read(p []byte) (int, error) {
	if c.refusal != nil {
		return 0, c.refusal
	}
	begins := c.framer.phase == between
	if begins {
		c.state.CompareAndSwap(answering, idle)
	}
	n, err := c.receive(p)
	if n == 0 {
		return 0, err
	}
	if begins && !c.state.CompareAndSwap(idle, receiving) {
		return 0, net.ErrClosed
	}
	used, err := c.framer.check(p[:n])
	if err != nil {
		return c.refuse(p, p[used:n], err)
	}
	if used < n {
		c.held = append(append(make([]byte, 0, n-used+len(c.held)), p[used:n]...), c.held...)
	}
	return used, nil
}

// receive reads what was held back, or else from the network.
func (c *conn) receive(p []byte) (n int, err error) {
	if len(c.held) == 0 {
		return c.Conn.Read(p)
	}
	n = copy(p, c.held)
	c.held = c.held[n:]
	return n, nil
}

// refuse ends the connection with a refusal, which the next read returns. The server asks its
// ErrorHandler on an error only if it has read something of the request beside empty lines, so it
// gets one byte first.
func (c *conn) refuse(p, rest []byte, refusal error) (int, error) {
	c.refusal = refusal
	c.linger.Store(true)
	if c.framer.phase == overflowed {
		c.skipHead(rest)
	}
	p[0] = 'X'
	return 1, nil
}

// skipHead reads on to the end of a head that is too large, or for as long and as far as is sensible.
func (c *conn) skipHead(rest []byte) {
	if c.framer.skip(rest) || c.Conn.SetReadDeadline(time.Now().Add(skipTimeout)) != nil {
		return
	}
	buffer := make([]byte, 4<<10)
	for total := 0; total < maxSkippedBytes; {
		n, err := c.receive(buffer)
		if c.framer.skip(buffer[:n]) || err != nil {
			return
		}
		total += n
	}
}

// SetReadDeadline is that of net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.due.Store(t.UnixNano())
	return c.Conn.SetReadDeadline(t)
}

// answer reports whether the edge may answer the request that was read: it may not if the connection
// was closed to make room.
func (c *conn) answer() bool { return c.state.CompareAndSwap(receiving, answering) }

// Close closes the connection, after a refusal not before the client has had time to read it.
func (c *conn) Close() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger.Swap(false) && half.CloseWrite() == nil {
		c.drain()
	}
	c.listener.mu.Lock()
	delete(c.listener.open, c)
	c.listener.mu.Unlock()
	err := c.Conn.Close()
	select {
	case c.listener.freed <- struct{}{}:
	default:
	}
	return err
}

// drain reads and drops what the client still sends, until it closes its side.
func (c *conn) drain() {
	if c.Conn.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	buffer := make([]byte, 4<<10)
	for total := 0; total < maxSkippedBytes; {
		n, err := c.Conn.Read(buffer)
		if err != nil {
			return
		}
		total += n
	}
}
