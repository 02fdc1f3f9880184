package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/zyotra/auth/internal/token"
)

// doctorCommand is "authd doctor": it looks at everything that "authd serve" with the same settings
// would use, and at the instances that run. It changes nothing.
//
//	doctor.go           what is found, how it is told, and in what order
//	doctor_settings.go  the settings, the files, this process
//	doctor_database.go  the database and what the service keeps there
//	doctor_bus.go       the NATS servers, rights, streams
//	doctor_service.go   the mail server, and instances that run
type doctorCommand struct {
	serveSettings

	Edge     bool `help:"Look at what an edge alone uses." xor:"part"`
	Handlers bool `help:"Look at what the bus side alone uses." xor:"part"`
	JSON     bool `name:"json" help:"Write an object a line: {check,level,found,advice}."`
}

// level is how bad something is.
type level string

const (
	fine    level = "ok"
	unwise  level = "warning"
	broken  level = "FAILED"
	skipped level = "skipped" // it could not be looked at, for a reason that is told
)

// finding is what became of a check.
type finding struct {
	Check  string `json:"check"`
	Level  level  `json:"level"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // what to do
}

func good(format string, args ...any) finding {
	return finding{Level: fine, Found: fmt.Sprintf(format, args...)}
}

func doubtful(advice, format string, args ...any) finding {
	return finding{Level: unwise, Found: fmt.Sprintf(format, args...), Advice: advice}
}

func bad(advice, format string, args ...any) finding {
	return finding{Level: broken, Found: fmt.Sprintf(format, args...), Advice: advice}
}

func skip(format string, args ...any) finding {
	return finding{Level: skipped, Found: fmt.Sprintf(format, args...)}
}

// inspection looks at one thing.
type inspection struct {
	name string
	look func(context.Context) finding
}

// checkWithin is how long a check may take. Whatever hangs, the next one is made.
const checkWithin = 10 * time.Second

// area makes the checks that hang on one thing, one after another, and tells what they find.
type area func(context.Context, tell)

// tell hears of a finding.
type tell func(finding)

// each makes checks, in their order.
func (t tell) each(ctx context.Context, checks ...inspection) {
	for _, c := range checks {
		t.one(ctx, c)
	}
}

// one makes a check and returns whether what it looked at is of use. What does not come back in
// time is left behind: the process ends soon after.
func (t tell) one(ctx context.Context, c inspection) bool {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	done := make(chan finding, 1)
	go func() { done <- c.look(ctx) }()
	var f finding
	select {
	case f = <-done:
	case <-ctx.Done():
		select {
		case f = <-done:
		case <-time.After(time.Second): // for the words of the check itself
			f = bad("find out why it hangs", "no answer within %s", checkWithin)
		}
	}
	f.Check = c.name
	t(f)
	return f.Level == fine || f.Level == unwise
}

// none tells that checks were not made.
func (t tell) none(why string, checks ...inspection) {
	for _, c := range checks {
		t(finding{Check: c.name, Level: skipped, Found: why})
	}
}

// patient is what is looked at.
type patient struct {
	doctorCommand
	config config
	faults []*settingError
}

// isWrong tells whether a setting whose name begins with one of these is wrong, so that nothing
// can be looked at that hangs on it.
func (p *patient) isWrong(prefixes ...string) (name string, is bool) {
	for _, f := range p.faults {
		for _, prefix := range prefixes {
			if strings.HasPrefix(f.name, prefix) {
				return f.name, true
			}
		}
	}
	return "", false
}

func (cmd doctorCommand) Run(ctx context.Context, out io.Writer) error {
	p := &patient{doctorCommand: cmd}
	p.serveSettings, p.config, p.faults = cmd.checkAll()
	show, end := lines(out)
	if cmd.JSON {
		encoder := json.NewEncoder(out)
		show = func(f finding) { _ = encoder.Encode(f) }
	}
	counts := map[level]int{}
	for f := range p.examine(ctx) {
		counts[f.Level]++
		show(f)
	}
	end()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not finished: %w", err)
	}
	if n := counts[broken]; n > 0 {
		return fmt.Errorf("checks that failed: %d; warnings: %d", n, counts[unwise])
	}
	return nil
}

// examine looks at all areas at once, since any may hang, and yields what is found in one order.
func (p *patient) examine(ctx context.Context) <-chan finding {
	areas := []area{p.examineSettings, p.examineProcess, p.examineDatabase, p.examineBus, p.examineMail, p.examineInstance}
	const most = 100 // findings of an area
	found := make([]chan finding, len(areas))
	for i, look := range areas {
		found[i] = make(chan finding, most)
		go func() {
			defer close(found[i])
			look(ctx, func(f finding) { found[i] <- f })
		}()
	}
	all := make(chan finding)
	go func() {
		defer close(all)
		for _, one := range found {
			for f := range one {
				all <- f
			}
		}
	}()
	return all
}

// lines writes findings for people, each when it is there, so columns have fixed widths. Those that
// were skipped for one reason share a line, which end writes at the latest.
func lines(out io.Writer) (show func(finding), end func()) {
	colours := logOutput{out}.isTerminal() && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	marks := map[level]string{fine: green, unwise: yellow, broken: red, skipped: faint}
	write := func(l level, name, text string) {
		mark := fmt.Sprintf("%-7s", l)
		if colours {
			mark = marks[l] + mark + unmarked
		}
		_, _ = fmt.Fprintf(out, "%s  %-16s  %s\n", mark, name, printable(text))
	}
	var why string
	var names []string
	end = func() {
		if names = slices.Compact(names); len(names) > 0 {
			write(skipped, names[0], why+also(names[1:]))
		}
		why, names = "", nil
	}
	show = func(f finding) {
		if f.Level == skipped {
			if f.Found != why {
				end()
			}
			why, names = f.Found, append(names, f.Check)
			return
		}
		end()
		text := f.Found
		if f.Advice != "" {
			text += "; " + f.Advice
		}
		write(f.Level, f.Check, text)
	}
	return show, end
}

// also names what was skipped together with something.
func also(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; the same for " + strings.Join(names, ", ")
}

// brief is a duration as people read it.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond / 10).String()
	}
	return d.Round(time.Second).String()
}

const (
	unwiseDrift = time.Second
	// brokenDrift is from where on instances do not take each other's tokens.
	brokenDrift = token.Leeway
)

// drift tells how far another clock is from ours, which could not be told more exactly than within.
func drift(whose string, ahead, within time.Duration) finding {
	const advice = "let NTP set both clocks (chronyc tracking, timedatectl)"
	off := max(ahead, -ahead) - within/2
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	switch {
	case off > brokenDrift:
		return bad(advice, "the clock of %s is %s %s ours", whose, brief(off), direction)
	case off > unwiseDrift:
		return doubtful(advice, "the clock of %s is %s %s ours", whose, brief(off), direction)
	}
	return good("the clock of %s is ours, within %s", whose, unwiseDrift)
}
