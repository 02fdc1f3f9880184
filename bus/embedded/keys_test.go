package embedded_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/zyotra/auth/bus/embedded"
)

var keyed = []string{embedded.Service, embedded.Relay, embedded.Edge, embedded.Admin, embedded.App, embedded.Subscriber, embedded.Mailer}

func seeds(t *testing.T, dir string) map[string]string {
	t.Helper()
	seeds := map[string]string{}
	for _, role := range keyed {
		b, err := os.ReadFile(embedded.SeedFile(dir, role))
		if err != nil {
			t.Fatal(err)
		}
		seeds[role] = string(b)
	}
	return seeds
}

func TestSeedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).Shutdown()
	mode(t, filepath.Join(dir, "keys"), fs.ModeDir|0o700)
	for _, role := range keyed {
		if want := filepath.Join(dir, "keys", role+".nk"); embedded.SeedFile(dir, role) != want {
			t.Errorf("seed file %s, want %s", embedded.SeedFile(dir, role), want)
		}
		mode(t, embedded.SeedFile(dir, role), 0o600)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "keys"))
	if err != nil || len(entries) != len(keyed) {
		t.Errorf("%v, %v", entries, err)
	}
	first := seeds(t, dir)
	if first[embedded.Edge] == first[embedded.Service] || first[embedded.Admin] == first[embedded.Service] {
		t.Error("two roles share a key")
	}

	s := start(t, dir)
	for role, seed := range seeds(t, dir) {
		if seed != first[role] {
			t.Errorf("%s has another key after a restart", role)
		}
		// the file as other programs use it
		for name, option := range map[string]nats.Option{
			"nats.go":     seedOption(t, embedded.SeedFile(dir, role)),
			"Credentials": embedded.Credentials(dir, role),
		} {
			nc, err := nats.Connect(s.URL(), option)
			if err != nil {
				t.Errorf("%s by %s: %v", role, name, err)
				continue
			}
			nc.Close()
		}
	}
}

// A key that went missing is made again; the others stay.
func TestMissingSeedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).Shutdown()
	first := seeds(t, dir)
	if err := os.Remove(embedded.SeedFile(dir, embedded.Edge)); err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Connect("", embedded.Credentials(dir, embedded.Edge)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Credentials must not make a key: %v", err)
	}
	dial(t, start(t, dir), embedded.Edge)
	second := seeds(t, dir)
	if second[embedded.Edge] == first[embedded.Edge] || second[embedded.Service] != first[embedded.Service] {
		t.Error("want a new key for the edge alone")
	}
}

func TestBadSeedFiles(t *testing.T) {
	t.Parallel()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	accountSeed, err := account.Seed()
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	userSeed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"empty":        {"", 0o600, "not the seed"},
		"text":         {"SECRETsecret", 0o600, "not the seed"},
		"cut":          {string(userSeed[:40]), 0o600, "not the seed"},
		"public key":   {public, 0o600, "not the seed"},
		"account seed": {string(accountSeed), 0o600, "not the seed of a user"},
		"group reads":  {string(userSeed), 0o640, "0640"},
		"all read":     {string(userSeed), 0o604, "0604"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := embedded.SeedFile(dir, embedded.Edge)
			if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			err := refuse(t, embedded.Config{Dir: dir, Listen: embedded.Off})
			if !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if c.content != "" && strings.Contains(err.Error(), c.content) {
				t.Errorf("the error tells the content: %v", err)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != c.content {
				t.Errorf("the file was changed to %q, %v", got, err)
			}
		})
	}
}

func TestOpenKeyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).Shutdown()
	keys := filepath.Join(dir, "keys")
	if err := os.Chmod(keys, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := refuse(t, embedded.Config{Dir: dir, Listen: embedded.Off}); !strings.Contains(err.Error(), keys) {
		t.Error(err)
	}
}

func mode(t *testing.T, file string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s: mode %v, want %v", file, info.Mode(), want)
	}
}

func seedOption(t *testing.T, file string) nats.Option {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(file)
	if err != nil {
		t.Fatal(err)
	}
	return option
}
