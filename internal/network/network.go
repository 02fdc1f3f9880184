// Package network groups the addresses of clients into the networks that share a queue.
//
// A network is what one owner usually controls: a /24 of IPv4, a /48 of IPv6. It is coarser than
// the source that a rate limit counts (an IPv4 address, an IPv6 /64): the owner of a /48 has
// 65,536 sources and waits in one line.
package network

import "net/netip"

const (
	bits4 = 24
	bits6 = 48
)

// Of returns the network of an address in text form, as in "192.0.2.0/24" or "2001:db8::/48". It
// returns "" for a text that is not an address: all such clients are one network.
func Of(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	ip, bits := ip.Unmap().WithZone(""), bits6
	if ip.Is4() {
		bits = bits4
	}
	return netip.PrefixFrom(ip, bits).Masked().String()
}
