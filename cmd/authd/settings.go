package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/handlers/ratelimit"
	"github.com/zyotra/auth/persistence"
)

// Settings are text from flags, the environment or .env. All are checked here in the same way: a wrong
// setting is a settingError that names the variable, the fault and an example.

// databaseSettings select the database of the accounts.
type databaseSettings struct {
	DataDir     string `env:"DATA_DIR" default:"./data" placeholder:"DIR" help:"Files of the embedded parts and the generated secret."`
	DatabaseURL string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"postgres://… or sqlite://path. Without one: SQLite in DATA_DIR."`
}

// logSettings select the level and the format of the log, which goes to standard error.
type logSettings struct {
	LogLevel  string `env:"LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `env:"LOG_FORMAT" placeholder:"FORMAT" help:"text or json. Without one: text on a terminal, else json."`
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

// config contains the checked values of serveSettings.
type config struct {
	databaseURL  string // never empty
	natsURL      string // "" for the embedded server
	natsOpen     bool   // the check of strangers is disabled
	guests       embedded.Guests
	publicOrigin string
	origins      []string
	proxies      []netip.Prefix
	issuer       string
	audience     string

	accessSecret  []byte // nil for EdDSA
	refreshSecret []byte // nil for secrets derived from SECRET_KEY

	accessTTL, refreshTTL, maxAge, grace, reauth time.Duration
	rotation                                     time.Duration // 0 disables rotation
	hashWait                                     time.Duration
	bcryptCost, passwordMinLength, sessionLimit  int
	pwnedURL                                     string // "" disables the check

	limits *ratelimit.Policy // nil if they are off

	mail         mailConfig
	flows        *flowConfig // nil if there is no mail
	operatorAddr string      // "" for no listener
	publicDocs   bool        // the edge serves the documents
}

// check parses all settings that require no file.
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
	if err := s.checkTokenSecrets(&c); err != nil {
		return c, err
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

// url returns the URL of the database: DATABASE_URL, or an SQLite file in the data directory.
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

// wrongDatabaseURL does not repeat the value, which may contain a password.
var wrongDatabaseURL = &settingError{"DATABASE_URL", persistence.ErrURL.Error() + ", or a character such as @ / # % in its password is not written as %40 %2F %23 %25", "postgres://authd@localhost:5432/auth"}

// isPostgres reports whether the URL names a Postgres database.
func isPostgres(url string) bool { return strings.HasPrefix(url, "postgres") }

// logOutput is the destination of the log.
type logOutput struct{ io.Writer }

func (o logOutput) isTerminal() bool {
	file, ok := o.Writer.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// logger creates the logger. text reports whether its format is text, for people.
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
