package testpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zyotra/auth/internal/testtool"
)

// host is what a search depends on besides PATH; tests describe other machines with it.
type host struct {
	lib  string // where Debian keeps a directory for each version
	etc  string // where Debian keeps what new clusters are made by
	root bool
}

func thisHost() host {
	return host{lib: "/usr/lib/postgresql", etc: "/etc/postgresql-common", root: os.Geteuid() == 0}
}

// find returns the directory of initdb and postgres, or docker's path where only that will do.
func (h host) find(ctx context.Context) (bin, docker string, err error) {
	if bin = h.installed(); bin != "" {
		return bin, "", nil
	}
	bin, aptErr := h.install(ctx)
	if aptErr == nil {
		return bin, "", nil
	}
	docker, dockerErr := findDocker(ctx)
	if dockerErr == nil {
		return "", docker, nil
	}
	return "", "", fmt.Errorf("no Postgres: %s is not set; "+
		"initdb and postgres are not in PATH, %s/*/bin or the bindir of pg_config; %w; %w",
		Env, h.lib, aptErr, dockerErr)
}

// installed returns the directory of the programs this machine has, or "".
func (h host) installed() string {
	if initdb, err := exec.LookPath("initdb"); err == nil && hasServer(filepath.Dir(initdb)) {
		return filepath.Dir(initdb)
	}
	var newest float64
	var bin string
	dirs, _ := filepath.Glob(h.lib + "/*/bin") // fails on a bad pattern only
	for _, dir := range dirs {
		version, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err == nil && version > newest && hasServer(dir) {
			newest, bin = version, dir
		}
	}
	if bin != "" {
		return bin
	}
	out, err := exec.Command("pg_config", "--bindir").Output()
	if dir := strings.TrimSpace(string(out)); err == nil && hasServer(dir) {
		return dir
	}
	return ""
}

// Program returns the path of a program that comes with the server, such as pgbench: beside it,
// or where PATH has it.
func Program(ctx context.Context, name string) (string, error) {
	bin, _, err := thisHost().find(ctx)
	if err != nil {
		return "", err
	}
	for _, candidate := range []string{filepath.Join(bin, name), name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s: Debian has it in postgresql", name)
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// install gets Postgres from Debian.
func (h host) install(ctx context.Context) (bin string, err error) {
	if err := testtool.Install(ctx, h.root, h.prepare, "postgresql"); err != nil {
		return "", err
	}
	if bin = h.installed(); bin == "" {
		return "", errors.New("apt-get install postgresql brought no server")
	}
	return bin, nil
}

// prepare keeps the package from making and starting a server of its own, which nobody stops.
func (h host) prepare() (done bool, err error) {
	if h.installed() != "" {
		return true, nil
	}
	conf := filepath.Join(h.etc, "createcluster.d", "no-main-cluster.conf")
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		return false, err
	}
	return false, os.WriteFile(conf, []byte("create_main_cluster = false\n"), 0o644)
}

func findDocker(ctx context.Context) (string, error) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		return "", errors.New("there is no docker in PATH")
	}
	if out, err := exec.CommandContext(ctx, docker, "version").CombinedOutput(); err != nil {
		return "", fmt.Errorf("docker version: %w\n%s", err, out)
	}
	return docker, nil
}
