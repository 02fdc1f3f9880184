package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v4"
)

// operations are the pages for operators, by their names.
func operations(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "operations", "*.md"))
	check(t, err)
	pages := map[string]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		check(t, err)
		pages[filepath.Base(file)] = string(content)
	}
	for _, name := range []string{"README.md", "backup.md", "runbook.md", "upgrade.md"} {
		if pages[name] == "" {
			t.Fatalf("there is no %s", name)
		}
	}
	return pages
}

var (
	shellBlock = regexp.MustCompile("(?s)\n *```(?:sh|console)\n(.*?)\n *```")
	ourCommand = regexp.MustCompile(`(?:^|[ /|(])authd ((?:serve|migrate|keys|events|outbox|mail|users|import|healthcheck|version|nats-config|doctor|--version)\b[^|#;&>]*)`)
	inProse    = regexp.MustCompile("`authd ([^`]+)`")
)

// Every command of ours that a page shows is one that the program takes.
func TestOperatorsCommandsExist(t *testing.T) {
	t.Parallel()
	shown := 0
	for name, page := range operations(t) {
		var commands []string
		for _, block := range shellBlock.FindAllStringSubmatch(page, -1) {
			for line := range strings.Lines(block[1]) {
				for _, m := range ourCommand.FindAllStringSubmatch(line, -1) {
					commands = append(commands, m[1])
				}
			}
		}
		for _, m := range inProse.FindAllStringSubmatch(page, -1) {
			commands = append(commands, strings.ReplaceAll(m[1], "\n", " "))
		}
		for _, command := range commands {
			shown++
			if err := takes(t, command); err != nil {
				t.Errorf("%s: authd %s: %v", name, command, err)
			}
		}
	}
	if shown < 20 {
		t.Errorf("%d commands", shown)
	}
}

// takes parses a command line, or as much of one as prose names: its beginning.
func takes(t *testing.T, command string) error {
	t.Helper()
	args := strings.Fields(strings.NewReplacer("'", "", `"`, "", "…", "").Replace(command))
	_, _, err := parse(commandLine(t), args)
	if err != nil && unfinished.MatchString(err.Error()) {
		return nil
	}
	return err
}

// unfinished is what the parser says of a command line that goes on.
var unfinished = regexp.MustCompile(`^(missing flags|expected |--[a-z-]+: expected string value)`)

// Every metric that the runbook sends people to is one that there is.
func TestRunbookNamesMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	pages := operations(t)
	metric := regexp.MustCompile(`\bauthd_[a-z_]+[a-z]\b`)
	known := metric.FindAllString(pages["metrics.md"], -1)
	for _, page := range []string{"README.md", "upgrade.md", "runbook.md"} {
		for _, name := range metric.FindAllString(pages[page], -1) {
			if !slices.Contains(known, name) {
				t.Errorf("%s: there is no metric %s", page, name)
			}
		}
	}
}

// Each alarm leads to a section that says the same five things.
func TestEachAlarmHasItsSection(t *testing.T) {
	t.Parallel()
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations", "prometheus", "alerts.yml"))
	check(t, err)
	check(t, yaml.Unmarshal(content, &rules))
	sections := map[string]string{}
	for _, section := range strings.Split(operations(t)["runbook.md"], "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		sections[name] = text
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if !strings.HasSuffix(rule.Annotations["runbook_url"], "docs/operations/runbook.md#"+strings.ToLower(rule.Alert)) {
				t.Errorf("%s leads to %s", rule.Alert, rule.Annotations["runbook_url"])
			}
			text := sections[rule.Alert]
			for _, part := range []string{"**Users**", "**Look**", "**Do", "**Nothing**", "```sh"} {
				if !strings.Contains(text, part) {
					t.Errorf("the section of %s lacks %q", rule.Alert, part)
				}
			}
			delete(sections, rule.Alert)
		}
	}
	for name := range sections {
		t.Errorf("%s is no alarm", name)
	}
}

// Links lead to files, and to headings in them.
func TestOperatorsLinksLead(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^):#]*)(#[a-z0-9-]+)?\)`)
	for name, page := range operations(t) {
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			file := filepath.Join("..", "..", "docs", "operations", m[1])
			if m[1] == "" {
				file = filepath.Join("..", "..", "docs", "operations", name)
			}
			content, err := os.ReadFile(file)
			if info, e := os.Stat(file); e == nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(string(content)), m[2]) {
				t.Errorf("%s: %s has no heading %s", name, m[1], m[2])
			}
		}
	}
}

// anchors are what links to the headings of a page look like.
func anchors(page string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")
		names = append(names, "#"+regexp.MustCompile(`[^a-z0-9-]`).ReplaceAllString(name, ""))
	}
	return names
}

// commandLine returns the parser of the command line.
func commandLine(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := kong.New(&commands{}, kong.Vars{"version": version}, kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard))
	check(t, err)
	return parser
}

// settingNames returns all variables of the environment that some command reads.
func settingNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	check(t, kong.Visit(commandLine(t).Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				names[name] = true
			}
		}
		return next(nil)
	}))
	return names
}
