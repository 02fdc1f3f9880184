package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/password"
)

// checkAll finds all wrong settings, whereas serve stops at the first: it resets each wrong setting to its
// default and checks the rest again. It returns the resulting settings and the errors.
func (cmd doctorCommand) checkAll() (s serveSettings, c config, faults []*settingError) {
	s = cmd.serveSettings
	for {
		c, err := cmd.checkOnce(s)
		if err == nil {
			return s, c, faults
		}
		wrong, ok := errors.AsType[*settingError](err)
		if !ok {
			wrong = &settingError{name: "settings", fault: err.Error()}
		}
		faults = append(faults, wrong)
		if !restore(reflect.ValueOf(&s).Elem(), wrong.name) {
			return s, c, faults // a required setting that is absent has no default
		}
	}
}

// checkOnce checks the settings as serve does before it opens any part.
func (cmd doctorCommand) checkOnce(s serveSettings) (config, error) {
	if _, _, err := s.logger(logOutput{io.Discard}); err != nil {
		return config{}, err
	}
	c, err := s.check()
	if err != nil {
		return c, err
	}
	if _, err := s.natsCredentials(cmp.Or(map[bool]string{true: embedded.Edge}[cmd.Edge], embedded.Service)); err != nil {
		return c, err
	}
	if cmd.Edge {
		if c.natsURL == "" {
			return c, &settingError{"NATS_URL", "is empty, but an edge alone needs a bus", "nats://127.0.0.1:4222"}
		}
		return c, nil
	}
	if _, err := s.templates(c.mail.service, c.mail.site); err != nil {
		return c, err
	}
	if _, err := s.roots(); err != nil {
		return c, err
	}
	keys, err := s.secretKeys()
	if err == nil && keys == nil && isPostgres(c.databaseURL) {
		err = noSecretKey
	}
	if err != nil {
		return c, err
	}
	hasher, err := password.New(nil, c.bcryptCost, c.passwordMinLength, serviceName)
	if err != nil {
		return c, err
	}
	return c, s.block(hasher)
}

// restore resets a setting to its default, and reports whether that changes its value.
func restore(settings reflect.Value, name string) bool {
	for i := range settings.NumField() {
		field, value := settings.Type().Field(i), settings.Field(i)
		if field.Anonymous && restore(value, name) {
			return true
		}
		if field.Tag.Get("env") == name {
			changed := value.String() != field.Tag.Get("default")
			value.SetString(field.Tag.Get("default"))
			return changed
		}
	}
	return false
}

// examineSettings reports wrong and unwise settings.
func (p *patient) examineSettings(ctx context.Context, t tell) {
	t.one(ctx, inspection{".env", p.envFile})
	for _, f := range p.faults {
		example := ""
		if f.example != "" {
			example = "for example " + f.name + "=" + f.example
		}
		t(finding{"settings", broken, f.name + " " + f.fault, example})
	}
	if len(p.faults) == 0 {
		t(finding{"settings", fine, "each can be used", ""})
	}
	for _, look := range []func() finding{
		p.rateLimits, p.publicURL, p.proxies, p.origins, p.hashing, p.mailboxInUse, p.rotation,
	} {
		if f := look(); f.Level != fine {
			f.Check = "settings"
			t(f)
		}
	}
	for _, file := range p.secretFiles() {
		t.one(ctx, inspection{"secret files", func(context.Context) finding { return readableByOthers(file.name, file.path) }})
	}
}

// hasSecrets lists the variables that may contain a secret.
var hasSecrets = []string{"SECRET_KEY", "ACCESS_TOKEN_SECRET", "REFRESH_TOKEN_SECRET", "DATABASE_URL", "NATS_URL", "SMTP_URL"}

func (p *patient) envFile(context.Context) finding {
	variables, err := readEnvFile() // the start of the program has read it already
	if errors.Is(err, os.ErrNotExist) {
		return good("there is none here: settings come from flags and the environment")
	}
	if err != nil {
		return bad("each line must be NAME=value, a comment or empty", "it cannot be read")
	}
	for _, name := range hasSecrets {
		if variables[name] == "" {
			continue
		}
		if f := readableByOthers(".env", ".env"); f.Level != fine {
			return f
		}
	}
	return good("it is read; the environment wins over it. Variables: %d", len(variables))
}

type namedFile struct{ name, path string }

// secretFiles returns the files with secrets that settings name; for a directory, its .nk and .creds files.
func (p *patient) secretFiles() (files []namedFile) {
	for _, f := range []namedFile{{"SECRET_KEY_FILE", p.SecretKeyFile}, {"NATS_CREDS", p.NATSCreds}, {"NATS_NKEY_SEED_FILE", p.NATSNKeySeedFile}} {
		if f.path == "" {
			continue
		}
		if !isDirectory(f.path) {
			files = append(files, f)
			continue
		}
		within, _ := filepath.Glob(filepath.Join(f.path, "*")) // a malformed pattern matches no files
		for _, path := range within {
			if filepath.Ext(path) == ".nk" || filepath.Ext(path) == ".creds" {
				files = append(files, namedFile{f.name, path})
			}
		}
	}
	return files
}

func readableByOthers(name, path string) finding {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return bad("correct "+name, "%s: %s: %s", name, path, reason(err))
	case info.Mode().Perm()&0o077 != 0:
		return doubtful("chmod 600 "+path, "%s: others on this machine can read %s (mode %04o)", name, path, info.Mode().Perm())
	}
	return good("%s: %s is its owner's alone", name, path)
}

func (p *patient) rateLimits() finding {
	if p.RateLimits == off {
		return doubtful("set RATE_LIMITS=on", "RATE_LIMITS=off: passwords can be guessed at without end")
	}
	return good("")
}

func (p *patient) publicURL() finding {
	u, err := url.Parse(p.PublicURL)
	if err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return doubtful("serve it over https, and set PUBLIC_URL=https://"+u.Host, "PUBLIC_URL is http on a public host: links and cookies go without encryption")
	}
	return good("")
}

func (p *patient) proxies() finding {
	if !p.Handlers && !isLoopback(p.Host) && len(p.config.proxies) == 0 {
		return doubtful("set TRUSTED_PROXIES to the addresses of what stands before it",
			"HOST is beyond this machine and TRUSTED_PROXIES is empty: to the limits, everybody behind a proxy is one source")
	}
	return good("")
}

func (p *patient) origins() finding {
	for _, origin := range p.config.origins {
		if u, err := url.Parse(origin); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
			return doubtful("serve those pages over https", "CORS_ORIGINS has %s: whoever is on the way there can use its readers' sessions", origin)
		}
	}
	return good("")
}

// slowHash is the core time that a login may take without users noticing.
const slowHash = 500 * time.Millisecond

func (p *patient) hashing() finding {
	if took := firstGuess(p.config.bcryptCost); p.config.bcryptCost > 0 && took > slowHash {
		return doubtful("take 12 or less, unless there are cores for it",
			"BCRYPT_COST=%d: a login takes about %s of a core, so %d cores do %.1f a second", p.config.bcryptCost, brief(took), cores, float64(cores)/took.Seconds())
	}
	return good("")
}

func (p *patient) mailboxInUse() finding {
	u, err := url.Parse(p.PublicURL)
	if err == nil && p.config.mail.mailbox && !p.Edge && !isLoopback(u.Hostname()) {
		return doubtful("set SMTP_URL, or MAILBOX=off", "mails go to the mailbox of those who develop, and PUBLIC_URL is a public host: nobody gets them")
	}
	return good("")
}

func (p *patient) rotation() finding {
	if _, wrong := p.isWrong("KEY_ROTATION"); !wrong && p.config.rotation == 0 && p.config.accessSecret == nil {
		return doubtful("set KEY_ROTATION=720h, or run \"authd keys rotate\" now and then", "KEY_ROTATION=0: the key that signs access tokens is never replaced")
	}
	return good("")
}

// examineProcess checks the open-file limit, the data directory and the disk of this machine.
func (p *patient) examineProcess(ctx context.Context, t tell) {
	t.one(ctx, inspection{"open files", p.openFiles})
	if !p.usesDataDir() {
		return
	}
	if name, wrong := p.isWrong("DATA_DIR"); wrong {
		t.none(name+" is wrong", inspection{"data directory", nil}, inspection{"disk", nil})
		return
	}
	t.each(ctx, inspection{"data directory", p.dataDirectory}, inspection{"disk", p.disk})
}

// enoughFiles covers the maximum connections of the embedded server, and as many over HTTP.
const enoughFiles = 8192

func (p *patient) openFiles(context.Context) finding {
	most, known := openFiles()
	switch {
	case !known:
		return skip("this system does not tell how many files a process may open")
	case most < enoughFiles:
		return doubtful("raise it (ulimit -n, LimitNOFILE=)", "a process may open %d, each connection is one, and there may be %d", most, enoughFiles)
	}
	return good("a process may open %d", most)
}

// usesDataDir reports whether serve would open the data directory.
func (p *patient) usesDataDir() bool {
	return !p.Edge && (p.config.natsURL == "" || !isPostgres(p.config.databaseURL))
}

func (p *patient) dataDirectory(context.Context) finding {
	info, err := os.Stat(p.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return good("%s is not there yet: the first start makes it", p.DataDir)
	case err != nil:
		return bad("give it to the user that authd runs as", "%s: %s", p.DataDir, reason(err))
	case !info.IsDir():
		return bad("take it away, or set DATA_DIR", "%s is no directory", p.DataDir)
	case info.Mode().Perm()&0o077 != 0:
		return bad("chmod 700 "+p.DataDir, "%s is open to other users (mode %04o)", p.DataDir, info.Mode().Perm())
	}
	if owner, known := ownerOf(info); known && owner != os.Geteuid() && os.Geteuid() != 0 {
		return bad("run the doctor as that user, or chown it", "%s belongs to user %d, and this is user %d", p.DataDir, owner, os.Geteuid())
	}
	if entries, err := os.ReadDir(p.DataDir); err != nil || len(entries) == 0 {
		return good("%s is empty: the first start fills it", p.DataDir)
	}
	held, err := isHeld(filepath.Join(p.DataDir, lockName))
	switch {
	case err != nil:
		return bad("", "%s: lock: %s", p.DataDir, reason(err))
	case held:
		return good("%s is in use by an authd%s", p.DataDir, holder(filepath.Join(p.DataDir, lockName)))
	}
	return good("%s is its owner's alone, and no authd uses it now", p.DataDir)
}

// isHeld reports whether a process holds a lock. It shares a free lock for a moment.
func isHeld(name string) (bool, error) {
	lock := flock.New(name, flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return !free && err == nil, errors.Join(err, lock.Close())
}

// runsHere reports whether an authd uses the data directory.
func (p *patient) runsHere() bool {
	held, err := isHeld(filepath.Join(p.DataDir, lockName))
	return err == nil && held && p.usesDataDir()
}

const (
	littleSpace = 2 << 30   // less than the streams may grow by
	tooLittle   = 128 << 20 // an hour of high load may fill it
)

func (p *patient) disk(context.Context) finding {
	path := p.DataDir
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			break
		}
		path = filepath.Dir(path)
	}
	free, err := freeSpace(path)
	const advice = "make room: what is committed there cannot be kept on a full disk"
	switch {
	case err != nil:
		return skip("the free space at %s is not known: %s", path, err)
	case free < tooLittle:
		return bad(advice, "%s free at %s", bytesText(free), path)
	case free < littleSpace:
		return doubtful(advice, "%s free at %s", bytesText(free), path)
	}
	return good("%s free at %s", bytesText(free), path)
}

func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[unit]
}

// listed joins names for one line. It sorts them and removes duplicates.
func listed(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
