package embedded

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Guests says which clients are let in without credentials. They are guests: they may ask the public
// subjects and hear events, and one guest can read the replies to another.
type Guests int

const (
	// GuestsOnLoopback lets guests in if only this machine can connect: the listener is on a loopback
	// address, or there is none.
	GuestsOnLoopback Guests = iota
	// GuestsAnywhere lets guests in from wherever the listener can be reached.
	GuestsAnywhere
	// GuestsNever requires credentials of every client.
	GuestsNever
)

// allowed reports whether guests are let in by a listener.
func (g Guests) allowed(loopback bool) bool {
	return g == GuestsAnywhere || g == GuestsOnLoopback && loopback
}

// listener is the address that the server binds, in the server's terms: any free port is -1, since 0
// would be 4222.
type listener struct {
	host     string
	port     int
	loopback bool // no other machine can connect
}

// resolveWithin bounds the look-up of a host name in NATS_LISTEN.
const resolveWithin = 5 * time.Second

// parseListen reads a "host:port". It resolves a host name, so that the address that decides about
// guests is the address that the server binds.
func parseListen(ctx context.Context, listen string) (l listener, err error) {
	if listen == Off {
		return listener{loopback: true}, nil
	}
	host, digits, err := net.SplitHostPort(listen)
	if err != nil {
		return l, fmt.Errorf("NATS_LISTEN %q: want host:port or %s: %w", listen, Off, err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil || port < -1 || port > 65535 {
		return l, fmt.Errorf("NATS_LISTEN %q: want host:port or %s: bad port %q", listen, Off, digits)
	}
	if port == 0 {
		port = -1
	}
	if host == "" {
		host = net.IPv4zero.String()
	}
	ip, err := resolve(ctx, host)
	if err != nil {
		return l, fmt.Errorf("NATS_LISTEN %q: %w", listen, err)
	}
	return listener{host: ip.String(), port: port, loopback: ip.IP.IsLoopback()}, nil
}

// resolve returns the address that net.Listen would take of a host: its first IPv4 address, or else
// its first one.
func resolve(ctx context.Context, host string) (net.IPAddr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	list, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return net.IPAddr{}, err
	}
	for _, ip := range list {
		if ip.IP.To4() != nil {
			return ip, nil
		}
	}
	return list[0], nil
}

// IsLoopback reports whether a listener at a "host:port", or at Off, can be reached from this machine
// alone. A host name is resolved.
func IsLoopback(ctx context.Context, listen string) (bool, error) {
	l, err := parseListen(ctx, listen)
	return l.loopback, err
}
