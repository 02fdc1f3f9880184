package main

import (
	"errors"
	"os"
	"time"

	"github.com/zyotra/auth/internal/password"
)

// passwordSettings select how passwords are hashed and which are rejected.
type passwordSettings struct {
	BcryptCost            string `env:"BCRYPT_COST" default:"10" placeholder:"COST" help:"Work of hashing a password, 10 to 15; each doubles it."`
	HashQueueWait         string `env:"HASH_QUEUE_WAIT" default:"2s" placeholder:"DURATION" help:"Longest wait of a password for its turn to be hashed; what would wait longer is refused as overloaded."`
	PasswordMinLength     string `env:"PASSWORD_MIN_LENGTH" default:"8" placeholder:"LENGTH" help:"Shortest password in characters, 8 to 64."`
	PasswordBlocklistFile string `env:"PASSWORD_BLOCKLIST_FILE" placeholder:"FILE" help:"More passwords to refuse as too common, one a line, in UTF-8, up to 64 MiB."`
	PwnedPasswordsURL     string `name:"pwned-passwords-url" env:"PWNED_PASSWORDS_URL" placeholder:"URL" help:"Ask a server of the Pwned Passwords range protocol whether a new password became known, as in https://api.pwnedpasswords.com/range/. Without one: nobody is asked."`
}

// leastCost is the lowest BCRYPT_COST. Tests lower it.
var leastCost = password.MinCost

func (s passwordSettings) checkPasswords(c *config) (err error) {
	if c.bcryptCost, err = integer("BCRYPT_COST", s.BcryptCost, leastCost, password.MaxCost, "10"); err != nil {
		return err
	}
	if c.hashWait, err = duration("HASH_QUEUE_WAIT", s.HashQueueWait, 100*time.Millisecond, 8*time.Second, "2s"); err != nil {
		return err
	}
	if c.passwordMinLength, err = integer("PASSWORD_MIN_LENGTH", s.PasswordMinLength, password.MinLength, 64, "8"); err != nil {
		return err
	}
	if s.PwnedPasswordsURL != "" {
		c.pwnedURL, err = webURL("PWNED_PASSWORDS_URL", s.PwnedPasswordsURL, "https://api.pwnedpasswords.com/range/")
	}
	return err
}

// block adds the operator's list, if there is one, to the rejected passwords.
func (s passwordSettings) block(h *password.Hasher) error {
	const name, example = "PASSWORD_BLOCKLIST_FILE", "/etc/authd/passwords.txt"
	if s.PasswordBlocklistFile == "" {
		return nil
	}
	file, err := os.Open(s.PasswordBlocklistFile)
	if err != nil {
		return &settingError{name, "cannot be read: " + reason(err), example}
	}
	defer file.Close()
	err = h.Block(file)
	var wrong *password.ListError
	switch {
	case errors.As(err, &wrong):
		return &settingError{name, "cannot be used: " + wrong.Error(), example}
	case err != nil:
		return &settingError{name, "cannot be read: " + reason(err), example}
	}
	return nil
}
