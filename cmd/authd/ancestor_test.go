package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/testtool"
)

// question is what testdata/ancestor/tokens.js is asked, answer what it says.
type (
	question struct {
		Verify string `json:"verify,omitempty"`
		Sign   string `json:"sign,omitempty"`
		Secret string `json:"secret"`
	}
	answer struct{ UserID, Token, Error string }
)

// Services that were written against the ancestor go on to check access tokens themselves:
// here with the library that they do it with.
func TestTheAncestorsServicesTakeOurTokens(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it fetches a package from npm")
	}
	t.Parallel()
	const secret = "Jx7!mQ2z-Rk9vTb4.Wn6yPe1uHs8dLg3cFa5"
	ask := ancestor(t)
	a := startInside(t, "--access-token-secret="+secret)
	brief := startInside(t, "--access-token-secret="+secret, "--access-token-ttl=1s")
	signUp(t, brief)
	for n := range 11 { // so that the id has two digits
		a.post(t, "/register", fmt.Sprintf(`{"email":"u%d@example.com","password":"correct horse battery"}`, n))
	}
	good := a.post(t, "/login", `{"email":"u10@example.com","password":"correct horse battery"}`).member(t, "accessToken")
	expired := brief.post(t, "/login", credentials).member(t, "accessToken")
	head, rest, _ := strings.Cut(good, ".")
	_, signature, _ := strings.Cut(rest, ".")
	_, of, _ := strings.Cut(expired, ".")
	body, _, _ := strings.Cut(of, ".")
	time.Sleep(1100 * time.Millisecond) // nobody announces that a token expires

	got := ask(t,
		question{Verify: good, Secret: secret},
		question{Verify: expired, Secret: secret},
		question{Verify: head + "." + body + "." + signature, Secret: secret}, // another's claims
		question{Verify: good, Secret: strings.ToUpper(secret)},
		question{Sign: "11", Secret: secret},
	)
	want := []answer{{UserID: "11"}, {Error: "TokenExpiredError"}, {Error: "JsonWebTokenError"}, {Error: "JsonWebTokenError"}}
	if !slices.Equal(got[:4], want) {
		t.Errorf("got %+v\nwant %+v", got[:4], want)
	}

	// A token of the ancestor has the right signature, but neither issuer, audience nor session.
	if strings.Count(got[4].Token, ".") != 2 {
		t.Fatalf("the ancestor signed %+v", got[4])
	}
	a.get(t, "/verify", got[4].Token).refused(t, 401, "invalid_token", "")
	a.get(t, "/me", got[4].Token).refused(t, 401, "invalid_token", "")
	a.get(t, "/verify", good).answered(t, 200, strings.Replace(verified, `"userId":1,`, `"userId":11,`, 1))
}

// ancestor installs the package that testdata/ancestor names, and returns what asks the
// program there.
func ancestor(t *testing.T) func(*testing.T, ...question) []answer {
	t.Helper()
	node, npm := testtool.Find(t, "node", "nodejs"), testtool.Find(t, "npm", "npm")
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "ancestor"))))
	install := exec.CommandContext(t.Context(), npm, "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	return func(t *testing.T, questions ...question) (answers []answer) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), node, "tokens.js")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(encode(t, questions))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("node: %v\n%s", err, &stderr)
		}
		check(t, json.Unmarshal(out, &answers))
		if len(answers) != len(questions) {
			t.Fatalf("%d answers to %d questions: %s", len(answers), len(questions), out)
		}
		return answers
	}
}
