package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// Every login that fails sends the same statements and hashes as often: the time of the answer does
// not depend on the account.
func TestFailedLoginsDoTheSameWork(t *testing.T) {
	t.Parallel()
	const wrongPassword = "wrong horse battery"
	for name, flags := range map[string][]string{
		"not verified": {},
		"required":     {"--mailer=off", "--email-verification=required"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCollector(t)
			a := launchTraced(t, c.url, nil, append(flags, "--limit-login=2/1m")...).ready(t)
			conn := a.asApp(t)
			ask(t, conn, "auth.register", nil, login("ada@example.com", "correct horse")).done(t)
			ask(t, conn, "auth.register", nil, login("off@example.com", "correct horse")).done(t)
			ask(t, asAdmin(t, a), "auth.admin.users.disable", nil, `{"userId":2}`) // an account, if there is one
			tried := []string{
				login("ada@example.com", wrongPassword),
				login("off@example.com", "correct horse"),
				login("off@example.com", wrongPassword),
				login("eve@example.com", "correct horse"),
				login("eve@example.com", strings.Repeat("x", 2000)),
				login("not an address", "correct horse"),
				login("", ""),
			}
			if name == "required" { // it is all that this login lacks
				tried = append(tried, login("ada@example.com", "correct horse"))
			}
			source := func(i int, body string) string { return sentFrom(fmt.Sprintf("192.0.2.%d", i+1), body) }
			traced := func(i int) nats.Header {
				return nats.Header{"traceparent": {"00-" + traceOf(i) + "-b7ad6b7169203331-01"}}
			}
			for i, body := range tried {
				ask(t, conn, "auth.login", traced(i), source(i, body)).refused(t, 401, "invalid_credentials", "")
				ask(t, conn, "auth.login", nil, source(i, body)).refused(t, 401, "invalid_credentials", "")
				if e := ask(t, conn, "auth.login", traced(100+i), source(i, body)); e.Answer.Header["Nats-Service-Error-Code"][0] != "429" {
					t.Errorf("%.60s, too often: %v %s", body, e.Answer.Header, e.Answer.Body)
				}
			}
			a.stop(t) // the last traces leave
			for _, first := range []int{0, 100} {
				want := c.work(traceOf(first))
				if len(want) == 0 && first == 0 {
					t.Fatal("no trace")
				}
				for i, body := range tried {
					if got := c.work(traceOf(first + i)); !slices.Equal(got, want) {
						t.Errorf("%.60s:\n%s\nwant, as for %s:\n%s", body, strings.Join(got, "\n"), tried[0], strings.Join(want, "\n"))
					}
				}
			}
		})
	}
}

// traceOf is the id of a trace.
func traceOf(i int) string { return fmt.Sprintf("%032x", 0xabc000+i) }

// work returns the names of a trace's spans, except those of events, which are sent later.
func (c *traceCollector) work(trace string) (names []string) {
	for _, s := range c.of(trace) {
		if !strings.HasPrefix(s.Name, "send ") {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}
