// Command authd is the service: accounts, sessions and tokens over NATS, with an HTTP edge.
//
// "authd" alone runs everything in one process on nothing but itself; settings and the
// commands beside "serve" are told by "authd --help". The command line, the settings and the
// wiring are all that is here:
//
//	main.go      the commands, signals and exit codes
//	settings.go  every setting: its name, default, check and example
//	envfile.go   settings from a file .env
//	serve.go     which parts run, how they are joined, in what order they stop
//	clock.go     what time it is
//	log.go       which request a line of the log is about
//	tracing.go   where traces go
//	data.go      the data directory: modes, lock, the generated secret
//	migrate.go   the schema
//	keys.go      the signing keys and what seals them
//	events.go    what happened
//	outbox.go    what waits to be told
//	mailer.go    how mails leave
//	mail.go      what became of mails, and what they look like
//	metrics.go   what is counted and shown to operators
//	users.go     what operators do to accounts
//	terminal.go  questions to whoever sits there
//	import.go    accounts from elsewhere
//	natsconfig.go  servers of NATS outside of this process
//	doctor.go    what is wrong, and what to do
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

// What "authd version" and the services protocol tell. A release stamps both by the linker
// (-X main.version=…): a build from a checkout need not know of tags.
var (
	version = "0.1.0" // semver.org
	commit  string    // of the sources; "" if nobody said
)

// Exit codes.
const (
	exitStopped = 0 // as asked
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

// build tells what this binary was made of.
func build() string {
	parts := []string{runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if from := revision(); from != "" {
		parts = append([]string{from}, parts...)
	}
	return fmt.Sprintf("authd %s (%s)", version, strings.Join(parts, ", "))
}

// revision is the commit of the sources: as stamped, or as Go has noted it; "" if nobody knows.
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

// shortHash is how many digits of a commit are shown.
const shortHash = 12

// settingError is a wrong setting.
type settingError struct {
	name    string // of the variable
	fault   string // what is wrong with the value; never a secret's value
	example string // a value that would do
}

func (e *settingError) Error() string {
	return fmt.Sprintf("%s %s; for example %s=%s", e.name, e.fault, e.name, e.example)
}

// cores is how many there are for this process, by its cgroup too.
var cores = runtime.GOMAXPROCS(0)

// gcPercent is GOGC unless that is set.
const gcPercent = 300

// background lets hashing stand back behind everything else. In tests, where this program is
// one of many in a process, it does not.
var background bool

// machineClock makes the clock of this machine. Tests put it wrong.
var machineClock = clock.System

// usageError is a command line that lacks something.
type usageError string

func (e usageError) Error() string { return string(e) }

func main() {
	background = true
	// Collecting garbage stops those that hash, which takes until they get a core. The heap
	// is small, so it may grow further before that.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(program())
}

// program is run until a signal comes.
func program() int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup has it ignored
		signals = append(signals, syscall.SIGHUP)
	}
	return run(untilSignal(signals...), os.Args[1:], os.Stdout, os.Stderr)
}

// untilSignal returns a context that the first of the signals ends. By then they have their
// default action again, so a second one ends the process at once.
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

// run is the whole program but for signals and exit. It returns the exit code.
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

// oneLine writes an error that was joined from several, or brings lines of its own.
func oneLine(err error) string {
	var parts []string
	for part := range strings.Lines(err.Error()) {
		parts = append(parts, strings.TrimSpace(part))
	}
	return strings.Join(parts, "; ")
}

// exited unwinds kong after it has printed a help text: it expects its Exit not to return.
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

// unsetEmpty makes an empty variable the same as none, as compose files and shells write it.
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

// checkText refuses settings that are not UTF-8, which would be changed on the way.
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

// checkBlank refuses settings of nothing but white space.
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
