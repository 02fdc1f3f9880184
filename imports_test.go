package auth_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/zyotra/auth"

// mayImport lists, for each package, which of ours it may import. The tree is the
// architecture: a request travels http → bus → (wire) → handlers → persistence, and no
// import points against it. A package that is not listed here is an error, so that a new
// one is placed on purpose.
var mayImport = map[string][]string{
	"":                           {},
	"bus":                        {"", "events", "internal/clock", "internal/gcra", "internal/loglimit", "internal/network", "internal/requestid", "internal/strictjson", "internal/token", "internal/trace"},
	"bus/authfiber":              {"", "bus", "internal/problem"},
	"bus/authhttp":               {"", "bus", "internal/problem"},
	"bus/authmicro":              {"", "bus"},
	"bus/embedded":               {"internal/loglimit"},
	"events":                     {"", "internal/trace"},
	"handlers/keyring":           {"", "events", "persistence", "internal/clock", "internal/password", "internal/secret", "internal/token"},
	"handlers/ratelimit":         {"", "events", "persistence", "internal/clock", "internal/email", "internal/gcra", "internal/network", "internal/password"},
	"handlers":                   {"", "events", "handlers/keyring", "handlers/ratelimit", "persistence", "internal/clock", "internal/email", "internal/gcra", "internal/network", "internal/password", "internal/secret", "internal/token"},
	"http":                       {"", "bus", "docs", "internal/accept", "internal/problem", "internal/requestid", "internal/strictjson", "internal/trace"},
	"internal/accept":            {},
	"internal/clock":             {},
	"internal/email":             {},
	"internal/gcra":              {},
	"internal/jsonl":             {"internal/strictjson"},
	"internal/loglimit":          {},
	"internal/network":           {},
	"internal/password":          {"", "internal/secret", "internal/trace"},
	"internal/problem":           {""},
	"internal/requestid":         {},
	"internal/secret":            {},
	"internal/strictjson":        {""},
	"internal/testauthority":     {"", "bus", "internal/token"},
	"internal/testauthd":         {"bus/embedded", "docs"},
	"internal/testcert":          {},
	"internal/testclock":         {"internal/clock"},
	"internal/testdb":            {"migrations", "persistence", "internal/testpg"},
	"internal/testnats":          {"internal/testport"},
	"internal/testoutbox":        {"", "events", "handlers", "internal/secret", "internal/testauthd", "persistence"},
	"internal/testpg":            {"internal/testport", "internal/testtool"},
	"internal/testport":          {},
	"internal/testpg/cmd/withpg": {"internal/testpg"},
	"internal/testsmtp":          {},
	"internal/testtool":          {},
	"internal/token":             {"", "internal/strictjson"},
	"internal/trace":             {""},
	"mail":                       {"", "events", "internal/trace"},
	"migrations":                 {"internal/email"},
	"admin":                      {"", "internal/accept", "internal/problem"},
	"admin/metrics":              {"", "bus", "events", "internal/password", "mail"},
	"persistence":                {"", "events", "internal/gcra", "internal/trace"},
	"cmd/authd":                  {"", "bus", "bus/embedded", "events", "handlers", "handlers/keyring", "handlers/ratelimit", "http", "mail", "migrations", "admin", "admin/metrics", "persistence", "internal/clock", "internal/gcra", "internal/jsonl", "internal/password", "internal/requestid", "internal/secret", "internal/token", "internal/trace"},
	"docs":                       {},
}

// owners lists who may import a technology: one package, and cmd where it joins the parts.
var owners = map[string][]string{
	"github.com/ccojocar/zxcvbn-go":  {"internal/password"},
	"github.com/emersion/go-s":       {"internal/testsmtp"}, // go-smtp and go-sasl
	"github.com/gofiber/fiber":       {"bus/authfiber", "http"},
	"github.com/golang-jwt/jwt":      {"internal/token"},
	"github.com/jackc/pgx":           {"persistence", "internal/testpg"},
	"github.com/maypok86/otter":      {"bus", "handlers/ratelimit"},
	"github.com/mileusna/useragent":  {"handlers"},
	"github.com/nats-io/nats-server": {"bus/embedded", "internal/testauthd", "internal/testauthority"},
	"github.com/nats-io/nats.go":     {"bus", "bus/authmicro", "bus/embedded", "events", "http", "internal/testauthd", "internal/testauthority", "internal/testoutbox", "mail", "cmd/authd"},
	"github.com/prometheus/":         {"admin/metrics"},
	"github.com/swaggest/swgui":      {"http"},
	"github.com/trustelem/zxcvbn":    {"internal/password"},
	"github.com/uptrace/bun":         {"persistence", "migrations", "cmd/authd"},
	"github.com/valyala/fasthttp":    {"http"},
	"github.com/wneessen/go-mail":    {"mail"},
	"go.opentelemetry.io/otel":       {"internal/trace", "cmd/authd"}, // cmd has the SDK
	"golang.org/x/crypto/bcrypt":     {"internal/password"},
	"golang.org/x/term":              {"cmd/authd"},
	"golang.org/x/crypto/argon2":     {"internal/password"},
	"golang.org/x/crypto/scrypt":     {"internal/password"},
	"modernc.org/sqlite":             {"persistence"},
}

// light are the packages that other people's services import; heavy is what they must not
// link by that.
var (
	light = []string{"", "bus", "bus/authhttp", "bus/authmicro", "events"}
	heavy = []string{"github.com/uptrace/bun", "github.com/jackc/pgx", "modernc.org/sqlite", "github.com/gofiber/fiber", "github.com/nats-io/nats-server", "github.com/wneessen/go-mail", "github.com/prometheus/", "go.opentelemetry.io/otel/sdk", "google.golang.org"}
)

type listed struct {
	ImportPath    string
	Standard      bool
	Imports, Deps []string
}

func packages(t *testing.T) (ours []listed) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Standard,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return ours
		}
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, p)
	}
}

// inModule returns the path below the module, if it is one of ours.
func inModule(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// isBench tells whether a package is a program that measures, or a part of one. They import
// what they measure, and nobody imports them.
func isBench(name string) bool { return strings.HasPrefix(name, "bench/") }

func TestImportsFollowTheRequest(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := inModule(p.ImportPath)
		if isBench(name) {
			continue
		}
		allowed, placed := mayImport[name]
		if !placed {
			t.Errorf("%s has no place in the architecture: say in mayImport what it may import", name)
		}
		for _, i := range p.Imports {
			if below, ours := inModule(i); ours && !slices.Contains(allowed, below) {
				t.Errorf("%q must not import %q", name, below)
			}
		}
	}
}

func TestEachTechnologyHasOneOwner(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := inModule(p.ImportPath)
		if isBench(name) {
			continue
		}
		for _, i := range p.Imports {
			for technology, who := range owners {
				if strings.HasPrefix(i, technology) && !slices.Contains(who, name) {
					t.Errorf("%q must not import %s", name, i)
				}
			}
		}
	}
}

func TestOtherServicesLinkNothingHeavy(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := inModule(p.ImportPath)
		if !slices.Contains(light, name) {
			continue
		}
		for _, d := range p.Deps {
			for _, h := range heavy {
				if strings.HasPrefix(d, h) {
					t.Errorf("%q links %s", p.ImportPath, d)
				}
			}
		}
	}
}

func TestTheRootImportsOnlyTheStandardLibrary(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(i, ".") {
				t.Errorf("the root imports %s", i)
			}
		}
	}
}
