package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/internal/password"
	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/token"
	"github.com/zyotra/auth/persistence"
)

// Settings arrive as text, by flag, environment or .env, and are checked here, one way for
// all: a wrong one is a settingError that names the variable, the fault and an example.

// databaseSettings say where accounts are kept.
type databaseSettings struct {
	DataDir     string `env:"DATA_DIR" default:"./data" placeholder:"DIR" help:"Files of the embedded parts and the generated secret."`
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"postgres://… or sqlite://path. Without one: SQLite in DATA_DIR."`
}

// logSettings say what is logged, to standard error.
type logSettings struct {
	LogLevel  string `env:"LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `env:"LOG_FORMAT" placeholder:"FORMAT" help:"text or json. Without one: text on a terminal, else json."`
}

// secretSettings say what the master secret is.
type secretSettings struct {
	SecretKey     string `env:"SECRET_KEY" placeholder:"BASE64" help:"The master secret, 32 bytes in base64; two of them, comma-separated and the new one first, while it is replaced. Without one: generated in DATA_DIR. Required with Postgres."`
	SecretKeyFile string `env:"SECRET_KEY_FILE" placeholder:"FILE" help:"File that holds SECRET_KEY."`
}

// accessSettings say how access tokens are signed and how long they live.
type accessSettings struct {
	AccessTokenSecret string `env:"ACCESS_TOKEN_SECRET" placeholder:"SECRET" help:"Sign access tokens with HS256 and this secret of at least 32 bytes. Without one: EdDSA with generated keys."`
	AccessTokenTTL    string `name:"access-token-ttl" env:"ACCESS_TOKEN_TTL" default:"15m" placeholder:"DURATION" help:"Lifetime of an access token."`
}

// natsSettings say where the bus is and how one gets in.
type natsSettings struct {
	NATSURL          string `name:"nats-url" env:"NATS_URL" placeholder:"URLS" help:"Comma-separated URLs of an external NATS cluster. Without one: an embedded server."`
	NATSCreds        string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" help:"Credentials file for the external cluster, of a user with the rights of every part; or a directory of service.creds, relay.creds, edge.creds, mailer.creds and admin.creds, and each part has its own."`
	NATSNKeySeedFile string `name:"nats-nkey-seed-file" env:"NATS_NKEY_SEED_FILE" placeholder:"FILE" help:"NKey seed file for the external cluster, or a directory of service.nk and so on, as \"authd nats-config\" makes it."`
	NATSTLSCA        string `name:"nats-tls-ca" env:"NATS_TLS_CA" placeholder:"FILE" help:"Certificate authorities that the external cluster's certificates are checked against (PEM)."`
	NATSListen       string `name:"nats-listen" env:"NATS_LISTEN" default:"127.0.0.1:4222" placeholder:"HOST:PORT" help:"Where the embedded NATS server listens; \"off\" keeps it inside the process."`
}

// passwordSettings say how passwords are hashed and which are refused.
type passwordSettings struct {
	BcryptCost            string `env:"BCRYPT_COST" default:"10" placeholder:"COST" help:"Work of hashing a password, 10 to 15; each doubles it."`
	HashQueueWait         string `env:"HASH_QUEUE_WAIT" default:"2s" placeholder:"DURATION" help:"Longest wait of a password for its turn to be hashed; what would wait longer is refused as overloaded."`
	PasswordMinLength     string `env:"PASSWORD_MIN_LENGTH" default:"8" placeholder:"LENGTH" help:"Shortest password in characters, 8 to 64."`
	PasswordBlocklistFile string `env:"PASSWORD_BLOCKLIST_FILE" placeholder:"FILE" help:"More passwords to refuse as too common, one a line, in UTF-8, up to 64 MiB."`
	PwnedPasswordsURL     string `name:"pwned-passwords-url" env:"PWNED_PASSWORDS_URL" placeholder:"URL" help:"Ask a server of the Pwned Passwords range protocol whether a new password became known, as in https://api.pwnedpasswords.com/range/. Without one: nobody is asked."`
}

// serveSettings are all settings of "authd serve".
type serveSettings struct {
	databaseSettings
	natsSettings
	strangerSettings
	secretSettings
	accessSettings
	passwordSettings
	logSettings

	Host string `env:"HOST" default:"127.0.0.1" placeholder:"ADDRESS" help:"Address that the HTTP edge listens on."`
	Port string `env:"PORT" default:"3000" placeholder:"PORT" help:"Port that the HTTP edge listens on; 0 takes any free one."`

	CORSOrigins    string `name:"cors-origins" env:"CORS_ORIGINS" placeholder:"ORIGINS" help:"Comma-separated origins whose pages may use sessions in cookies and read the answers, as in https://app.example.com. Without one: none but the service's own."`
	TrustedProxies string `env:"TRUSTED_PROXIES" placeholder:"NETWORKS" help:"Comma-separated addresses or networks of proxies whose X-Forwarded-For is believed, as in 10.0.0.0/8. Without one: none."`

	PublicURL     string `name:"public-url" env:"PUBLIC_URL" default:"http://localhost:3000" placeholder:"URL" help:"Base of every link, and the default issuer of tokens."`
	TokenIssuer   string `env:"TOKEN_ISSUER" placeholder:"ISSUER" help:"iss of access tokens. Without one: PUBLIC_URL."`
	TokenAudience string `env:"TOKEN_AUDIENCE" default:"zyotra" placeholder:"AUDIENCE" help:"aud of access tokens."`

	KeyRotation        string `env:"KEY_ROTATION" default:"720h" placeholder:"DURATION" help:"Age at which the next key takes over signing access tokens, at least 1h; 0 is never."`
	RefreshTokenSecret string `env:"REFRESH_TOKEN_SECRET" placeholder:"SECRET" help:"Sign refresh tokens with this secret of at least 32 bytes. Without one: derived from SECRET_KEY."`

	RefreshTokenTTL string `name:"refresh-token-ttl" env:"REFRESH_TOKEN_TTL" default:"360h" placeholder:"DURATION" help:"Lifetime of a refresh token, and so of an idle session."`
	SessionMaxAge   string `env:"SESSION_MAX_AGE" default:"2160h" placeholder:"DURATION" help:"Lifetime of a session, however often it is refreshed."`
	SessionLimit    string `env:"SESSION_LIMIT" default:"100" placeholder:"NUMBER" help:"Most live sessions of a user; the oldest end first. 0 is no limit."`
	RefreshGrace    string `env:"REFRESH_GRACE" default:"10s" placeholder:"DURATION" help:"How long a spent refresh token still yields its successor, for a second tab or a lost reply; 0 is strict."`

	ReauthWindow string `env:"REAUTH_WINDOW" default:"15m" placeholder:"DURATION" help:"How long after a login a sensitive change needs no password; 0 always asks."`

	mailSettings
	flowSettings

	MetricsAddr string `name:"metrics-addr" env:"METRICS_ADDR" placeholder:"HOST:PORT" help:"Where pages for operators listen, such as the mailbox; \"off\" shows none. Whoever can connect there needs no login. Without one: 127.0.0.1:9464, if that is free."`

	Docs string `env:"DOCS" default:"operators" placeholder:"operators|public" help:"Where /docs, /openapi.json and /asyncapi.json are shown: on METRICS_ADDR alone, or to everybody on the HTTP edge too."`

	RateLimits string `env:"RATE_LIMITS" default:"on" placeholder:"on|off" help:"off lifts every limit below, for benchmarks."`
	limitSettings
}

// letterSettings say what mails look like.
type letterSettings struct {
	MailFrom      string `env:"MAIL_FROM" placeholder:"SENDER" help:"Sender of mails, as in \"Acme <no-reply@acme.example>\"; mails call the service by that name. Required with SMTP_URL."`
	MailTemplates string `env:"MAIL_TEMPLATES" placeholder:"DIR" help:"Templates of mails that take the place of those built in, file by file, as in DIR/en/verify_email.txt."`
}

// mailSettings say how mails leave.
type mailSettings struct {
	letterSettings

	Mailer    string `env:"MAILER" default:"on" placeholder:"on|off" help:"off leaves mails in their queue for another service to send."`
	SMTPURL   string `name:"smtp-url" env:"SMTP_URL" placeholder:"URL" help:"Server that mails are handed to: smtp://user:password@host:587 begins TLS by STARTTLS, smtps://host:465 at once. ?tls=none and ?tls=opportunistic do without. Without one: mails wait in their queue, or go to the mailbox."`
	SMTPTLSCA string `name:"smtp-tls-ca" env:"SMTP_TLS_CA" placeholder:"FILE" help:"Certificate authorities that the server's certificate is checked against (PEM)."`
	SMTPHello string `name:"smtp-hello" env:"SMTP_HELLO" placeholder:"HOST" help:"Name of this host in EHLO. Without one: the name that the system has."`
	Mailbox   string `env:"MAILBOX" placeholder:"on|off" help:"Keep the last mails in memory instead of sending them, and show them under /dev/mailbox on METRICS_ADDR. Without one: on if SMTP_URL is empty and both HOST and METRICS_ADDR are on this machine alone."`
}

// flowSettings say what mail is for.
type flowSettings struct {
	EmailVerification string `env:"EMAIL_VERIFICATION" default:"off" placeholder:"off|optional|required" help:"Whether a registration sends a mail to verify the address by. required: there is no account, and no login, before."`
	MailLogin         string `env:"MAIL_LOGIN" default:"off" placeholder:"on|off" help:"on lets people log in with a code from a mail."`
	NewDeviceNotice   string `env:"NEW_DEVICE_NOTICE" placeholder:"on|off" help:"Tell users of logins with devices that they did not use before. Without one: on, unless EMAIL_VERIFICATION is off."`
	VerifyLinkTTL     string `name:"verify-link-ttl" env:"VERIFY_LINK_TTL" default:"24h" placeholder:"DURATION" help:"How long a link that proves an address is good for, 24h at most."`
	ResetLinkTTL      string `name:"reset-link-ttl" env:"RESET_LINK_TTL" default:"1h" placeholder:"DURATION" help:"How long a link to set another password is good for, 1h at most."`
	UndoLinkTTL       string `name:"undo-link-ttl" env:"UNDO_LINK_TTL" default:"48h" placeholder:"DURATION" help:"How long a link that takes back what others did is good for, from 1h to 168h."`
	MailCodeTTL       string `name:"mail-code-ttl" env:"MAIL_CODE_TTL" default:"10m" placeholder:"DURATION" help:"How long a code from a mail is good for, 10m at most."`
}

// limitSettings say how often something may be tried: so many times at once, and then once each
// interval.
type limitSettings struct {
	LimitLogin          string `env:"LIMIT_LOGIN" default:"5/30s,20/5m" placeholder:"LIMITS" help:"Tries at the password of an account from one source: so many at once, and then one each interval. A second limit, with more of both, is for those who go on."`
	LimitLoginAccount   string `env:"LIMIT_LOGIN_ACCOUNT" default:"50/1m" placeholder:"LIMITS" help:"Tries at the password of an account from everywhere; sources where its owner is logged in are let through."`
	LimitLoginSource    string `env:"LIMIT_LOGIN_SOURCE" default:"100/5s" placeholder:"LIMITS" help:"Tries at passwords of any accounts from one source."`
	LimitRegisterSource string `env:"LIMIT_REGISTER_SOURCE" default:"20/1m" placeholder:"LIMITS" help:"Registrations from one source."`
	LimitCode           string `env:"LIMIT_CODE" default:"5/1m,20/5m" placeholder:"LIMITS" help:"Tries at a code from a mail to an address, from one source."`
	LimitCodeAccount    string `env:"LIMIT_CODE_ACCOUNT" default:"20/2m" placeholder:"LIMITS" help:"Tries at a code from a mail to an address, from everywhere."`
	LimitMail           string `env:"LIMIT_MAIL" default:"3/1m,10/10m" placeholder:"LIMITS" help:"Mails to an address that are asked for from one source."`
	LimitMailAccount    string `env:"LIMIT_MAIL_ACCOUNT" default:"10/5m" placeholder:"LIMITS" help:"Mails to an address that are asked for from everywhere; and notices to one."`
	LimitMailSource     string `env:"LIMIT_MAIL_SOURCE" default:"30/1m" placeholder:"LIMITS" help:"Mails to any addresses that are asked for from one source."`
	LimitRefreshSession string `env:"LIMIT_REFRESH_SESSION" default:"30/2s" placeholder:"LIMIT" help:"Refreshes of a session."`
	LimitUpdate         string `env:"LIMIT_UPDATE" default:"30/2s" placeholder:"LIMITS" help:"Changes of an account's name or locale by its user."`
}

// config is serveSettings, checked.
type config struct {
	databaseURL  string // complete
	natsURL      string // "" for the embedded server
	natsOpen     bool   // the check of strangers is switched off
	guests       embedded.Guests
	publicOrigin string
	origins      []string
	proxies      []netip.Prefix
	issuer       string
	audience     string

	accessSecret  []byte // nil for EdDSA
	refreshSecret []byte // nil for a derived one

	accessTTL, refreshTTL, maxAge, grace, reauth time.Duration
	rotation                                     time.Duration // 0 is never
	hashWait                                     time.Duration
	bcryptCost, passwordMinLength, sessionLimit  int
	pwnedURL                                     string // "" if nobody is asked

	limits *ratelimit.Policy // nil if they are off

	mail         mailConfig
	flows        *flowConfig // nil if there is no mail
	operatorAddr string      // "" for none
	publicDocs   bool        // the edge shows the documents
}

// flowConfig is flowSettings, checked.
type flowConfig struct {
	publicURL                                string
	verification                             handlers.Verification
	login, newDevice                         bool
	verifyTTL, resetTTL, alarmTTL, mailCodes time.Duration
}

// check reads all settings that need no file.
func (s serveSettings) check() (c config, err error) {
	if c.databaseURL, err = s.url(); err != nil {
		return c, err
	}
	if _, err := integer("PORT", s.Port, 0, 65535, "3000"); err != nil {
		return c, err
	}
	if err := s.checkNATS(); err != nil {
		return c, err
	}
	c.natsURL = s.NATSURL
	if err := s.checkStrangers(&c); err != nil {
		return c, err
	}
	publicURL, err := webURL("PUBLIC_URL", s.PublicURL, "https://auth.example.com")
	if err != nil {
		return c, err
	}
	if c.publicOrigin, err = origin("PUBLIC_URL", publicURL); err != nil {
		return c, err
	}
	if c.origins, err = list(s.CORSOrigins, func(one string) (string, error) { return origin("CORS_ORIGINS", one) }); err != nil {
		return c, err
	}
	if c.proxies, err = list(s.TrustedProxies, network); err != nil {
		return c, err
	}
	if c.issuer = s.TokenIssuer; c.issuer == "" {
		c.issuer = publicURL
	}
	if c.audience = s.TokenAudience; c.audience == "" {
		return c, &settingError{"TOKEN_AUDIENCE", "is empty", "zyotra"}
	}
	if c.accessSecret, err = hmacSecret("ACCESS_TOKEN_SECRET", s.AccessTokenSecret); err != nil {
		return c, err
	}
	if c.refreshSecret, err = hmacSecret("REFRESH_TOKEN_SECRET", s.RefreshTokenSecret); err != nil {
		return c, err
	}
	if s.AccessTokenSecret != "" && s.AccessTokenSecret == s.RefreshTokenSecret {
		return c, &settingError{"REFRESH_TOKEN_SECRET", "is the same as ACCESS_TOKEN_SECRET", exampleSecret}
	}
	for name, value := range map[string]string{"ACCESS_TOKEN_SECRET": s.AccessTokenSecret, "REFRESH_TOKEN_SECRET": s.RefreshTokenSecret} {
		if value != "" && slices.Contains(strings.Split(s.SecretKey, ","), value) {
			return c, &settingError{name, "is the same as SECRET_KEY", exampleSecret}
		}
	}
	if err := s.checkNumbers(&c); err != nil {
		return c, err
	}
	if c.operatorAddr, err = s.checkMetricsAddr(); err != nil {
		return c, err
	}
	if c.publicDocs = s.Docs == "public"; !c.publicDocs && s.Docs != "operators" {
		return c, &settingError{"DOCS", fmt.Sprintf("%q is not operators or public", s.Docs), "public"}
	}
	if c.mail, err = s.checkMail(publicURL, isLoopback(s.Host) && isLoopback(hostOf(c.operatorAddr))); err != nil {
		return c, err
	}
	if c.flows, err = s.checkFlows(publicURL, c.mail.leaves()); err != nil {
		return c, err
	}
	limited, err := onOff("RATE_LIMITS", s.RateLimits, true)
	if err != nil || !limited {
		return c, err
	}
	c.limits, err = s.rules()
	return c, err
}

// onOff reads a switch; otherwise is what it is if nobody says.
func onOff(name, value string, otherwise bool) (bool, error) {
	switch value {
	case "on":
		return true, nil
	case "off":
		return false, nil
	case "":
		return otherwise, nil
	}
	return false, &settingError{name, fmt.Sprintf("%q is not on or off", value), "on"}
}

func (s serveSettings) checkNumbers(c *config) (err error) {
	if c.accessTTL, err = s.accessTTL(); err != nil {
		return err
	}
	if c.rotation, err = duration("KEY_ROTATION", s.KeyRotation, 0, 10*year, "720h"); err != nil {
		return err
	}
	if c.rotation > 0 && c.rotation < time.Hour {
		return &settingError{"KEY_ROTATION", fmt.Sprintf("%q is less than an hour, and not 0", s.KeyRotation), "720h"}
	}
	if c.refreshTTL, err = duration("REFRESH_TOKEN_TTL", s.RefreshTokenTTL, time.Second, 10*year, "360h"); err != nil {
		return err
	}
	if c.maxAge, err = duration("SESSION_MAX_AGE", s.SessionMaxAge, time.Second, 10*year, "2160h"); err != nil {
		return err
	}
	if c.sessionLimit, err = integer("SESSION_LIMIT", s.SessionLimit, 0, 10_000, "100"); err != nil {
		return err
	}
	if c.grace, err = duration("REFRESH_GRACE", s.RefreshGrace, 0, time.Minute, "10s"); err != nil {
		return err
	}
	if c.reauth, err = duration("REAUTH_WINDOW", s.ReauthWindow, 0, 24*time.Hour, "15m"); err != nil {
		return err
	}
	return s.checkPasswords(c)
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

// block adds the operator's list to the passwords that are refused, if there is one.
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

func (s accessSettings) accessTTL() (time.Duration, error) {
	return duration("ACCESS_TOKEN_TTL", s.AccessTokenTTL, time.Second, token.MaxLifetime, "15m")
}

const year = 365 * 24 * time.Hour

// url is the database to use.
func (s databaseSettings) url() (string, error) {
	scheme, rest, _ := strings.Cut(s.DatabaseURL, "://")
	switch {
	case s.DatabaseURL == "":
		return "sqlite://" + s.DataDir + "/authd.db", nil
	case scheme == "sqlite" && rest != "", scheme == "postgres", scheme == "postgresql":
		return s.DatabaseURL, nil
	}
	return "", wrongDatabaseURL
}

// wrongDatabaseURL does not repeat the value, which may hold a password.
var wrongDatabaseURL = &settingError{"DATABASE_URL", persistence.ErrURL.Error() + ", or a character such as @ / # % in its password is not written as %40 %2F %23 %25", "postgres://authd@localhost:5432/auth"}

// isPostgres tells whether accounts are kept outside of this machine's files.
func isPostgres(url string) bool { return strings.HasPrefix(url, "postgres") }

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

// natsCredentials reads the files that let us into the external cluster in a role, so that one
// that will not do is named here.
func (s natsSettings) natsCredentials(role string) (options []nats.Option, err error) {
	user, err := s.natsUser(role)
	if err != nil {
		return nil, err
	}
	authorities, err := s.natsAuthorities()
	return append(user, authorities...), err
}

// natsUser reads the files of the user of a role.
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

// natsAuthorities reads the authorities that servers are checked against.
func (s natsSettings) natsAuthorities() ([]nats.Option, error) {
	if s.NATSTLSCA == "" {
		return nil, nil
	}
	if err := checkFile("NATS_TLS_CA", s.NATSTLSCA, "/etc/ssl/nats-ca.pem", x509.NewCertPool().AppendCertsFromPEM); err != nil {
		return nil, err
	}
	return []nats.Option{nats.RootCAs(s.NATSTLSCA)}, nil
}

// ofRole reads the file at path, or the one of that name if path is a directory, which an error
// then says.
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

// eachHasItsRole tells whether the credentials are a directory, with those of each role.
func (s natsSettings) eachHasItsRole() bool {
	return isDirectory(s.NATSCreds) || isDirectory(s.NATSNKeySeedFile)
}

// busError says in the words of the settings why there is no connection to the bus.
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

// checkFile reads the file of a setting and refuses content that will not do.
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

// redacted is a list of URLs without the users, passwords and tokens in them.
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

var noSecretKey = &settingError{"SECRET_KEY", "is required with an external database", "$(openssl rand -base64 32)"}

// secretKeys reads the master secret from its setting or file; nil if there is neither.
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

// reason is what went wrong with a file, without its path.
func reason(err error) string {
	if os.IsNotExist(err) {
		return "there is no such file"
	}
	if os.IsPermission(err) {
		return "permission denied"
	}
	return err.Error()
}

func integer(name, value string, low, high int, example string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return 0, &settingError{name, fmt.Sprintf("%q is not a whole number from %d to %d", value, low, high), example}
	}
	return n, nil
}

func duration(name, value string, low, high time.Duration, example string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < low || d > high {
		return 0, &settingError{name, fmt.Sprintf("%q is not a duration from %s to %s", value, low, high), example}
	}
	return d, nil
}

func webURL(name, value, example string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", &settingError{name, fmt.Sprintf("%q is not an http:// or https:// URL without query", value), example}
	}
	return strings.TrimRight(value, "/"), nil
}

// origin is the origin of a URL as browsers write it (RFC 6454 §6.2): scheme and host in
// lower case, and the port unless it is the scheme's own. CORS_ORIGINS has origins alone.
func origin(name, value string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || strings.Contains(u.Host, "*") || u.Scheme != "http" && u.Scheme != "https" ||
		name == "CORS_ORIGINS" && u.Scheme+"://"+u.Host != strings.TrimSuffix(value, "/") {
		return "", &settingError{name, fmt.Sprintf("%q is not an origin like https://app.example.com; there are no wildcards", value), "https://app.example.com,https://admin.example.com"}
	}
	host := strings.ToLower(u.Host)
	host = strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[u.Scheme])
	return u.Scheme + "://" + host, nil
}

// network reads an address or a network of TRUSTED_PROXIES.
func network(value string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Bits() == 0 {
		return netip.Prefix{}, &settingError{"TRUSTED_PROXIES", fmt.Sprintf("%q is not an address or a network, or it is everybody's", value), "10.0.0.0/8,192.0.2.7"}
	}
	return p.Masked(), nil
}

// list reads the values of a comma-separated setting.
func list[T any](text string, read func(string) (T, error)) (values []T, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		value, err := read(part)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

const (
	minSecretBytes = 32 // RFC 7518 §3.2: as long as the hash's output
	exampleSecret  = "$(openssl rand -base64 48)"
)

// hmacSecret checks a secret that signs tokens; nil for none. RFC 8725 §3.5: never one that
// people know or can guess.
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

// logOutput is where the log goes.
type logOutput struct{ io.Writer }

func (o logOutput) isTerminal() bool {
	file, ok := o.Writer.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// logger makes the log. text tells whether it is for people.
func (s logSettings) logger(out logOutput) (log *slog.Logger, text bool, err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil || strings.ContainsAny(s.LogLevel, "+-") {
		return nil, false, &settingError{"LOG_LEVEL", fmt.Sprintf("%q is not debug, info, warn or error", s.LogLevel), "info"}
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: inUTC}
	switch {
	case s.LogFormat == "text", s.LogFormat == "" && out.isTerminal():
		return slog.New(requestLog{slog.NewTextHandler(out, options)}), true, nil
	case s.LogFormat == "json", s.LogFormat == "":
		return slog.New(requestLog{slog.NewJSONHandler(out, options)}), false, nil
	}
	return nil, false, &settingError{"LOG_FORMAT", fmt.Sprintf("%q is not text or json", s.LogFormat), "json"}
}

func inUTC(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindTime {
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	}
	return a
}
