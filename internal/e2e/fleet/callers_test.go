package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/internal/testauthd"
)

const (
	// staleBound is how long after its end a session may be good somewhere, with the news cut
	// off: docs/operations/faults.md.
	staleBound = 30 * time.Second
	// graceUsed is for how long a spent refresh token is sure to be answered again: less than
	// REFRESH_GRACE by what a request may take.
	graceUsed = 8 * time.Second
	// callerWaits is how long callers wait for an answer, and hashWaits where a password is hashed.
	// That of a refresh is within REFRESH_GRACE, so that the token is still good for the retry.
	callerWaits = 5 * time.Second
	hashWaits   = 10 * time.Second
	// giveUpAfter is when callers take the service for dead.
	giveUpAfter = 90 * time.Second
)

// callers are users of a fleet who never stop, over HTTP and over the bus. They retry once, as
// they are told to, and then again until they have an answer, which has to be right.
type callers struct {
	fleet    *fleet
	conn     *nats.Conn
	verifier *bus.Verifier
	tally    tally
	end      func() error // returns when nobody acts any more

	mu       sync.Mutex
	accounts []string             // addresses whose registration was acknowledged
	ended    map[string]time.Time // by access token: when the end of its session was confirmed
	wrong    []error
}

// populateFleet lets callers act until they are told to end.
func populateFleet(f *fleet) *callers {
	f.t.Helper()
	c := &callers{fleet: f, conn: f.app(), ended: map[string]time.Time{}}
	v, err := bus.NewVerifier(f.app(), bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra"})
	check(f.t, err)
	f.t.Cleanup(func() { check(f.t, v.Close()) })
	check(f.t, v.Ready(f.t.Context()))
	c.verifier = v

	ctx, stop := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- testauthd.All(7, func(i int) error {
			doors := []way{c.overHTTP(), c.overBus}
			for n := 0; ctx.Err() == nil; n++ {
				if i == 6 {
					c.askAboutEnded(doors)
					continue
				}
				c.live(doors[i%2], fmt.Sprintf("u%d.%d@example.com", i, n))
			}
			return nil
		})
	}()
	c.end = sync.OnceValue(func() error { stop(); return <-over })
	f.t.Cleanup(func() { _ = c.end() })
	return c
}

// reply is an answer of either door.
type reply struct {
	code    auth.Code // "" if it is no refusal
	message string
	body    []byte
}

func (r reply) isAway() bool { return r.code == auth.CodeUnavailable || r.code == auth.CodeOverloaded }

func (r reply) member(name string) string {
	var members map[string]any
	_ = json.Unmarshal(r.body, &members) // what is missing shows
	value, _ := members[name].(string)
	return value
}

// way asks once, and each time elsewhere if it can. The subject is the same for both.
type way func(subject, access, body string) (reply, error)

var routes = map[string]string{
	"auth.register": "POST /register", "auth.login": "POST /login", "auth.verify": "GET /verify", "auth.refresh": "POST /refresh",
	"auth.logout": "POST /logout", "auth.account.get": "GET /me",
}

// overHTTP asks one replica after the other, as a load balancer does that knows of no fault. It is
// for one caller.
func (c *callers) overHTTP() way {
	edges := c.fleet.edges()
	turn := rand.N(len(edges))
	return func(subject, access, body string) (reply, error) {
		turn++
		return askHTTP(*edges[turn%len(edges)].address.Load(), subject, access, body)
	}
}

// askHTTP asks a replica. The connection may be one that is kept.
func askHTTP(address, subject, access, body string) (reply, error) {
	method, path, _ := strings.Cut(routes[subject], " ")
	ctx, cancel := context.WithTimeout(context.Background(), wait(subject))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", rand.N(256), rand.N(256), rand.N(256)))
	if access != "" {
		req.Header.Set("Authorization", "Bearer "+access)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode < 400 {
		return reply{body: text}, err
	}
	return refusedWith(text)
}

func (c *callers) overBus(subject, access, body string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait(subject))
	defer cancel()
	m := &nats.Msg{Subject: subject, Data: []byte(body)}
	if subject == "auth.verify" {
		m.Data = []byte(`{"token":"` + access + `"}`)
	} else if access != "" {
		m.Header = nats.Header(testauthd.Bearer(access))
	}
	answer, err := c.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return reply{}, err
	}
	if answer.Header.Get("Nats-Service-Error") == "" {
		return reply{body: answer.Data}, nil
	}
	return refusedWith(answer.Data)
}

func wait(subject string) time.Duration {
	if subject == "auth.register" || subject == "auth.login" {
		return hashWaits
	}
	return callerWaits
}

func refusedWith(body []byte) (reply, error) {
	var e auth.Error
	if err := json.Unmarshal(body, &e); err != nil || e.Code == "" {
		return reply{}, fmt.Errorf("no error of ours: %.200q", body)
	}
	return reply{code: e.Code, message: e.Message, body: body}, nil
}

// ask asks until there is an answer, and tells whether an earlier try may have been carried out.
// The first retry comes at once, the later ones do not count as the rule's.
func (c *callers) ask(ask way, subject, access, body string) (r reply, doubtful bool, err error) {
	began := time.Now()
	request := c.tally.begin(began)
	for tries := 1; ; tries++ {
		r, err = ask(subject, access, body)
		if err == nil && !r.isAway() {
			c.tally.answered(request, tries)
			return r, tries > 1, nil
		}
		c.tally.unanswered()
		if time.Since(began) > giveUpAfter {
			err := fmt.Errorf("%s: no answer in %s: %s %w", subject, giveUpAfter, r.code, err)
			c.isWrong(err)
			c.tally.answered(request, tries)
			return r, true, err
		}
		if tries > 1 {
			testauthd.Moment(20*time.Millisecond, 60*time.Millisecond)
		}
	}
}

func (c *callers) isWrong(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < 20 {
		c.wrong = append(c.wrong, fmt.Errorf("%s: %w", time.Now().UTC().Format("15:04:05.000"), err))
	}
}

// wants notes an answer that is wrong, and tells whether it is right. The codes that are given
// are right.
func (c *callers) wants(what string, r reply, codes ...auth.Code) bool {
	if slices.Contains(codes, r.code) {
		return true
	}
	c.isWrong(fmt.Errorf("%s: %q %s", what, r.code, r.message))
	return false
}

// live is the life of an account, as far as it comes.
func (c *callers) live(ask way, email string) {
	const good = ""
	credentials := `{"email":"` + email + `","password":"correct horse battery"}`
	r, doubtful, err := c.ask(ask, "auth.register", "", credentials)
	if err != nil {
		return
	}
	// The first try of a registration may have been carried out, and then the address is taken.
	if !(doubtful && r.code == auth.CodeEmailTaken) && !c.wants("register", r, good) {
		return
	}
	c.mu.Lock()
	c.accounts = append(c.accounts, credentials)
	c.mu.Unlock()
	for range 2 {
		c.session(ask, credentials)
	}
}

// session begins, is verified and refreshed, and ends.
func (c *callers) session(ask way, credentials string) {
	const good = ""
	r, _, err := c.ask(ask, "auth.login", "", credentials)
	if err != nil || !c.wants("login", r, good) {
		return
	}
	first := r
	for _, subject := range []string{"auth.verify", "auth.account.get"} {
		if r, _, err := c.ask(ask, subject, first.member("accessToken"), ""); err != nil || !c.wants(subject, r, good) {
			return
		}
	}
	if _, err := c.verifier.Verify(context.Background(), first.member("accessToken")); err != nil && !errors.Is(err, auth.ErrUnavailable) {
		c.isWrong(fmt.Errorf("verifier: %w", err))
	}
	second, ok := c.refresh(ask, first)
	if !ok {
		return
	}
	if rand.N(2) == 0 { // a second tab
		again, ok := c.refresh(ask, first)
		if !ok { // it had no answer for so long that it counts as theft, and the session is over
			return
		}
		if again.member("refreshToken") != second.member("refreshToken") {
			c.isWrong(errors.New("refresh: one token has two successors"))
		}
	}
	third, ok := c.refresh(ask, second)
	if !ok {
		return
	}
	access := third.member("accessToken")
	if rand.N(3) > 0 {
		if r, _, err := c.ask(ask, "auth.logout", access, ""); err != nil || !c.wants("logout", r, good) {
			return
		}
	} else if r, _, err := c.ask(ask, "auth.refresh", "", `{"refreshToken":"`+first.member("refreshToken")+`"}`); err != nil ||
		!c.wants("refresh with a token that was spent twice over", r, auth.CodeTokenRevoked) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[access] = time.Now()
}

// refresh exchanges the refresh token of an answer. If there was no answer for as long as the
// token is good a second time, the session may be over.
func (c *callers) refresh(ask way, with reply) (reply, bool) {
	began := time.Now()
	r, doubtful, err := c.ask(ask, "auth.refresh", "", `{"refreshToken":"`+with.member("refreshToken")+`"}`)
	if err != nil {
		return r, false
	}
	if doubtful && r.code == auth.CodeTokenRevoked && time.Since(began) > graceUsed {
		c.tally.gaveUp()
		return r, false
	}
	return r, c.wants(fmt.Sprintf("refresh (doubtful: %t, %s)", doubtful, time.Since(began).Round(time.Millisecond)), r, "")
}

// askAboutEnded asks all doors about a session that has ended. It may be good for a moment.
func (c *callers) askAboutEnded(doors []way) {
	c.mu.Lock()
	recent := maps.Clone(c.ended)
	c.mu.Unlock()
	for access, ended := range recent {
		for i, ask := range doors {
			began := time.Now()
			r, err := ask("auth.verify", access, "")
			c.judge(fmt.Sprint("door ", i), began.Sub(ended), r, err)
		}
		began := time.Now()
		_, err := c.verifier.Verify(context.Background(), access)
		var refused *auth.Error
		if errors.As(err, &refused) {
			c.judge("verifier", began.Sub(ended), reply{code: refused.Code}, nil)
		} else {
			c.judge("verifier", began.Sub(ended), reply{}, err)
		}
		if time.Since(ended) > 2*staleBound {
			c.mu.Lock()
			delete(c.ended, access)
			c.mu.Unlock()
		}
		testauthd.Moment(5*time.Millisecond, 10*time.Millisecond)
	}
	testauthd.Moment(5*time.Millisecond, 10*time.Millisecond)
}

// judge takes what was said of a session that had ended so long ago.
func (c *callers) judge(who string, ago time.Duration, r reply, err error) {
	switch {
	case err != nil, r.isAway(), r.code == auth.CodeTokenRevoked:
	case r.code != "":
		c.isWrong(fmt.Errorf("%s: %s, for a session that has ended", who, r.code))
	case ago > staleBound:
		c.isWrong(fmt.Errorf("%s: a session that ended %s ago is good", who, ago))
	default:
		c.tally.wasStale(ago)
	}
}

// acknowledged wants each account that was acknowledged to log in.
func (c *callers) acknowledged() {
	c.mu.Lock()
	accounts := slices.Clone(c.accounts)
	c.mu.Unlock()
	_ = testauthd.All(8, func(i int) error { // ask keeps the errors
		for n := i; n < len(accounts); n += 8 {
			if r, _, err := c.ask(c.overBus, "auth.login", "", accounts[n]); err == nil {
				c.wants("login of an account that was acknowledged", r, "")
			}
		}
		return nil
	})
}

// refused waits until each session that has ended is refused by every replica.
func (c *callers) refused(t *testing.T) {
	t.Helper()
	for access := range c.ended {
		for _, r := range c.fleet.edges() {
			testauthd.Until(t, "it is refused by "+r.name, func() bool { return r.process.Get(t, "/verify", access).Answer.Status == 401 })
		}
		testauthd.Until(t, "it is refused on the bus", func() bool {
			r, err := c.overBus("auth.verify", access, "")
			return err == nil && r.code == auth.CodeTokenRevoked
		})
	}
}

// table is what is printed in the end.
type table struct{ bytes.Buffer }

func newTable() *table {
	t := &table{}
	fmt.Fprintf(t, "\n%-44s %8s %6s %6s %8s %9s %9s %9s\n", "fault", "requests", "missed", "failed", "share", "longest", "recovery", "stale")
	return t
}

func (t *table) line(name string, r reckoning, recovery time.Duration) {
	share := 100 * float64(r.failed) / float64(max(r.requests, 1))
	fmt.Fprintf(t, "%-44s %8d %6d %6d %7.2f%% %9s %9s %9s\n", name, r.requests, r.missed, r.failed, share,
		r.longest.Round(time.Millisecond), recovery.Round(time.Millisecond), r.stale.Round(time.Millisecond))
}
