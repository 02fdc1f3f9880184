package bus

import (
	"encoding/json"
	"sync"

	"github.com/zyotra/auth/internal/network"
)

// crowd counts the requests of a subject that are in flight, by the network of their clients, and
// bounds them.
type crowd struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by network
}

// enter counts a request of a network. It returns false if the network has as many requests in flight as
// there are free places: one network leaves half of the places free, two leave a third, so a flood
// never takes the last place of all other networks.
func (c *crowd) enter(network string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[network] >= maxQueued-c.all {
		return false
	}
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[network]++
	c.all++
	return true
}

// leave undoes enter.
func (c *crowd) leave(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[network]--; c.of[network] == 0 {
		delete(c.of, network)
	}
}

// networkOf returns the network of a request's client, before the request is decoded in full: "" if the
// request names no client, or is malformed.
func networkOf(data []byte) string {
	var r struct{ Client struct{ IP string } }
	if json.Unmarshal(data, &r) != nil {
		return ""
	}
	return network.Of(r.Client.IP)
}
