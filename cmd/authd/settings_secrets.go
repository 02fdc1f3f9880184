package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
)

// secretSettings provide the master secret.
type secretSettings struct {
	SecretKey     string `env:"SECRET_KEY" placeholder:"BASE64" help:"The master secret, 32 bytes in base64; two of them, comma-separated and the new one first, while it is replaced. Without one: generated in DATA_DIR. Required with Postgres."`
	SecretKeyFile string `env:"SECRET_KEY_FILE" placeholder:"FILE" help:"File that holds SECRET_KEY."`
}

// accessSettings select how access tokens are signed, and their lifetime.
type accessSettings struct {
	AccessTokenSecret string `env:"ACCESS_TOKEN_SECRET" placeholder:"SECRET" help:"Sign access tokens with HS256 and this secret of at least 32 bytes. Without one: EdDSA with generated keys."`
	AccessTokenTTL    string `name:"access-token-ttl" env:"ACCESS_TOKEN_TTL" default:"15m" placeholder:"DURATION" help:"Lifetime of an access token."`
}

func (s accessSettings) accessTTL() (time.Duration, error) {
	return duration("ACCESS_TOKEN_TTL", s.AccessTokenTTL, time.Second, token.MaxLifetime, "15m")
}

var noSecretKey = &settingError{"SECRET_KEY", "is required with an external database", "$(openssl rand -base64 32)"}

// secretKeys returns the master secret from its setting or file; nil if neither is set.
func (s secretSettings) secretKeys() (secret.Keys, error) {
	const example = "$(openssl rand -base64 32)"
	text := s.SecretKey
	switch {
	case text != "" && s.SecretKeyFile != "":
		return nil, &settingError{"SECRET_KEY_FILE", "and SECRET_KEY are both set", "\"\""}
	case s.SecretKeyFile != "":
		content, err := os.ReadFile(s.SecretKeyFile)
		if err != nil {
			return nil, &settingError{"SECRET_KEY_FILE", "cannot be read: " + reason(err), "/run/secrets/authd"}
		}
		keys, err := secret.Parse(string(content))
		if err != nil {
			return nil, &settingError{"SECRET_KEY_FILE", "holds what " + err.Error(), "/run/secrets/authd"}
		}
		return keys, nil
	case text == "":
		return nil, nil
	}
	keys, err := secret.Parse(text)
	if err != nil {
		return nil, &settingError{"SECRET_KEY", err.Error(), example}
	}
	return keys, nil
}

const (
	minSecretBytes = 32 // RFC 7518 §3.2: the size of the hash output
	exampleSecret  = "$(openssl rand -base64 48)"
)

// hmacSecret checks and returns a secret that signs tokens; nil if the value is empty. RFC 8725 §3.5: the
// secret must not be well known or guessable.
func hmacSecret(name, value string) ([]byte, error) {
	if value == "" {
		return nil, nil
	}
	if len(value) < minSecretBytes {
		return nil, &settingError{name, fmt.Sprintf("has fewer than %d bytes", minSecretBytes), exampleSecret}
	}
	if secret.Guessable([]byte(value)) {
		return nil, &settingError{name, "is well known or easily guessed", exampleSecret}
	}
	return []byte(value), nil
}

const year = 365 * 24 * time.Hour

// checkTokenSecrets reads the secrets of access and refresh tokens, which must differ from each other and
// from SECRET_KEY.
func (s serveSettings) checkTokenSecrets(c *config) (err error) {
	if c.accessSecret, err = hmacSecret("ACCESS_TOKEN_SECRET", s.AccessTokenSecret); err != nil {
		return err
	}
	if c.refreshSecret, err = hmacSecret("REFRESH_TOKEN_SECRET", s.RefreshTokenSecret); err != nil {
		return err
	}
	if s.AccessTokenSecret != "" && s.AccessTokenSecret == s.RefreshTokenSecret {
		return &settingError{"REFRESH_TOKEN_SECRET", "is the same as ACCESS_TOKEN_SECRET", exampleSecret}
	}
	for name, value := range map[string]string{"ACCESS_TOKEN_SECRET": s.AccessTokenSecret, "REFRESH_TOKEN_SECRET": s.RefreshTokenSecret} {
		if value != "" && slices.Contains(strings.Split(s.SecretKey, ","), value) {
			return &settingError{name, "is the same as SECRET_KEY", exampleSecret}
		}
	}
	return nil
}
