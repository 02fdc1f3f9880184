// Package testnats gives tests real NATS servers: processes that can be killed and started
// again, alone (Start) or as a cluster of three (StartCluster).
//
//	binary.go    the program, of the module that go.mod names, and what ends it with its owner
//	testnats.go  one server
//	cluster.go   three, and who leads what
//
// A server keeps its ports and its store over restarts. It ends with the test, and with the
// process of the test however that one ends. Its log is in the test's if that fails.
//
// It runs on Unix systems only and must not be used outside of tests.
package testnats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/testport"
)

// patience is how long something may take that is bound to happen, on a busy machine.
const patience = time.Minute

// Place is what the configuration of a server has to say of where it is.
type Place struct {
	Name    string   // of the server, also in its environment as SERVER_NAME
	Store   string   // directory for JetStream's store_dir
	Cluster string   // host:port to listen on for the others; "" for a server alone
	Routes  []string // host:port of all servers of the cluster, the same for each
}

// Hosts are the names of the servers of a cluster in a configuration that Moved reads.
var Hosts = []string{"nats-1", "nats-2", "nats-3"}

// Moved returns the Text of a Config: a configuration as authd prints it for Hosts, with the addresses
// and the directory of the test in place of the operator's.
func Moved(text string) func(Place) string {
	return func(p Place) string {
		moved := []string{`"/data"`, strconv.Quote(p.Store), "0.0.0.0:6222", p.Cluster}
		for i, route := range p.Routes {
			moved = append(moved, Hosts[i]+":6222", route)
		}
		return strings.NewReplacer(moved...).Replace(text)
	}
}

// Config says how servers run. The zero value has JetStream, and lets in everybody.
type Config struct {
	// Text makes the configuration of the server at a place. Where it listens for clients and
	// for questions of how it is are set besides, and win.
	Text func(Place) string
	// Env is added to the environment, which is otherwise empty but for SERVER_NAME.
	Env []string
}

// Server is a NATS server in a process of its own. Its methods may be called at the same time.
type Server struct {
	Name string

	address, monitor string // host:port of clients, and of the server's own pages
	command          []string
	env              []string
	place            Place
	config, log      string // paths

	mu      sync.Mutex
	process *process // the last one
}

// process is a run of a server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

// Start runs a server alone.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	s := c.place(t, Place{Name: "n1"})
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// place prepares a server without running it.
func (c Config) place(t testing.TB, p Place) *Server {
	t.Helper()
	text := c.Text
	if text == nil {
		text = open
	}
	dir, ports := t.TempDir(), testport.Ports(t, 2)
	p.Store = filepath.Join(dir, "store")
	config := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(config, []byte(text(p)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Name: p.Name, place: p, config: config, address: onLoopback(ports[0]), monitor: onLoopback(ports[1]),
		log: filepath.Join(dir, "log"), env: append([]string{"SERVER_NAME=" + p.Name}, c.Env...),
		command: []string{program(t), "--config", config, "--addr", loopback,
			"--port", strconv.Itoa(ports[0]), "--http_port", strconv.Itoa(ports[1])},
	}
	t.Cleanup(func() {
		_ = s.Kill() // an error is that it does not run
		if t.Failed() {
			log, _ := os.ReadFile(s.log)
			t.Logf("NATS server %s:\n%s", s.Name, log)
		}
	})
	return s
}

// open is the configuration of a server that lets in everybody.
func open(p Place) string {
	text := fmt.Sprintf("server_name: $SERVER_NAME\njetstream { store_dir: %q }\n", p.Store)
	if p.Cluster == "" {
		return text
	}
	var routes []string
	for _, route := range p.Routes {
		routes = append(routes, strconv.Quote("nats://"+route))
	}
	return text + fmt.Sprintf("cluster { name: test, listen: %q, routes: [%s] }\n", p.Cluster, strings.Join(routes, ", "))
}

// URL is where clients connect, such as nats://127.0.0.1:21234, whether it runs or not.
func (s *Server) URL() string { return "nats://" + s.address }

// Monitor is the URL of the pages in which the server tells how it is.
func (s *Server) Monitor() string { return "http://" + s.monitor }

// Store is the directory in which the server keeps streams.
func (s *Server) Store() string { return s.place.Store }

// PID is the id of the process that runs, or ran last.
func (s *Server) PID() int { return s.current().cmd.Process.Pid }

// Kill ends the server at once, by SIGKILL, and waits until it has ended.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the server in good order, by SIGTERM, and waits until it has ended.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Restart starts a server that does not run, where it was, and waits until clients can connect.
// What it keeps may not be there yet: Cluster.Await tells when it is.
func (s *Server) Restart(ctx context.Context) error {
	if s.running() {
		return fmt.Errorf("NATS server %s runs already", s.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.spawn(); err != nil {
		return fmt.Errorf("NATS server %s: %w", s.Name, err)
	}
	return s.await(ctx, "listens", func() bool { return s.healthy(ctx, "?js-server-only=true") })
}

// Reload gives a server that runs another configuration, and waits until it has taken it.
func (s *Server) Reload(ctx context.Context, text func(Place) string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before, err := s.loaded(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.config, []byte(text(s.place)), 0o600); err != nil {
		return err
	}
	if err := s.current().cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("NATS server %s: %w", s.Name, err)
	}
	return s.await(ctx, "takes another configuration", func() bool {
		at, err := s.loaded(ctx)
		return err == nil && at.After(before)
	})
}

// loaded is when the server read its configuration.
func (s *Server) loaded(ctx context.Context) (time.Time, error) {
	var page struct {
		At time.Time `json:"config_load_time"`
	}
	err := s.tell(ctx, "/varz", &page)
	return page.At, err
}

func (s *Server) spawn() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = filepath.Dir(s.log), s.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // away from the terminal's Ctrl-C
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	ended, err := watch(cmd.Process.Pid)
	go func() {
		_ = cmd.Wait() // however it ends
		ended()
		close(p.exited)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	return err
}

func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

func (s *Server) running() bool {
	p := s.current()
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (s *Server) end(sig syscall.Signal) error {
	if !s.running() {
		return fmt.Errorf("NATS server %s does not run", s.Name)
	}
	p := s.current()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("NATS server %s does not end by %s", s.Name, sig)
	}
}

// await waits until something is so, and no longer than the server runs.
func (s *Server) await(ctx context.Context, what string, so func() bool) error {
	p := s.current()
	for !so() {
		select {
		case <-p.exited:
			return s.failure("has ended before it " + what)
		case <-ctx.Done():
			return s.failure("is not yet so far that it " + what)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// failure has the end of the log.
func (s *Server) failure(what string) error {
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("NATS server %s %s:\n%s", s.Name, what, log[max(0, len(log)-4000):])
}

func (s *Server) healthy(ctx context.Context, query string) bool {
	resp, err := s.get(ctx, "/healthz"+query)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection can be used again
	return resp.StatusCode == http.StatusOK
}

// tell reads one of the server's pages.
func (s *Server) tell(ctx context.Context, page string, into any) error {
	resp, err := s.get(ctx, page)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// client keeps no connection, as the servers come and go.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

func (s *Server) get(ctx context.Context, page string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Monitor()+page, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

const loopback = "127.0.0.1"

func onLoopback(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
