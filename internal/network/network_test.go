package network_test

import (
	"testing"

	"github.com/zyotra/auth/internal/network"
)

func TestAddressesOfOneOwnerAreOneNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1":                 "192.0.2.0/24",
		"192.0.2.254":               "192.0.2.0/24",
		"::ffff:192.0.2.7":          "192.0.2.0/24",
		"198.51.100.1":              "198.51.100.0/24",
		"2001:db8:1:ff00::1":        "2001:db8:1::/48",
		"2001:db8:1:1:2:3:4:5":      "2001:db8:1::/48",
		"2001:db8:2::1":             "2001:db8:2::/48",
		"fe80:1:2:3::1%eth0":        "fe80:1:2::/48",
		"":                          "",
		"example.com":               "",
		"192.0.2.1:443":             "",
		"2001:db8:1:ff00::1/64":     "",
		"192.0.2.1\x00198.51.100.1": "",
	} {
		if got := network.Of(address); got != want {
			t.Errorf("Of(%q) = %q, want %q", address, got, want)
		}
	}
}
