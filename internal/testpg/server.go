package testpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/zyotra/auth/internal/testport"
)

const image = "postgres:17-alpine"

// Config says how a server runs. The zero value is right for most tests.
type Config struct {
	// Durable makes commits survive a power cut, as in production. Without it they still
	// survive Stop and Kill, and tests run faster.
	Durable bool
	// Settings are added to postgresql.conf's, such as "max_connections=20".
	Settings []string
	// Certificate and Key are files in PEM with which the server offers TLS to those who ask
	// for it. It cannot in a container.
	Certificate, Key string
}

// Server is a Postgres of its own, on 127.0.0.1 and without passwords. Its methods must
// not be called at the same time.
type Server struct {
	URL string // of the database postgres, as a superuser; it outlives a restart

	dir     string
	probe   string              // URL that only this server answers
	user    *syscall.Credential // nil for our own
	command []string            // runs the server in the foreground
	cmd     *exec.Cmd           // the running server, or nil
	janitor *exec.Cmd           // nil if the server is not ours
	pids    io.WriteCloser      // tells the janitor what runs
	release func()              // gives the port back; nil if the server is not ours

	admin struct {
		sync.Mutex
		conn *pgx.Conn // nil before its first use
	}
}

// janitorScript ends what its owner left. Its input, a line with the id of the process
// that runs now or an empty line, ends when the owner closes it or dies of anything.
const janitorScript = `
while read -r line; do pid=$line; done
tries=0
if [ -n "$pid" ] && kill -QUIT "$pid"; then
	while kill -0 "$pid" && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done
fi
dir=$1
shift
"$@"
until rm -rf "$dir" || [ $tries -ge 200 ]; do sleep 0.1; tries=$((tries+1)); done`

// Start runs a new, empty server, whatever the environment names. The caller closes it.
func Start(ctx context.Context, c Config) (*Server, error) {
	bin, docker, err := thisHost().find(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // an image takes long to fetch
	defer cancel()
	var s *Server
	for range 3 { // a program that reserves no port can take it before the server has it
		if s, err = start(ctx, c, bin, docker); err == nil || ctx.Err() != nil {
			break
		}
	}
	return s, err
}

func start(ctx context.Context, c Config, bin, docker string) (*Server, error) {
	ports, release, err := testport.Reserve(1)
	if err != nil {
		return nil, err
	}
	s, err := startOn(ctx, strconv.Itoa(ports[0]), c, bin, docker)
	if err != nil {
		release()
		return nil, err
	}
	s.release = release
	return s, nil
}

func startOn(ctx context.Context, port string, c Config, bin, docker string) (s *Server, err error) {
	s = &Server{URL: "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"}
	parent := ""
	if docker == "" && os.Geteuid() == 0 {
		parent = "/tmp" // root's TMPDIR may be closed to others
		if s.user, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if docker == "" && !c.Durable && hasRoom(memory) {
		parent = memory
	}
	if s.dir, err = os.MkdirTemp(parent, "testpg-"); err != nil {
		return nil, err
	}
	if c.Certificate != "" {
		if docker != "" {
			return nil, errors.Join(errors.New("no TLS in a container: install Postgres"), os.RemoveAll(s.dir))
		}
		if err := s.certify(&c); err != nil {
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
	}
	var prepare, cleanup []string
	if docker == "" {
		prepare, cleanup = s.local(bin, port, c.settings())
	} else {
		prepare, cleanup = s.container(docker, port, c.settings())
	}
	if err := s.watch(cleanup); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.boot(ctx, prepare); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// memory is where Linux keeps files in memory. Postgres makes and removes thousands of files for
// the databases of tests, which takes several times as long on a disk.
const memory = "/dev/shm"

// hasRoom reports whether a directory exists and has 4 GiB left. The databases of concurrent tests
// take less than one.
func hasRoom(dir string) bool {
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && uint64(fs.Bavail)*uint64(fs.Bsize) >= 4<<30
}

func (c Config) settings() []string {
	args := []string{"-c", "max_connections=200"}
	if !c.Durable {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	for _, setting := range c.Settings {
		args = append(args, "-c", setting)
	}
	return args
}

// certify copies the certificate and the key, as the server wants them to be its user's alone,
// and adds the settings that name them.
func (s *Server) certify(c *Config) error {
	c.Settings = append(slices.Clone(c.Settings), "ssl=on")
	for setting, from := range map[string]string{"ssl_cert_file": c.Certificate, "ssl_key_file": c.Key} {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to := filepath.Join(s.dir, setting)
		if err := os.WriteFile(to, content, 0o600); err != nil {
			return err
		}
		if s.user != nil {
			if err := os.Chown(to, int(s.user.Uid), int(s.user.Gid)); err != nil {
				return err
			}
		}
		c.Settings = append(c.Settings, setting+"="+to)
	}
	return nil
}

// local makes s run the programs in bin and returns the commands that come before and after.
func (s *Server) local(bin, port string, settings []string) (prepare, cleanup []string) {
	data := filepath.Join(s.dir, "data")
	// Its socket, as another server may have got the port.
	s.probe = "postgres://postgres@/postgres?sslmode=disable&port=" + port + "&host=" + url.QueryEscape(s.dir)
	s.command = append([]string{filepath.Join(bin, "postgres"), "-D", data, "-k", s.dir,
		"-h", "127.0.0.1", "-p", port}, settings...)
	return []string{filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync"}, []string{":"}
}

// container is local's counterpart for Docker.
func (s *Server) container(docker, port string, settings []string) (prepare, cleanup []string) {
	name := "testpg-" + strings.ToLower(rand.Text())
	s.probe = s.URL
	s.command = []string{docker, "start", "-a", name} // passes signals on
	return append([]string{docker, "create", "--name", name, "-p", "127.0.0.1:" + port + ":5432",
		"-e", "POSTGRES_HOST_AUTH_METHOD=trust", image}, settings...), []string{docker, "rm", "-f", "-v", name}
}

// watch starts the janitor.
func (s *Server) watch(cleanup []string) error {
	janitor := exec.Command("sh", append([]string{"-c", janitorScript, "testpg", s.dir}, cleanup...)...)
	janitor.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // away from the terminal's Ctrl-C
	pids, err := janitor.StdinPipe()
	if err != nil {
		return err
	}
	if err := janitor.Start(); err != nil {
		return err
	}
	s.janitor, s.pids = janitor, pids
	return nil
}

func (s *Server) boot(ctx context.Context, prepare []string) error {
	if s.user != nil {
		if err := os.Chown(s.dir, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return err
		}
	}
	if err := s.spawn(prepare); err != nil {
		return err
	}
	if err := s.wait(); err != nil {
		return s.failure(err)
	}
	return s.launch(ctx)
}

// Stop ends the server in good order. Its data stay for Restart.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends the server at once, as a crash would: open transactions are lost and a
// Restart has to recover.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

// Restart starts a stopped server again, on the same data and port.
func (s *Server) Restart(ctx context.Context) error {
	if s.janitor == nil || s.cmd != nil {
		return errors.New("restart Postgres: it was not stopped by us")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.launch(ctx)
}

// Close ends the server and removes its data. It leaves a server that the environment
// named alone.
func (s *Server) Close() {
	if s.janitor == nil {
		return
	}
	if s.cmd != nil {
		s.end(syscall.SIGQUIT) // no error that matters: its data go
	}
	s.pids.Close()
	s.janitor.Wait()
	s.janitor = nil
	if s.release != nil {
		s.release()
	}
}

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil {
		return errors.New("stop Postgres: it is not ours or does not run")
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := s.wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited && sig == syscall.SIGQUIT {
		return nil // an immediate shutdown may end with any status
	}
	return err
}

// launch runs the server and returns when it answers.
func (s *Server) launch(ctx context.Context) error {
	if err := s.spawn(s.command); err != nil {
		return err
	}
	for {
		err := ping(ctx, s.probe)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(s.failure(err), s.end(syscall.SIGQUIT))
		}
		if s.exited() {
			return s.failure(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ping(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return db.Close(ctx)
}

func (s *Server) spawn(args []string) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.user}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	_, err = fmt.Fprintln(s.pids, s.cmd.Process.Pid)
	return err
}

func (s *Server) wait() error {
	err := s.cmd.Wait()
	s.cmd = nil
	_, told := fmt.Fprintln(s.pids)
	return errors.Join(err, told)
}

// exited reports that the server ended by itself. A goroutine in cmd.Wait would know
// too, but it would live as long as the server and look like a leak to tests.
func (s *Server) exited() bool {
	pid, err := syscall.Wait4(s.cmd.Process.Pid, nil, syscall.WNOHANG, nil)
	if err != nil || pid == 0 {
		return false
	}
	s.wait() // only says that there is nothing left to wait for
	return true
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// failure adds the end of the log to err.
func (s *Server) failure(err error) error {
	log, _ := os.ReadFile(s.log())
	return fmt.Errorf("start Postgres: %w\n%s", err, log[max(0, len(log)-4000):])
}

// unprivileged returns the user that runs Postgres in root's place: it refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
