package bus

import (
	"fmt"
	"testing"
)

func TestFloodsLeavePlacesForOthers(t *testing.T) {
	t.Parallel()
	for _, networks := range []int{1, 2, 8} {
		var c crowd
		for i := range 10 * maxQueued {
			c.enter(fmt.Sprint(i % networks))
		}
		if free := maxQueued - c.all; free < maxQueued/(networks+1)-1 || free > maxQueued/(networks+1)+networks {
			t.Errorf("%d networks leave %d of %d", networks, free, maxQueued)
		}
		for i := range 50 {
			if !c.enter(fmt.Sprint("other ", i)) {
				t.Fatalf("%d networks: number %d of others is refused", networks, i)
			}
		}
	}
}

func TestACrowdForgetsThoseWhoLeave(t *testing.T) {
	t.Parallel()
	var c crowd
	for range 3 * maxQueued {
		if !c.enter("192.0.2.0/24") {
			t.Fatal("refused")
		}
		c.leave("192.0.2.0/24")
	}
	if c.all != 0 || len(c.of) != 0 {
		t.Errorf("%d, %v", c.all, c.of)
	}
}

func TestTheNetworkOfARequest(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"email":"a@example.com","client":{"ip":"192.0.2.7","userAgent":"x"}}`: "192.0.2.0/24",
		`{"client":{"ip":"2001:db8:1:2::3"}}`:                                   "2001:db8:1::/48",
		`{"client":{}}`:                                                         "",
		`{"client":null}`:                                                       "",
		`{"client":{"ip":7}}`:                                                   "",
		`{"email":"a@example.com"}`:                                             "",
		`{`:                                                                     "",
		"":                                                                      "",
	} {
		if got := networkOf([]byte(data)); got != want {
			t.Errorf("%s: %q, want %q", data, got, want)
		}
	}
}
