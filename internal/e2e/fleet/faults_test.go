package fleet_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testoutbox"
)

// fault is something that goes wrong, and how it is mended.
type fault struct {
	name       string
	holds      time.Duration // for at least so long, and up to twice that
	begin, end func()
	planned    bool // hardly a request may fail that is tried again, in make chaos none
}

// faults are those of a fleet, with their order left to chance.
func (f *fleet) faults() []fault {
	t := f.t
	nothing, silent := func() {}, 2*time.Second
	if testauthd.Chaos(t) > 1 {
		silent = 12 * time.Second // longer than it takes to be noticed
	}
	list := []fault{
		{name: "none", holds: time.Second, begin: nothing, end: nothing, planned: true},
		{name: "rolling restart", begin: f.rollingRestart, end: nothing, planned: true},
		{name: "Postgres killed", holds: 400 * time.Millisecond,
			begin: func() { check(t, f.postgres.Kill()) }, end: func() { check(t, f.postgres.Restart(t.Context())) }},
		{name: "each packet to Postgres 200 ms late", holds: time.Second,
			begin: func() { f.delay(200 * time.Millisecond) }, end: func() { f.delay(0) }},
	}
	var leader *testnats.Server
	list = append(list, fault{name: "NATS server killed that leads the events", holds: 500 * time.Millisecond, begin: func() {
		var err error
		leader, err = f.nats.StreamLeader(t.Context(), events.Stream)
		check(t, err)
		check(t, leader.Kill())
	}, end: func() { f.restartNATS(leader) }})
	for _, s := range f.nats.Servers {
		list = append(list, fault{name: "NATS server killed, " + s.Name, holds: 500 * time.Millisecond,
			begin: func() { check(t, s.Kill()) }, end: func() { f.restartNATS(s) }})
	}
	for _, r := range f.replicas {
		list = append(list,
			fault{name: "replica killed, " + r.described(), holds: 300 * time.Millisecond, begin: func() { r.kill(t) }, end: func() { r.start(t) }},
			fault{name: "no word from NATS, " + r.described(), holds: silent,
				begin: func() { r.silenceNATS(true) }, end: func() { r.silenceNATS(false) }})
		if r.postgres == nil {
			continue
		}
		list = append(list, fault{name: "no word from Postgres, " + r.described(), holds: silent,
			begin: func() { r.postgres.Silence(true) }, end: func() { r.postgres.Silence(false) }})
	}
	for name, program := range map[string]string{"ahead": testauthd.OwnedAhead, "behind": testauthd.OwnedBehind} {
		r := f.replicas[0]
		list = append(list, fault{name: "clock of a replica 30 s off, " + name, holds: time.Second, begin: func() {
			r.program = func(t testing.TB) *exec.Cmd { return testauthd.Command(t, program) }
			r.stop(t)
			r.start(t)
		}, end: func() {
			r.program = released
			r.stop(t)
			r.start(t)
		}})
	}
	return list
}

func (r *replica) described() string {
	switch {
	case r.postgres == nil:
		return r.name + " (edge)"
	case !r.isEdge:
		return r.name + " (handlers)"
	}
	return r.name
}

// restartNATS starts a server again and returns when it has caught up: the next one that is killed
// would otherwise leave too few.
func (f *fleet) restartNATS(s *testnats.Server) {
	check(f.t, s.Restart(f.t.Context()))
	check(f.t, f.nats.Await(f.t.Context()))
}

// delay makes every packet between replicas and Postgres late.
func (f *fleet) delay(by time.Duration) {
	for _, r := range f.replicas {
		if r.postgres != nil {
			r.postgres.Delay(by)
		}
	}
}

// rollingRestart stops and starts one replica after the other, as a deployment does.
func (f *fleet) rollingRestart() {
	for _, r := range f.replicas {
		r.stop(f.t)
		r.start(f.t)
		f.ready()
	}
}

// some are the faults that a short run has time for, one of each kind.
func some(list []fault) (few []fault) {
	seen := map[string]bool{}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, one := range list {
		kind, _, _ := strings.Cut(one.name, ",")
		if !seen[kind] {
			few = append(few, one)
		}
		seen[kind] = true
	}
	return few
}

// What goes wrong may keep answers from coming, but never makes a wrong one: a session that has
// ended is not good beyond the bound, a refresh token is good once, a right password and a token
// that is good are not refused; and in the end no account that was acknowledged is missing, and no
// event is lost or invented.
//
// It has the machine to itself, so that what is slow is slow by the fault.
func TestAFleetSurvivesFaults(t *testing.T) {
	f := startFleet(t, generous...)
	f.ready()
	c := populateFleet(f)
	faults := some(f.faults())
	if n := testauthd.Chaos(t); n > 1 {
		faults = nil
		for range max(1, n/10) {
			round := f.faults()
			rand.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
			faults = append(faults, round...)
		}
	}
	if only := os.Getenv("CHAOS_ONLY"); only != "" {
		faults = nil
		for _, one := range f.faults() {
			if strings.Contains(one.name, only) {
				faults = append(faults, one)
			}
		}
	}
	lines := newTable()
	for _, one := range faults {
		if t.Failed() {
			break
		}
		c.undergo(one, lines)
	}
	c.settle(t)
	t.Log(lines.String())
}

// generous are limits that those who insist on an answer do not meet. Callers are believed that
// each comes from elsewhere.
var generous = []string{"--limit-login=99/100ms", "--limit-login-account=99/100ms", "--trusted-proxies=127.0.0.1"}

// undergo lets a fault happen and waits until everything is well again.
func (c *callers) undergo(one fault, lines *table) {
	t := c.fleet.t
	t.Helper()
	c.tally.empty()
	one.begin()
	if one.holds > 0 {
		testauthd.Moment(one.holds, 2*one.holds)
	}
	one.end()
	mended := time.Now()
	c.fleet.ready()
	ready := time.Since(mended)
	testauthd.Moment(500*time.Millisecond, 600*time.Millisecond)
	testauthd.Until(t, "all is answered that was asked before", func() bool { return c.tally.allBegunAfter(mended) })
	r := c.tally.empty()
	lines.line(one.name, r, max(ready, r.last.Sub(mended)))
	if one.planned && r.failed > 0 {
		t.Errorf("%s: %d requests of %d failed that were tried again", one.name, r.failed, r.requests)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.wrong...); err != nil {
		t.Errorf("%s: %v", one.name, err)
	}
}

// settle ends the callers and looks at what is left.
func (c *callers) settle(t *testing.T) {
	t.Helper()
	check(t, c.end())
	c.acknowledged()
	c.refused(t)
	if len(c.accounts) == 0 {
		t.Error("no registration was acknowledged")
	}
	testoutbox.Settled(t, c.fleet.postgres.URL, c.fleet.bus.as(t, embedded.Relay))
	if err := errors.Join(c.wrong...); err != nil {
		t.Error(err)
	}
	t.Logf("%d accounts", len(c.accounts))
}
