package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/zyotra/auth/bus/embedded"
)

// natsSettings select the bus and the credentials for it.
type natsSettings struct {
	NATSURL          string `name:"nats-url" env:"NATS_URL" placeholder:"URLS" help:"Comma-separated URLs of an external NATS cluster. Without one: an embedded server."`
	NATSCreds        string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file for the external cluster, of a user with the rights of every part; or a directory of service.creds, relay.creds, edge.creds, mailer.creds and admin.creds, and each part has its own."`
	NATSNKeySeedFile string `name:"nats-nkey-seed-file" env:"NATS_NKEY_SEED_FILE" placeholder:"FILE" help:"NKey seed file for the external cluster, or a directory of service.nk and so on, as \"authd nats-config\" makes it."`
	NATSTLSCA        string `name:"nats-tls-ca" env:"NATS_TLS_CA" placeholder:"FILE" help:"Certificate authorities that the external cluster's certificates are checked against (PEM)."`
	NATSListen       string `name:"nats-listen" env:"NATS_LISTEN" default:"127.0.0.1:4222" placeholder:"HOST:PORT" help:"Where the embedded NATS server listens; \"off\" keeps it inside the process."`
}

func (s natsSettings) checkNATS() error {
	if s.NATSURL == "" {
		for name, value := range map[string]string{"NATS_CREDS": s.NATSCreds, "NATS_NKEY_SEED_FILE": s.NATSNKeySeedFile, "NATS_TLS_CA": s.NATSTLSCA} {
			if value != "" {
				return &settingError{name, "is for an external cluster, but NATS_URL is empty", "\"\" or NATS_URL=nats://nats.example:4222"}
			}
		}
		return s.checkListen()
	}
	for one := range strings.SplitSeq(s.NATSURL, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss" {
			return &settingError{"NATS_URL", "is not a list of nats:// or tls:// URLs", "nats://127.0.0.1:4222"}
		}
	}
	if s.NATSCreds != "" && s.NATSNKeySeedFile != "" {
		return &settingError{"NATS_CREDS", "and NATS_NKEY_SEED_FILE are both set", "\"\""}
	}
	return nil
}

func (s natsSettings) checkListen() error {
	if s.NATSListen == embedded.Off {
		return nil
	}
	_, port, err := net.SplitHostPort(s.NATSListen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return &settingError{"NATS_LISTEN", fmt.Sprintf("%q is not host:port or off", s.NATSListen), "127.0.0.1:4222"}
	}
	return nil
}

// natsCredentials reads the files for a connection to the external cluster in a role, so that its error
// names the setting of an invalid file.
func (s natsSettings) natsCredentials(role string) (options []nats.Option, err error) {
	user, err := s.natsUser(role)
	if err != nil {
		return nil, err
	}
	authorities, err := s.natsAuthorities()
	return append(user, authorities...), err
}

// natsUser reads the credentials of the user of a role.
func (s natsSettings) natsUser(role string) (options []nats.Option, err error) {
	add := func(option nats.Option) { options = append(options, option) }
	if s.NATSCreds != "" {
		err := ofRole(s.NATSCreds, role+".creds", func(file string) error {
			add(nats.UserCredentials(file))
			return checkFile("NATS_CREDS", file, "/run/secrets/authd.creds", isCredentials)
		})
		if err != nil {
			return nil, err
		}
	}
	if s.NATSNKeySeedFile != "" {
		err := ofRole(s.NATSNKeySeedFile, role+".nk", func(file string) error {
			option, err := nats.NkeyOptionFromSeed(file)
			if err != nil {
				return &settingError{"NATS_NKEY_SEED_FILE", "is no file that holds the seed of a user", "data/nats/keys/edge.nk"}
			}
			add(option)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return options, nil
}

// natsAuthorities reads the certificate authorities that server certificates are checked against.
func (s natsSettings) natsAuthorities() ([]nats.Option, error) {
	if s.NATSTLSCA == "" {
		return nil, nil
	}
	if err := checkFile("NATS_TLS_CA", s.NATSTLSCA, "/etc/ssl/nats-ca.pem", x509.NewCertPool().AppendCertsFromPEM); err != nil {
		return nil, err
	}
	return []nats.Option{nats.RootCAs(s.NATSTLSCA)}, nil
}

// ofRole reads the file at path, or the file of that name in path if path is a directory. A settingError
// then mentions the directory.
func ofRole(path, name string, read func(file string) error) error {
	if !isDirectory(path) {
		return read(path)
	}
	err := read(filepath.Join(path, name))
	if wrong, ok := errors.AsType[*settingError](err); ok {
		return &settingError{wrong.name, "is a directory whose " + name + " " + wrong.fault, wrong.example}
	}
	return err
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// eachHasItsRole reports whether the credentials are a directory with separate credentials for each role.
func (s natsSettings) eachHasItsRole() bool {
	return isDirectory(s.NATSCreds) || isDirectory(s.NATSNKeySeedFile)
}

// busError describes a failed connection to the bus in terms of the settings.
func busError(err error) error {
	_, distrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case distrusted:
		return fmt.Errorf("NATS_URL: %w; NATS_TLS_CA names the authorities that are believed", err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("NATS_URL: %w: the server has no TLS, and NATS_TLS_CA or tls:// ask for it", err)
	}
	return fmt.Errorf("NATS_URL: %w", err)
}

func isCredentials(content []byte) bool {
	_, err := nkeys.ParseDecoratedUserNKey(content)
	return err == nil
}

// checkFile reads the file of a setting and returns an error if good rejects its content.
func checkFile(name, path, example string, good func([]byte) bool) error {
	content, err := os.ReadFile(path)
	switch {
	case err != nil:
		return &settingError{name, "cannot be read: " + reason(err), example}
	case !good(content):
		return &settingError{name, "is no such file: it holds something else", example}
	}
	return nil
}

// redacted returns a list of URLs without their users, passwords and tokens.
func redacted(urls string) string {
	var out []string
	for one := range strings.SplitSeq(urls, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			u.User = nil
			out = append(out, u.String())
		}
	}
	return strings.Join(out, ",")
}
