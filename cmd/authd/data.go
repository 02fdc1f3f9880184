package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/zyotra/auth/internal/secret"
)

// dataDir is the directory of the embedded parts, which this process has locked.
type dataDir struct {
	path    string
	lock    *flock.Flock
	warning string // that other users can access the directory; "" if they cannot
}

// openDataDir creates the directory if it is absent, and locks it. Its error wraps errLocked if another
// process holds the lock.
func openDataDir(path string) (*dataDir, error) {
	warning, err := makeDataDir(path)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(path, lockName))
	switch {
	case errors.Is(err, errLocked):
		return nil, fmt.Errorf("DATA_DIR %s is %w; stop it, or give this one a directory of its own", path, err)
	case err != nil:
		return nil, fmt.Errorf("lock DATA_DIR: %w", err)
	}
	return &dataDir{path: path, lock: lock, warning: warning}, nil
}

// lockDatabase locks an SQLite file, so that two processes with different data directories do not
// share it: each relies on being its only user.
func lockDatabase(path string) (*flock.Flock, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil { // all symbolic links to a file share its lock
		path = real
	}
	lock, err := lockFile(path + ".lock")
	switch {
	case errors.Is(err, errLocked):
		return nil, fmt.Errorf("DATABASE_URL sqlite://%s is %w; stop it, give this one a file of its own, or let them share a Postgres", path, err)
	case err != nil:
		return nil, fmt.Errorf("lock DATABASE_URL: %w", err)
	}
	return lock, nil
}

const (
	lockName = "authd.lock"
	// lockWithin is how long lockFile waits for a lock: a process that calls isHeld may share the lock
	// for a moment.
	lockWithin = 200 * time.Millisecond
)

// errLocked means that another process holds a lock.
var errLocked = errors.New("in use by another authd")

// lockFile locks a file, which it creates if absent, and writes the id of this process into it. It
// returns errLocked if another process holds the lock. The file remains when the process ends: removing
// it would let two processes lock two files of that name.
func lockFile(name string) (*flock.Flock, error) {
	lock := flock.New(name, flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	ctx, cancel := context.WithTimeout(context.Background(), lockWithin)
	defer cancel()
	locked, err := lock.TryLockContext(ctx, lockWithin/10)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if !locked {
		return nil, fmt.Errorf("%w%s", errLocked, holder(name))
	}
	if err := os.WriteFile(name, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// makeDataDir creates the directory if it is absent. It returns an error for a directory that other users
// can access, unless it is empty: then it removes their access. For a directory that another user
// prepared (see isMounted), it returns a warning instead.
func makeDataDir(path string) (warning string, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", &settingError{"DATA_DIR", fmt.Sprintf("%q cannot be made: %s", path, reason(err)), "./data"}
	}
	return closeToOthers(path)
}

// holder returns the id of the process that holds the lock, in parentheses; "" if its file has none.
func holder(name string) string {
	content, err := os.ReadFile(name)
	if pid, e := strconv.Atoi(strings.TrimSpace(string(content))); err == nil && e == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}

func closeToOthers(path string) (warning string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("look at DATA_DIR: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return "", nil
	}
	if isMounted(info) {
		privateFiles()
		return fmt.Sprintf("DATA_DIR %q is open to other users (mode %04o), and not this user's to close; files in it are made with mode 0600", path, info.Mode().Perm()), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("look at DATA_DIR: %w", err)
	}
	if len(entries) > 0 {
		return "", &settingError{"DATA_DIR", fmt.Sprintf("%q is open to other users (mode %04o): chmod 700 it, or take another one", path, info.Mode().Perm()), "./data"}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return "", fmt.Errorf("close DATA_DIR to others: %w", err)
	}
	return "", nil
}

// isMounted reports whether the directory is a volume that another user prepared: another user
// owns it, or new files get its group, which Kubernetes sets for fsGroup at each mount.
func isMounted(info os.FileInfo) bool {
	owner, known := ownerOf(info)
	return known && owner != os.Geteuid() || info.Mode()&os.ModeSetgid != 0
}

func (d *dataDir) close() error { return d.lock.Close() }

// secretFile is the name of the file in the data directory that contains the master secret.
const secretFile = "secret.key"

// secretKeys returns the master secret of the directory, and generates it if its file is absent.
func (d *dataDir) secretKeys() (secret.Keys, error) {
	name := filepath.Join(d.path, secretFile)
	keys, err := readSecret(name)
	if !errors.Is(err, os.ErrNotExist) {
		return keys, err
	}
	text := secret.Generate()
	if err := writeNew(name, text+"\n"); err != nil {
		return nil, fmt.Errorf("keep the generated secret: %w", err)
	}
	return secret.Parse(text)
}

func readSecret(name string) (secret.Keys, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the generated secret: %w", err)
	}
	keys, err := secret.Parse(string(content))
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return keys, nil
}

// writeNew writes a file to disk atomically: after a crash the file is complete or absent.
func writeNew(name, content string) error {
	draft := name + ".new"
	file, err := os.OpenFile(draft, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(draft, name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
