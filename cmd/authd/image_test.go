package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// instructions are those of the Dockerfile, a line each, by the stage they are in.
func instructions(t *testing.T) (stages [][]string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	check(t, err)
	joined := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(string(content), "")
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "FROM ") {
			stages = append(stages, nil)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], line)
	}
	return stages
}

// instruction returns what follows a keyword, which has to be there once.
func instruction(t *testing.T, stage []string, keyword string) string {
	t.Helper()
	var found []string
	for _, line := range stage {
		if rest, ok := strings.CutPrefix(line, keyword+" "); ok {
			found = append(found, rest)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s stands there %d times", keyword, len(found))
	}
	return found[0]
}

// The image holds the program and nothing else, which runs as nobody and is asked how it is.
func TestTheImageRunsTheProgram(t *testing.T) {
	t.Parallel()
	stages := instructions(t)
	if len(stages) != 2 {
		t.Fatalf("%d stages", len(stages))
	}
	build, image := stages[0], stages[1]
	if from := instruction(t, image, "FROM"); from != "scratch" {
		t.Errorf("it is made from %s", from)
	}
	if user := instruction(t, image, "USER"); !regexp.MustCompile(`^[1-9]\d+:[1-9]\d+$`).MatchString(user) {
		t.Errorf("it runs as %s; Kubernetes wants a number that is not root's", user)
	}
	_, checked, _ := strings.Cut(instruction(t, image, "HEALTHCHECK"), " CMD ")
	for what, list := range map[string]string{"entry point": instruction(t, image, "ENTRYPOINT"), "health check": checked} {
		var args []string
		check(t, json.Unmarshal([]byte(list), &args))
		if args[0] != "/authd" {
			t.Errorf("the %s is %v", what, args)
		}
		if _, _, err := parse(commandLine(t), args[1:]); err != nil {
			t.Errorf("the %s: %v", what, err)
		}
	}
	settings := settingNames(t)
	for setting := range strings.FieldsSeq(instruction(t, image, "ENV")) {
		if name, _, _ := strings.Cut(setting, "="); !settings[name] {
			t.Errorf("%s is no setting", name)
		}
	}
	stampsTheVersion(t, build)
}

// stampsTheVersion wants the build arguments to reach the variables that are told.
func stampsTheVersion(t *testing.T, build []string) {
	t.Helper()
	text := strings.Join(build, "\n")
	for _, want := range []string{"ARG VERSION=" + version + "\n", "ARG COMMIT=\n", "-X main.version=$VERSION", "-X main.commit=$COMMIT", "CGO_ENABLED=0"} {
		if !strings.Contains(text, want) {
			t.Errorf("the build lacks %q", want)
		}
	}
	module, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	check(t, err)
	needed := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)[1]
	if from := instruction(t, build, "FROM"); !strings.Contains(from, "golang:"+string(needed)+".") {
		t.Errorf("it is built by %s, and go.mod asks for Go %s", from, needed)
	}
}
