// Command authd is the service: accounts, sessions and tokens over NATS, with an HTTP edge.
//
// Without arguments, "authd" runs all parts in one process and requires no other server. "authd --help"
// lists the settings and the commands other than "serve". This package contains only the command line,
// the settings and the wiring:
//
//	main.go      the commands, signals and exit codes
//	settings.go  every setting, with settings_*.go: its name, default, check and example
//	envfile.go   settings from a file .env
//	serve.go     the running parts, and the order in which they stop
//	wiring.go    how the parts are opened and joined
//	subjects.go  the subjects and the methods that answer them
//	connect.go   connections to the bus
//	banner.go    the addresses of a service that is ready
//	strangers.go  clients of the bus without credentials
//	clock.go     the clock that all instances share
//	log.go       the ids of requests and traces in the log
//	tracing.go   the export of traces
//	data.go      the data directory: modes, lock, the generated secret
//	migrate.go   the schema
//	keys.go      the signing keys and the secret that seals them
//	events.go    the published events
//	outbox.go    the events that wait to be published
//	wiring_mail.go  the mailer and the operators' listener
//	mail.go      the mail queue, abandoned mails, and previews of mails
//	metrics.go   the metrics for operators
//	users.go     operators' changes of accounts
//	terminal.go  prompts on the terminal
//	import.go    accounts from another service or a file
//	natsconfig.go  the configuration of external NATS servers
//	doctor.go    faults, and the recommended actions
//	healthcheck.go  for containers
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/zyotra/auth/internal/clock"
)

// "authd version" reports version and commit, and the services protocol reports version. The linker sets
// both for a release (-X main.version=…), so that a build from a checkout requires no tags.
var (
	version = "0.1.0" // semver.org
	commit  string    // of the sources; "" if the linker did not set it
)

// Exit codes.
const (
	exitStopped = 0 // success, or stopped on request
	exitFailed  = 1
	exitUsage   = 2 // wrong usage or setting
)

// commands is the command line.
type commands struct {
	Serve       serveCommand       `cmd:"" default:"withargs" help:"Run the service. This is what authd does when nothing else is said."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the database schema up to date, back, or show where it stands."`
	Keys        keysCommand        `cmd:"" help:"Show and change the keys that sign access tokens, and what they are sealed with."`
	Events      eventsCommand      `cmd:"" help:"Show what happened to accounts and sessions."`
	Outbox      outboxCommand      `cmd:"" help:"Show the events that wait to be published, or publish some once more."`
	Mail        mailCommand        `cmd:"" help:"Show how things stand with mails, put back those that were given up, write what mails look like."`
	Users       usersCommand       `cmd:"" help:"Show accounts, disable and enable them, end their sessions, set their passwords: on the bus, while the service runs."`
	Import      importCommand      `cmd:"" help:"Take accounts over from the ancestor of this service, or from a file. It can be run again, and while the service runs."`
	NATSConfig  natsConfigCommand  `cmd:"" name:"nats-config" help:"Print the configuration of NATS servers outside of authd, with the rights of every role, and make the keys for it."`
	Doctor      doctorCommand      `cmd:"" help:"Look at everything that the service needs, with the settings of serve, and say what is wrong and what to do. It changes nothing, and works beside a running instance. Exits with 1 if something failed."`
	Healthcheck healthcheckCommand `cmd:"" help:"Exit with 0 if the service on this machine is ready."`
	Version     versionCommand     `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

type versionCommand struct{}

func (versionCommand) Run(out io.Writer) error {
	_, err := fmt.Fprintln(out, build())
	return err
}

// build returns the version and the commit of this binary, and the version and platform of Go.
func build() string {
	parts := []string{runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if from := revision(); from != "" {
		parts = append([]string{from}, parts...)
	}
	return fmt.Sprintf("authd %s (%s)", version, strings.Join(parts, ", "))
}

// revision returns the commit of the sources: set by the linker, or recorded by Go; "" if neither exists.
func revision() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	noted := map[string]string{}
	for _, s := range info.Settings {
		noted[s.Key] = s.Value
	}
	hash := noted["vcs.revision"]
	if len(hash) > shortHash {
		hash = hash[:shortHash]
	}
	if noted["vcs.modified"] == "true" {
		hash += "+changes"
	}
	return hash
}

// shortHash is the maximum number of digits to show of a commit that Go recorded.
const shortHash = 12

// settingError is a wrong setting.
type settingError struct {
	name    string // of the variable
	fault   string // the fault of the value; it never contains the value of a secret
	example string // a valid value
}

func (e *settingError) Error() string {
	return fmt.Sprintf("%s %s; for example %s=%s", e.name, e.fault, e.name, e.example)
}

// cores is the number of cores available to this process, within the limit of its cgroup.
var cores = runtime.GOMAXPROCS(0)

// gcPercent is the garbage collection target unless the environment sets GOGC.
const gcPercent = 300

// background gives hashing a lower priority than all other work. It is false in tests, which run
// several instances of this program in one process.
var background bool

// machineClock creates the clock of this machine. Tests replace it with a wrong clock.
var machineClock = clock.System

// usageError reports an incomplete or contradictory command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	background = true
	// A garbage collection stops the hashing threads, which takes until they get a core. The heap
	// is small, so it may grow further before a collection.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(program())
}

// program executes the command line until a signal arrives. It returns the exit code.
func program() int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup makes the process ignore it
		signals = append(signals, syscall.SIGHUP)
	}
	return run(untilSignal(signals...), os.Args[1:], os.Stdout, os.Stderr)
}

// untilSignal returns a context that the first of the signals cancels. The signals then have their
// default action again, so a second one ends the process immediately.
func untilSignal(signals ...os.Signal) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	received := make(chan os.Signal, 1)
	signal.Notify(received, signals...)
	go func() {
		<-received
		signal.Stop(received)
		cancel()
	}()
	return ctx
}

// run is the whole program except signals and exit. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if err := loadEnvFile(); err != nil {
		fmt.Fprintln(stderr, "authd:", err)
		return exitUsage
	}
	exit := -1
	parser, err := kong.New(&commands{},
		kong.Name("authd"),
		kong.Description("Accounts, sessions and tokens over NATS, with an HTTP edge. Every flag is also a variable of the environment or of a file .env in the working directory."),
		kong.Writers(stdout, stderr),
		kong.Vars{"version": build()},
		kong.Exit(func(code int) { exit = code; panic(exited{}) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(stdout, (*io.Writer)(nil)),
		kong.Bind(logOutput{stderr}, terminal{os.Stdin, stderr}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "authd:", err)
		return exitFailed
	}
	unsetEmpty(parser.Model.Node)
	if err := checkText(parser.Model.Node, args); err != nil {
		fmt.Fprintln(stderr, "authd:", err)
		return exitUsage
	}
	command, done, err := parse(parser, args)
	if err == nil && !done {
		err = checkBlank(command.Flags())
	}
	switch {
	case done: // --help
		return exit
	case err != nil && exitCode(err) == exitUsage:
		fmt.Fprintln(stderr, "authd:", err)
		return exitUsage
	case err != nil:
		fmt.Fprintf(stderr, "authd: %v (see authd --help)\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(stderr, "authd:", oneLine(err))
		return exitCode(err)
	}
	return exitStopped
}

func exitCode(err error) int {
	var setting *settingError
	var usage usageError
	if errors.As(err, &setting) || errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// oneLine formats an error on one line, even if it joins several errors or contains line breaks.
func oneLine(err error) string {
	var parts []string
	for part := range strings.Lines(err.Error()) {
		parts = append(parts, strings.TrimSpace(part))
	}
	return strings.Join(parts, "; ")
}

// exited unwinds kong after it has printed a help text: kong expects its Exit not to return.
type exited struct{}

func parse(parser *kong.Kong, args []string) (command *kong.Context, done bool, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case exited:
			done = true
		default:
			panic(p)
		}
	}()
	command, err = parser.Parse(args)
	return command, false, err
}

// unsetEmpty unsets empty variables: compose files and shells use them for variables that are not set.
func unsetEmpty(node *kong.Node) {
	for _, flag := range node.Flags {
		for _, name := range flag.Envs {
			if os.Getenv(name) == "" {
				os.Unsetenv(name)
			}
		}
	}
	for _, child := range node.Children {
		unsetEmpty(child)
	}
}

// checkText returns an error for a setting that is not UTF-8, since processing would change its value.
func checkText(node *kong.Node, args []string) error {
	const fault, example = "is not text in UTF-8: write random bytes in base64", exampleSecret
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); !utf8.ValidString(arg) {
			return &settingError{strings.ToValidUTF8(name, "?"), fault, example}
		}
	}
	for _, flag := range node.Flags {
		for _, name := range flag.Envs {
			if !utf8.ValidString(os.Getenv(name)) {
				return &settingError{name, fault, example}
			}
		}
	}
	for _, child := range node.Children {
		if err := checkText(child, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkBlank returns an error for a setting that consists only of white space.
func checkBlank(flags []*kong.Flag) error {
	for _, flag := range flags {
		if len(flag.Envs) == 0 || flag.Target.Kind() != reflect.String {
			continue
		}
		if value := flag.Target.String(); value != "" && strings.TrimSpace(value) == "" {
			return &settingError{flag.Envs[0], "is blank", cmp.Or(flag.Default, `""`)}
		}
	}
	return nil
}
