package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers"
	"github.com/zyotra/auth/internal/jsonl"
	"github.com/zyotra/auth/migrations"
	"github.com/zyotra/auth/persistence"
)

// importCommand is "authd import".
type importCommand struct {
	databaseSettings

	From         string `required:"" env:"IMPORT_FROM" placeholder:"SOURCE" help:"postgres://… of the ancestor, or a file of JSON lines, {\"id\":…,\"email\":…,\"name\":…,\"password\":\"$2b$…\",\"createdAt\":…,\"updatedAt\":…} with email and password required; - is standard input. Without an id the database gives one. Passwords may be bcrypt ($2a$, $2b$, $2y$), argon2id, scrypt or PBKDF2 (pbkdf2-sha256, pbkdf2-sha512; as PHC strings or as passlib writes it), of a bounded cost."`
	Table        string `default:"users" placeholder:"TABLE" help:"The ancestor's table or view, with its schema or without: id, email and password (or password_hash, hashed_password); name, created_at and updated_at if there are such."`
	DryRun       bool   `help:"Say what would be done, and do nothing."`
	AllowSkipped bool   `help:"Exit with 0 even if accounts were skipped. Without it that is 1."`
	Report       string `placeholder:"FILE" help:"Write every skipped account to this file, as JSON lines with id or line, and reason."`
	Migrate      bool   `help:"Bring the schema up to date first. On SQLite that is always done."`

	WithoutPassword bool `help:"Import accounts whose password is missing or of an unknown scheme without it. Their owners set one by mail."`
}

// Run imports accounts and prints the result. The output contains no personal data.
func (cmd importCommand) Run(ctx context.Context, stdout io.Writer, out logOutput) (err error) {
	source, err := cmd.openSource(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	store, err := cmd.openTarget(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	report, err := openReport(cmd.Report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, report.close()) }()
	if !cmd.DryRun {
		// A registration during the import must not get the id of an account yet to be imported.
		if err := store.ReserveIDs(ctx, source.maxID); err != nil {
			return fmt.Errorf("DATABASE_URL: %w", err)
		}
	}
	progress := &progress{out: out, total: source.total, began: time.Now()}
	i := handlers.Import{Store: store.Store, DryRun: cmd.DryRun, WithoutPassword: cmd.WithoutPassword, Skipped: report.add, Progress: progress.tell}
	counts, err := i.Run(ctx, source.next)
	progress.end()
	return errors.Join(cmd.tell(stdout, counts, report, progress.rate(counts)), cmd.outcome(counts, err))
}

// tell prints the result.
func (cmd importCommand) tell(stdout io.Writer, c handlers.ImportCounts, report *report, rate int) error {
	var text strings.Builder
	if cmd.DryRun {
		text.WriteString("nothing was stored: what follows would be done\n")
	}
	report.print(&text)
	fmt.Fprintf(&text, "read %d, imported %d, already there %d, skipped %d (%d a second)\n", c.Read, c.Imported, c.Present, c.Skipped, rate)
	_, err := io.WriteString(stdout, text.String())
	return err
}

// outcome returns the error of the import, which determines the exit code.
func (cmd importCommand) outcome(c handlers.ImportCounts, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("stopped before the end; the same command goes on: what is there already is passed over")
	case err != nil:
		return fmt.Errorf("%w; the same command goes on from here", err)
	case c.Skipped > 0 && !cmd.AllowSkipped:
		return fmt.Errorf("accounts were skipped: %d; --allow-skipped takes that for success", c.Skipped)
	}
	return nil
}

// source provides the accounts to import.
type source struct {
	next  handlers.Source
	total int         // 0 if unknown
	maxID auth.UserID // 0 if unknown
	close func() error
}

func (cmd importCommand) openSource(ctx context.Context) (*source, error) {
	switch {
	case isPostgres(cmd.From):
		return cmd.openAncestor(ctx)
	case strings.Contains(cmd.From, "://"):
		return nil, &settingError{"IMPORT_FROM", "is neither a postgres:// URL nor a file", "postgres://reader@old.example/app"}
	case cmd.From == "-":
		return fromLines(os.Stdin), nil
	}
	file, err := os.Open(cmd.From)
	if err != nil {
		return nil, &settingError{"IMPORT_FROM", "cannot be read: " + reason(err), "users.jsonl"}
	}
	return fromLines(file), nil
}

func (cmd importCommand) openAncestor(ctx context.Context) (*source, error) {
	ancestor, err := persistence.OpenLegacy(ctx, cmd.From, cmd.Table)
	switch {
	case errors.Is(err, persistence.ErrURL):
		return nil, &settingError{"IMPORT_FROM", "is no postgres:// URL that can be read", "postgres://reader@old.example/app"}
	case err != nil:
		return nil, fmt.Errorf("IMPORT_FROM: %w", err)
	}
	last := auth.UserID(math.MinInt64)
	next := func(ctx context.Context, n int) ([]handlers.Candidate, error) {
		rows, err := ancestor.After(ctx, last, n)
		if err != nil {
			return nil, fmt.Errorf("IMPORT_FROM: %w", err)
		}
		batch := make([]handlers.Candidate, len(rows))
		for i, row := range rows {
			batch[i].ImportedUser, last = row, row.ID
		}
		return batch, nil
	}
	return &source{next: next, total: ancestor.Total, maxID: ancestor.MaxID, close: ancestor.Close}, nil
}

func fromLines(file *os.File) *source {
	lines := jsonl.NewReader(file)
	next := func(_ context.Context, n int) (batch []handlers.Candidate, err error) {
		for len(batch) < n {
			account, err := lines.Next()
			switch {
			case errors.Is(err, io.EOF):
				return batch, nil
			case errors.Is(err, jsonl.ErrMalformed):
				batch = append(batch, handlers.Candidate{Line: lines.Line(), Malformed: true})
			case err != nil:
				return nil, fmt.Errorf("IMPORT_FROM: %w", err)
			default:
				batch = append(batch, fromLine(account, lines.Line()))
			}
		}
		return batch, nil
	}
	return &source{next: next, close: file.Close}
}

func fromLine(a jsonl.Account, line int) handlers.Candidate {
	c := handlers.Candidate{Line: line, NoID: a.ID == nil, ImportedUser: persistence.ImportedUser{
		Email: a.Email, Name: a.Name, Password: a.Password, CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt,
	}}
	if a.ID != nil {
		c.ID = auth.UserID(*a.ID)
	}
	return c
}

// target is the database that receives the accounts.
type target struct {
	*persistence.Store
	scratch string // a directory that Close removes; "" if there is none
}

func (t *target) Close() error {
	err := t.Store.Close()
	if t.scratch != "" {
		err = errors.Join(err, os.RemoveAll(t.scratch))
	}
	return err
}

// openTarget opens the database of the settings, which a running authd may also use, and creates it
// if serve would. A dry run does not create it: if the file does not exist, the dry run uses a
// temporary one.
func (cmd importCommand) openTarget(ctx context.Context) (*target, error) {
	url, err := cmd.url()
	if err != nil {
		return nil, err
	}
	t := &target{}
	path, isFile := strings.CutPrefix(url, "sqlite://")
	_, missing := os.Stat(path)
	switch {
	case !isFile:
	case cmd.DryRun && os.IsNotExist(missing):
		if t.scratch, err = os.MkdirTemp("", "authd-import-"); err != nil {
			return nil, err
		}
		url = "sqlite://" + filepath.Join(t.scratch, "authd.db")
	case cmd.DatabaseURL == "" && !cmd.DryRun:
		if _, err := makeDataDir(cmd.DataDir); err != nil {
			return nil, err
		}
	}
	if t.Store, err = openStore(ctx, url); err != nil {
		return nil, errors.Join(err, os.RemoveAll(t.scratch))
	}
	if err := cmd.checkSchema(ctx, t, isFile); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// checkSchema returns an error unless the schema is the one that this binary knows. It applies missing
// migrations to a file, or with --migrate; in a dry run only to a temporary file.
func (cmd importCommand) checkSchema(ctx context.Context, t *target, isFile bool) error {
	err := migrations.Check(ctx, t.DB())
	switch {
	case !errors.Is(err, migrations.ErrPending):
		return err
	case t.scratch != "":
		_, err = migrations.Up(ctx, t.DB())
		return err
	case cmd.DryRun, !isFile && !cmd.Migrate:
		return fmt.Errorf("%w: run \"authd migrate up\", or import with --migrate", err)
	case isFile:
		return cmd.migrateFile(ctx, t)
	}
	_, err = migrations.Up(ctx, t.DB())
	return err
}

// migrateFile migrates while it holds the lock of the data directory, so that no older authd uses the
// file.
func (cmd importCommand) migrateFile(ctx context.Context, t *target) error {
	dir, err := openDataDir(cmd.DataDir)
	if err != nil {
		return err
	}
	_, err = migrations.Up(ctx, t.DB())
	return errors.Join(err, dir.close())
}

// shownSkips is the maximum number of skipped accounts to print.
const shownSkips = 20

// report keeps the first skipped accounts, counts all of them by reason, and writes all of them to a
// file if there is one.
type report struct {
	first   []handlers.Skip
	reasons map[string]int
	file    *os.File
	lines   *json.Encoder
}

func openReport(path string) (*report, error) {
	r := &report{reasons: map[string]int{}}
	if path == "" {
		return r, nil
	}
	var err error
	if r.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
		return nil, fmt.Errorf("--report: %w", err)
	}
	r.lines = json.NewEncoder(r.file)
	return r, nil
}

func (r *report) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

func (r *report) add(s handlers.Skip) error {
	r.reasons[s.Reason]++
	if len(r.first) < shownSkips {
		r.first = append(r.first, s)
	}
	if r.lines == nil {
		return nil
	}
	if err := r.lines.Encode(s); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// print lists the first skipped accounts, and the number of accounts for each reason.
func (r *report) print(out io.Writer) {
	for _, s := range r.first {
		switch {
		case s.Line == 0:
			fmt.Fprintf(out, "skipped id %d: %s\n", s.ID, s.Reason)
		case s.ID == 0:
			fmt.Fprintf(out, "skipped line %d: %s\n", s.Line, s.Reason)
		default:
			fmt.Fprintf(out, "skipped line %d, id %d: %s\n", s.Line, s.ID, s.Reason)
		}
	}
	all := 0
	for _, n := range r.reasons {
		all += n
	}
	if more := all - len(r.first); more > 0 {
		fmt.Fprintf(out, "… and %d more\n", more)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(out, "%s: %d\n", reason, r.reasons[reason])
	}
}

// progressEvery is the interval between lines of progress if the output is not a terminal.
const progressEvery = 5 * time.Second

// progress reports the progress of an import: on a terminal it rewrites one line, otherwise it
// writes a line every progressEvery.
type progress struct {
	out   logOutput
	total int // 0 if unknown
	began time.Time
	told  time.Time
}

func (p *progress) tell(c handlers.ImportCounts) {
	now := time.Now()
	if p.out.isTerminal() {
		fmt.Fprintf(p.out, "\r\x1b[K%s", p.line(c))
		p.told = now
		return
	}
	if p.told.IsZero() {
		p.told = p.began
	}
	if now.Sub(p.told) >= progressEvery {
		fmt.Fprintln(p.out, p.line(c))
		p.told = now
	}
}

func (p *progress) line(c handlers.ImportCounts) string {
	of := ""
	if p.total > 0 {
		of = fmt.Sprintf(" of %d", p.total)
	}
	return fmt.Sprintf("%d%s read, %d imported, %d skipped, %d a second", c.Read, of, c.Imported, c.Skipped, p.rate(c))
}

// end clears the line on a terminal.
func (p *progress) end() {
	if p.out.isTerminal() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func (p *progress) rate(c handlers.ImportCounts) int {
	return int(float64(c.Read) / max(time.Since(p.began).Seconds(), 0.001))
}
