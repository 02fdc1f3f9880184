package testnats

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ownerEnv makes one test of this binary own a server until the process is killed.
const ownerEnv = "TESTNATS_OWNER"

func connect(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func keep(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}, Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kept", []byte("ada")); err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), "KEPT")
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestWhatIsKeptOutlivesStopAndKill(t *testing.T) {
	t.Parallel()
	s := Start(t, Config{})
	keep(t, connect(t, s.URL()), 1)
	for name, end := range map[string]func() error{"stop": s.Stop, "kill": s.Kill} {
		pid := s.PID()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := end(); err == nil {
			t.Errorf("%s of a server that does not run succeeds", name)
		}
		if _, err := nats.Connect(s.URL()); err == nil {
			t.Fatalf("after %s it answers", name)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); err == nil {
			t.Error("Restart of a server that runs succeeds")
		}
		if s.PID() == pid {
			t.Error("the same process")
		}
		if n := kept(t, connect(t, s.URL())); n != 1 {
			t.Errorf("after %s: %d messages", name, n)
		}
	}
}

func TestAClusterOutlivesItsLeaders(t *testing.T) {
	t.Parallel()
	c := StartCluster(t, Config{})
	js := connect(t, c.URLs())
	keep(t, js, 3)
	for name, find := range map[string]func() (*Server, error){
		"meta":   func() (*Server, error) { return c.MetaLeader(t.Context()) },
		"stream": func() (*Server, error) { return c.StreamLeader(t.Context(), "KEPT") },
	} {
		leader, err := find()
		if err != nil {
			t.Fatal(err)
		}
		if err := leader.Kill(); err != nil {
			t.Fatal(err)
		}
		next, err := find()
		if err != nil {
			t.Fatal(err)
		}
		if next == leader {
			t.Errorf("%s: %s leads, but was killed", name, leader.Name)
		}
		if err := leader.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := kept(t, js); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestAConfigurationThatIsWrongIsTold(t *testing.T) {
	t.Parallel()
	s := Config{Text: func(Place) string { return "nonsense: {" }}.place(t, Place{Name: "n1"})
	if err := s.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "Parse error") {
		t.Errorf("%v", err)
	}
}

// TestOwner is the process that TestServersEndWithTheirOwner kills.
func TestOwner(t *testing.T) {
	if os.Getenv(ownerEnv) == "" {
		t.Skip("is part of another test")
	}
	s := Start(t, Config{})
	fmt.Println(s.PID())
	fmt.Println(filepath.Dir(s.command[0]))
	select {}
}

func TestServersEndWithTheirOwner(t *testing.T) {
	t.Parallel()
	owner := exec.Command(os.Args[0], "-test.run=^TestOwner$")
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	pid, pidErr := strconv.Atoi(lines.Text())
	lines.Scan()
	dir := lines.Text()
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // fails by being killed
	if pidErr != nil || !filepath.IsAbs(dir) {
		t.Fatalf("the owner said %v, %q", pidErr, dir)
	}
	// The server is nobody's child any more, so there is nothing to wait on.
	deadline := time.After(patience)
	for {
		_, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v; process %d: %v", dir, err, pid, syscall.Kill(pid, 0))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
