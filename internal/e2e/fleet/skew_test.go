package fleet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testnats"
)

// While a release is brought in, its replicas run beside those of the one before, on one database
// and one bus, and edges of either ask handlers of either. Nobody may notice, on the way up or back.
//
// It has the machine to itself: a request may not fail because another test keeps it busy.
func TestTwoReleasesServeAsOne(t *testing.T) {
	former, back := formerRelease(t)
	f := &fleet{t: t, nats: testnats.StartCluster(t, testnats.Config{})} // the former may know one credential only
	f.bus = roleBus{url: f.nats.URLs()}
	f.startPostgres()
	for _, parts := range allParts {
		r := f.newReplica(parts, generous)
		r.program = former
		r.start(t)
		f.replicas = append(f.replicas, r)
	}
	f.ready()
	c := populateFleet(f)
	lines := newTable()
	c.undergo(fault{name: "all replicas of the former release", holds: time.Second, begin: func() {}, end: func() {}, planned: true}, lines)
	c.undergo(fault{name: "one after the other becomes this one", begin: func() { f.become(released) }, end: func() {}, planned: true}, lines)
	if back {
		c.undergo(fault{name: "one after the other becomes the former", begin: func() { f.become(former) }, end: func() {}, planned: true}, lines)
	} else {
		t.Log("NOT TRIED: the way back. The former release does not start on this one's schema.")
	}
	c.settle(t)
	t.Log(lines.String())
}

// become brings in another program, one replica after the other.
func (f *fleet) become(program func(testing.TB) *exec.Cmd) {
	for _, r := range f.replicas {
		r.stop(f.t)
		r.program = program
		r.start(f.t)
		f.ready()
	}
}

// formerRelease builds the release before this one, and tells whether it starts on the schema of
// this one. Which that is, SKEW_FROM says; otherwise it is the newest tag, or, before the first,
// what this branch began at. Where there is no history, or where that has another schema, which
// before the first release promises nothing to anybody, the test says so and has this one twice.
func formerRelease(t *testing.T) (program func(testing.TB) *exec.Cmd, back bool) {
	t.Helper()
	revision, isRelease := formerRevision()
	if revision == "" {
		t.Log("NOT TRIED: two releases. There is no history to build the former one from; this one runs beside itself.")
		return released, true
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "former")
	execWell(t, "sh", "-c", `git -C "$(git rev-parse --show-toplevel)" archive "$1" | tar -x -C "$2"`, "sh", revision, dir)
	sameSchema := slices.Equal(steps(t, filepath.Join(testauthd.Root(t), "migrations", "postgres")), steps(t, dir+"/migrations/postgres"))
	if !sameSchema && !isRelease {
		t.Logf("NOT TRIED: two releases. There is none yet, and %s has another schema; this one runs beside itself.", revision)
		return released, true
	}
	check(t, testauthd.Build(dir, binary, false)) // the races of a former release are not ours to find
	t.Logf("the former release is %s", revision)
	return func(testing.TB) *exec.Cmd { return testauthd.As(testauthd.Owned, binary) }, sameSchema
}

func execWell(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// steps are the names of migrations.
func steps(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	check(t, err)
	for _, one := range list {
		names = append(names, one.Name())
	}
	return names
}

// formerRevision is "" if there is none.
func formerRevision() (revision string, isRelease bool) {
	if chosen := os.Getenv("SKEW_FROM"); chosen != "" {
		return chosen, true
	}
	const tag = "git describe --tags --abbrev=0 HEAD^"
	for _, ask := range []string{
		tag,
		"git rev-parse --verify $(git merge-base HEAD origin/main || git merge-base HEAD main)^",
		"git rev-parse --verify HEAD^",
	} {
		if out, err := exec.Command("sh", "-c", ask+" 2>/dev/null").Output(); err == nil {
			return strings.TrimSpace(string(out)), ask == tag
		}
	}
	return "", false
}
