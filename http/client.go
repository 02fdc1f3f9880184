package http

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// address is where a request comes from: the peer, or, as long as that is a configured
// proxy, whoever it says it asks for. Proxies append to X-Forwarded-For, so it is read from
// the right, and what stands left of the first stranger is his own invention.
func (e *Edge) address(c *fiber.Ctx) string {
	hop := peer(c)
	hops := forwardedFor(c)
	for i := len(hops) - 1; i >= 0 && e.isProxy(hop); i-- {
		next, ok := parseHop(hops[i])
		if !ok {
			break
		}
		hop = next
	}
	return hop.String()
}

// peer is the other end of the connection.
func peer(c *fiber.Ctx) netip.Addr {
	a, _ := netip.AddrFromSlice(c.Context().RemoteIP())
	return a.Unmap()
}

func (e *Edge) isProxy(a netip.Addr) bool {
	return slices.ContainsFunc(e.Proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// forwardedFor lists the hops of all headers X-Forwarded-For in their order.
func forwardedFor(c *fiber.Ctx) (hops []string) {
	for _, header := range c.Request().Header.PeekAll(fiber.HeaderXForwardedFor) {
		hops = append(hops, strings.Split(string(header), ",")...)
	}
	return hops
}

// parseHop reads an address, which some proxies write with the port.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), err == nil
}
