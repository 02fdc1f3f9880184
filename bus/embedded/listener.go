package embedded

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Guests is the rule that admits clients without credentials. Such a client is a guest: it may send
// requests to the public subjects and subscribe to events, and it can read the replies to other guests.
type Guests int

const (
	// GuestsOnLoopback admits guests if only this machine can connect: the listener is on a loopback
	// address, or there is no listener.
	GuestsOnLoopback Guests = iota
	// GuestsAnywhere admits guests from every host that can reach the listener.
	GuestsAnywhere
	// GuestsNever requires credentials of every client.
	GuestsNever
)

// allowed reports whether a listener admits guests.
func (g Guests) allowed(loopback bool) bool {
	return g == GuestsAnywhere || g == GuestsOnLoopback && loopback
}

// listener is the address that the server binds, in the server's terms: -1 is any free port, since 0
// would be 4222.
type listener struct {
	host     string
	port     int
	loopback bool // no other machine can connect
}

// resolveWithin bounds the look-up of a host name in NATS_LISTEN.
const resolveWithin = 5 * time.Second

// parseListen parses "host:port", or Off. It resolves a host name, so that the address that decides
// about guests is the address that the server binds.
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

// resolve returns the address of a host that net.Listen would choose: its first IPv4 address, or its
// first address if it has no IPv4 address.
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

// IsLoopback reports whether only this machine can reach a listener at "host:port", or at Off. It
// resolves a host name.
func IsLoopback(ctx context.Context, listen string) (bool, error) {
	l, err := parseListen(ctx, listen)
	return l.loopback, err
}
