package testport_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/zyotra/auth/internal/testport"
)

func TestReservedPortsAreDifferentAndFree(t *testing.T) {
	seen := map[int]bool{}
	for range 10 {
		ports, release, err := testport.Reserve(50)
		if err != nil || len(ports) != 50 {
			t.Fatalf("%d ports, %v", len(ports), err)
		}
		t.Cleanup(release)
		for _, port := range ports {
			if seen[port] {
				t.Fatalf("port %d is reserved twice", port)
			}
			seen[port] = true
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0])))
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
	}
}

func TestReleasedPortsComeBack(t *testing.T) {
	for range 15 { // all together are more than there are
		_, release, err := testport.Reserve(900)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
}
