package embedded

import (
	"testing"

	"github.com/nats-io/nkeys"
)

// What no client can see from outside: that the store is flushed at every message, the caps
// on it, and that signals stay the program's.
func TestOptions(t *testing.T) {
	t.Parallel()
	keys := map[string]nkeys.KeyPair{}
	for _, role := range names() {
		key, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		keys[role] = key
	}
	o, err := options(Config{Dir: "/data", Listen: "127.0.0.1:4222"}, listener{"127.0.0.1", 4222, true}, keys)
	if err != nil {
		t.Fatal(err)
	}
	if !o.SyncAlways || !o.NoSigs || o.DontListen {
		t.Errorf("SyncAlways %v, NoSigs %v, DontListen %v", o.SyncAlways, o.NoSigs, o.DontListen)
	}
	if o.JetStreamMaxMemory != 64<<20 || o.JetStreamMaxStore != 4<<30 || o.MaxConn != 4096 {
		t.Errorf("memory %d, disk %d, connections %d", o.JetStreamMaxMemory, o.JetStreamMaxStore, o.MaxConn)
	}
	if o.ServerName != "authd" || o.SystemAccount != "SYS" || o.StoreDir != "/data" {
		t.Errorf("name %q, system account %q, store %q", o.ServerName, o.SystemAccount, o.StoreDir)
	}
	if o.HTTPPort != 0 || o.HTTPSPort != 0 || o.ProfPort != 0 {
		t.Errorf("monitoring on %d, %d, %d", o.HTTPPort, o.HTTPSPort, o.ProfPort)
	}
}
