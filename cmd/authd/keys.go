package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/persistence"
)

// keysCommand is "authd keys". It works on the database, whether or not the service runs:
// instances read their keys every few seconds.
type keysCommand struct {
	List   keysList   `cmd:"" help:"Show the keys that access tokens are signed with."`
	Rotate keysRotate `cmd:"" help:"Make the next key now. It signs after ten minutes, when everybody who keeps the key set has it."`
	Retire keysRetire `cmd:"" help:"Withdraw a key that others may know. What it signed is refused from now on, and another key signs."`
	Reseal keysReseal `cmd:"" help:"Seal keys and peppers with the first value of SECRET_KEY, so that the second can go."`

	MailKey keysMailKey `cmd:"" name:"mail-key" help:"Print the key that opens the mails in the queue, for a mailer of your own: 32 bytes in base64, a line for each value of SECRET_KEY. Whoever has it reads links and codes that let in."`
}

type (
	keysList struct {
		keysSettings
		JSON bool `name:"json" help:"Write JSON."`
	}
	keysRotate struct {
		keysSettings
		Now bool `help:"Let the next key sign at once. Services that keep the key set may refuse its tokens until they fetch it again."`
	}
	keysRetire struct {
		keysSettings
		KID string `arg:"" name:"kid" help:"The key, as \"authd keys list\" shows it."`
	}
	keysReseal  struct{ keysSettings }
	keysMailKey struct{ keysSettings }
)

// keysSettings are the settings of "authd keys".
type keysSettings struct {
	databaseSettings
	secretSettings
	accessSettings
}

func (cmd keysList) Run(ctx context.Context, out io.Writer) error {
	return cmd.withKeys(ctx, func(keys *keyring.Keys) error {
		list, err := keys.List(ctx)
		if err != nil {
			return err
		}
		if cmd.JSON {
			return json.NewEncoder(out).Encode(list)
		}
		return writeKeys(out, list)
	})
}

func writeKeys(out io.Writer, list []keyring.StoredKey) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KID\tSTATE\tCREATED\tSIGNS FROM\tVERIFIES UNTIL")
	for _, key := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", key.ID, key.State, when(key.CreatedAt), when(key.ActiveFrom), verifiesUntil(key))
	}
	return table.Flush()
}

func when(t time.Time) string { return t.Format(time.RFC3339) }

func verifiesUntil(key keyring.StoredKey) string {
	switch {
	case key.State == keyring.KeyRetired:
		return "retired " + when(key.RetiredAt)
	case key.VerifiesUntil.IsZero():
		return "-" // no key follows it yet
	}
	return when(key.VerifiesUntil)
}

func (cmd keysRotate) Run(ctx context.Context, out io.Writer) error {
	return cmd.withKeys(ctx, func(keys *keyring.Keys) error {
		next, made, err := keys.Rotate(ctx, cmd.Now)
		if err != nil {
			return err
		}
		did := "was waiting already"
		if made {
			did = "is made"
		}
		if next.State == keyring.KeySigning {
			fmt.Fprintf(out, "%s %s and signs from now on; running instances know it within 5 s\n", next.ID, did)
			return nil
		}
		fmt.Fprintf(out, "%s %s and signs from %s; running instances know it within 5 s\n", next.ID, did, when(next.ActiveFrom))
		return nil
	})
}

func (cmd keysRetire) Run(ctx context.Context, out io.Writer) error {
	return cmd.withKeys(ctx, func(keys *keyring.Keys) error {
		err := keys.Retire(ctx, cmd.KID)
		if errors.Is(err, auth.ErrNotFound) {
			return fmt.Errorf("there is no key %q, or it is retired already; \"authd keys list\" shows them", cmd.KID)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is retired: tokens signed with it are refused from now on, by running instances within 5 s\n", cmd.KID)
		list, err := keys.List(ctx)
		for _, key := range list {
			if key.State == keyring.KeySigning {
				fmt.Fprintf(out, "%s signs from now on\n", key.ID)
			}
		}
		return err
	})
}

func (cmd keysReseal) Run(ctx context.Context, out io.Writer) error {
	return cmd.withSecrets(ctx, func(secrets *keyring.Secrets) error {
		done, err := secrets.Reseal(ctx)
		if err != nil {
			return err
		}
		if done == (keyring.Resealed{}) {
			fmt.Fprintln(out, "nothing to do: the first SECRET_KEY opens everything")
		} else {
			fmt.Fprintf(out, "sealed with the first SECRET_KEY: signing keys %d, peppers %d\n", done.Keys, done.Peppers)
		}
		if len(secrets.Master) > 1 {
			fmt.Fprintln(out, "The second value of SECRET_KEY can go. Refresh tokens that were made under it end with it, unless")
			fmt.Fprintln(out, "REFRESH_TOKEN_SECRET is set: keep both for REFRESH_TOKEN_TTL if nobody is to be logged out.")
		}
		return nil
	})
}

// withKeys runs fn with the signing keys of the settings' database. It returns an error if
// ACCESS_TOKEN_SECRET replaces them.
func (s keysSettings) withKeys(ctx context.Context, fn func(*keyring.Keys) error) error {
	ttl, err := s.accessTTL()
	if err != nil {
		return err
	}
	if s.AccessTokenSecret != "" {
		return errors.New("ACCESS_TOKEN_SECRET signs access tokens, so the keys in the database do nothing")
	}
	return s.withSecrets(ctx, func(secrets *keyring.Secrets) error {
		return fn(&keyring.Keys{Store: secrets.Store, Master: secrets.Master, AccessTTL: ttl})
	})
}

// Run requires only the master secret, not the database.
func (cmd keysMailKey) Run(out io.Writer) error {
	url, err := cmd.url()
	if err != nil {
		return err
	}
	master, err := cmd.masterKeys(url)
	if err != nil {
		return err
	}
	for _, key := range master.DeriveAll(secret.LabelMail) {
		fmt.Fprintln(out, base64.StdEncoding.EncodeToString(key))
	}
	return nil
}

// withSecrets runs fn on the settings' database, with the master secret.
func (s keysSettings) withSecrets(ctx context.Context, fn func(*keyring.Secrets) error) error {
	url, err := s.url()
	if err != nil {
		return err
	}
	master, err := s.masterKeys(url)
	if err != nil {
		return err
	}
	return s.withStore(ctx, func(store *persistence.Store) error {
		return wrongSecretKey(fn(&keyring.Secrets{Store: store, Master: master}))
	})
}

// withStore runs fn on the settings' database, which running instances may also use.
func (s databaseSettings) withStore(ctx context.Context, fn func(*persistence.Store) error) (err error) {
	url, err := s.url()
	if err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		if _, err := os.Stat(path); err != nil { // opening the store would create the file
			return fmt.Errorf("no database at %s: %s", path, reason(err))
		}
	}
	store, err := openStore(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := checkSchema(ctx, store); err != nil {
		return err
	}
	return fn(store)
}

// masterKeys returns the master secret from the sources that serve reads. It generates nothing.
func (s keysSettings) masterKeys(url string) (secret.Keys, error) {
	keys, err := s.secretKeys()
	switch {
	case err != nil || keys != nil:
		return keys, err
	case isPostgres(url):
		return nil, noSecretKey
	}
	name := filepath.Join(s.DataDir, secretFile)
	keys, err = readSecret(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("SECRET_KEY is not set, and there is no %s: \"authd serve\" generates it", name)
	}
	return keys, err
}
