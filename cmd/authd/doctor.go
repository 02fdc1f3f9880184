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

// doctorCommand is "authd doctor": it checks everything that "authd serve" with the same settings
// would use, and the running instances. It changes nothing.
//
//	doctor.go           findings, their format and their order
//	doctor_settings.go  the settings, the files, this process
//	doctor_database.go  the database and the service's data in it
//	doctor_bus.go       the NATS servers, rights, streams
//	doctor_service.go   the mail server, and running instances
type doctorCommand struct {
	serveSettings

	Edge     bool `help:"Look at what an edge alone uses." xor:"part"`
	Handlers bool `help:"Look at what the bus side alone uses." xor:"part"`
	JSON     bool `name:"json" help:"Write an object a line: {check,level,found,advice}."`
}

// level is the severity of a finding.
type level string

const (
	fine    level = "ok"
	unwise  level = "warning"
	broken  level = "FAILED"
	skipped level = "skipped" // the check did not run; Found has the reason
)

// finding is the result of a check.
type finding struct {
	Check  string `json:"check"`
	Level  level  `json:"level"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // the recommended action
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

// inspection is one check.
type inspection struct {
	name string
	look func(context.Context) finding
}

// checkWithin is how long a check may take. The next check then runs even if this one hangs.
const checkWithin = 10 * time.Second

// area runs the checks of one part, one after another, and reports their findings.
type area func(context.Context, tell)

// tell receives a finding.
type tell func(finding)

// each runs checks in order.
func (t tell) each(ctx context.Context, checks ...inspection) {
	for _, c := range checks {
		t.one(ctx, c)
	}
}

// one runs a check and reports whether the checked part is usable. It abandons a check that does not
// return in time: the process ends soon afterwards.
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
		case <-time.After(time.Second): // for the check's own finding
			f = bad("find out why it hangs", "no answer within %s", checkWithin)
		}
	}
	f.Check = c.name
	t(f)
	return f.Level == fine || f.Level == unwise
}

// none reports checks as skipped, for the given reason.
func (t tell) none(why string, checks ...inspection) {
	for _, c := range checks {
		t(finding{Check: c.name, Level: skipped, Found: why})
	}
}

// patient holds the settings under inspection: the valid ones, and the errors of the others.
type patient struct {
	doctorCommand
	config config
	faults []*settingError
}

// isWrong reports whether a setting whose name begins with one of the prefixes is wrong, so that checks
// that depend on it cannot run. It returns the name of the setting.
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

// examine runs all areas concurrently, since any may hang, and sends their findings in a fixed order.
func (p *patient) examine(ctx context.Context) <-chan finding {
	areas := []area{p.examineSettings, p.examineProcess, p.examineDatabase, p.examineBus, p.examineMail, p.examineInstance}
	const most = 100 // findings per area
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

// lines writes findings for people, each as soon as it arrives, so columns have fixed widths. Consecutive
// findings that were skipped for the same reason share a line. end writes the last of these lines.
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

// also names the further checks that were skipped for the same reason.
func also(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; the same for " + strings.Join(names, ", ")
}

// brief formats a duration for people, rounded.
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
	// brokenDrift is the drift above which instances do not accept each other's tokens.
	brokenDrift = token.Leeway
)

// drift returns a finding about the difference between another clock and ours. within is the latency of
// the measurement, which limits its precision.
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
