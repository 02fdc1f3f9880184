package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"
)

// SeedFile returns the path of a role's key below dir: a file with one line, a user seed.
func SeedFile(dir, role string) string { return seedPath(keysDir(dir), role) }

// keysDir returns the directory of the keys of a server that keeps its files in dir.
func keysDir(dir string) string { return filepath.Join(dir, "keys") }

func seedPath(folder, name string) string { return filepath.Join(folder, name+".nk") }

// Credentials returns the option to connect in a role with the key that a server keeps in dir, from
// a process other than the server's. It makes no key, so that a wrong directory is an error.
func Credentials(dir, role string) nats.Option {
	return asRole(role, func() (nkeys.KeyPair, error) { return readSeed(SeedFile(dir, role)) })
}

// asRole returns the option to connect in a role with the key that key returns.
func asRole(name string, key func() (nkeys.KeyPair, error)) nats.Option {
	return func(o *nats.Options) error {
		role, err := lookup(name)
		if err != nil {
			return err
		}
		pair, err := key()
		if err != nil {
			return err
		}
		public, err := pair.PublicKey()
		if err != nil {
			return fmt.Errorf("%s key: %w", name, err)
		}
		if err := nats.Nkey(public, pair.Sign)(o); err != nil {
			return err
		}
		return nats.CustomInboxPrefix(role.InboxPrefix)(o)
	}
}

// loadKeys reads the keys of these names from a folder and makes absent keys. The caller holds a
// lock of the folder.
func loadKeys(folder string, names []string) (map[string]nkeys.KeyPair, error) {
	if err := makePrivate(folder); err != nil {
		return nil, err
	}
	made := make([]nkeys.KeyPair, len(names))
	var g errgroup.Group // new keys wait for the disk concurrently
	for i, name := range names {
		g.Go(func() (err error) {
			made[i], err = loadKey(seedPath(folder, name))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	keys := map[string]nkeys.KeyPair{}
	for i, name := range names {
		keys[name] = made[i]
	}
	return keys, nil
}

// makePrivate makes a directory that only this user can access, or checks that an existing one is
// private: a user who may write to it could replace a key, whatever the mode of its file.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s: mode %#o lets others in, want 0700", dir, perm)
	}
	return nil
}

func loadKey(file string) (nkeys.KeyPair, error) {
	key, err := readSeed(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := writeSeed(file); err != nil {
		return nil, fmt.Errorf("write %s: %w", file, err)
	}
	return readSeed(file)
}

func readSeed(file string) (nkeys.KeyPair, error) {
	seed, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	return parseSeed(file, seed)
}

// readSecret returns the line of a file. It refuses a file that other users may read.
func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err // it names the file
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %#o lets others read the key, want 0600", file, perm)
	}
	line, err := io.ReadAll(io.LimitReader(f, 1024))
	return bytes.TrimSpace(line), err
}

// parseSeed returns the key of a seed. Its errors never contain the content, which may still be a key.
func parseSeed(file string, seed []byte) (nkeys.KeyPair, error) {
	key, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("%s: not the seed of an nkey", file)
	}
	public, err := key.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		return nil, fmt.Errorf("%s: not the seed of a user nkey", file)
	}
	return key, nil
}

// writeSeed makes a new key and writes its seed to file.
func writeSeed(file string) error {
	key, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	return writeSecret(file, seed)
}

// writeSecret writes a line to a file that only this user may read. The file appears whole or not
// at all. It cannot replace another file, because the caller found none and holds the lock.
func writeSecret(file string, line []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename
	_, err = tmp.Write(append(line, '\n'))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
