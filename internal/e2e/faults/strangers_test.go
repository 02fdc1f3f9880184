package faults_test

import (
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testport"
)

// withOneUser runs a server that lets in one user alone and returns its URL with that user.
func withOneUser(t *testing.T) (url string) {
	t.Helper()
	o := testauthd.WithJetStream(t)
	o.Username, o.Password = "authd", "hunter22"
	return "nats://authd:hunter22@" + testauthd.ExternalNATS(t, o)[len("nats://"):]
}

// The service checks a server of the cluster that does not run at the start when it connects to it,
// and ends if strangers may misuse that server.
func TestAServerThatComesLaterIsCheckedThen(t *testing.T) {
	t.Parallel()
	port := testport.Ports(t, 1)[0]
	later := "127.0.0.1:" + strconv.Itoa(port)
	a := testauthd.Start(t, "--nats-open=off", "--nats-url="+withOneUser(t)+",nats://authd:hunter22@"+later)
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
	check(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if code := a.Wait(t, testauthd.Patience); code != 1 {
		t.Errorf("exit code %d", code)
	}
	a.Line(t, later+", clients without credentials may")
}
