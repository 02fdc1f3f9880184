package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Probe finds the rights of clients of a NATS server that are not part of authd: strangers, who have
// no credentials, and apps. It has no lasting effect: its subjects are new ones on which no client
// listens, no stream stores its messages, and it names no existing stream. A server logs each attempt
// that it refuses.
type Probe struct {
	URL  string        // the URL of one server
	TLS  []nats.Option // the options that check the server's certificate
	Role string        // the caller's role on the server: Service or Edge
	Ours []nats.Option // the credentials of that role, in addition to URL's
	App  []nats.Option // the credentials of an app; nil probes the rights of clients without credentials
}

const (
	// probeConnect bounds the time until a server admits a client, and probeWithin a whole probe.
	probeConnect = 2 * time.Second
	probeWithin  = 5 * time.Second
)

// The findings of a probe. Each completes "clients may …".
const (
	mayAskAsOperator = "ask auth.admin.>"
	mayPublishEvents = "publish events"
	mayPublishMails  = "publish mails"
	mayUseStreams    = "administer streams"
	mayReadRequests  = "read requests"
	mayReadReplies   = "read inboxes of others"
	mayForgeReplies  = "publish to inboxes of others"
)

// attempts are the subjects of a probe. The foreign client attempts the subjects of their…, which map
// to the finding if the server allows the attempt. The caller's connection uses the subjects of our…,
// which show whether messages pass between the two connections.
type attempts struct {
	theirSubscribe, theirPublish map[string]string
	ourSubscribe, ourPublish     []string
}

// attempts returns the subjects, which contain a token that no other client knows.
func (p Probe) attempts(token string) attempts {
	inbox := "_INBOX_" + p.Role + "." + token
	a := attempts{
		theirSubscribe: map[string]string{"auth." + token: mayReadRequests},
		theirPublish: map[string]string{
			"auth.admin." + token: mayAskAsOperator, inbox: mayForgeReplies, "mail." + token: mayPublishMails,
			"$JS.API.STREAM.DELETE." + token: mayUseStreams,
		},
		ourSubscribe: []string{inbox}, ourPublish: []string{"auth." + token},
	}
	for _, kind := range events {
		a.theirPublish[strings.TrimSuffix(kind, ">")+token] = mayPublishEvents
	}
	for _, role := range []string{Edge, Service, Admin} {
		a.theirSubscribe["_INBOX_"+role+"."+token] = mayReadReplies
	}
	if p.App == nil { // apps share an inbox prefix
		a.theirSubscribe["_INBOX."+token] = mayReadReplies
	}
	if p.Role == Service {
		a.ourSubscribe = append(a.ourSubscribe, "auth.admin."+token)
		a.ourPublish = append(a.ourPublish, "_INBOX_edge."+token)
		if p.App == nil {
			a.ourPublish = append(a.ourPublish, "_INBOX."+token)
		}
	}
	return a
}

// Run returns the findings: none if the server refuses the clients, or keeps them in an account
// separate from the service. An error means that Run has no result. Run takes a few round trips, and
// at most five seconds.
func (p Probe) Run(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	theirs, err := p.connectAsOther()
	if isRefusal(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ours, err := connectProbe(p.URL, p.TLS, p.Ours)
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	token := rand.Text()
	a := p.attempts(token)
	err = errors.Join(
		ours.subscribe(ctx, a.ourSubscribe), theirs.subscribe(ctx, slices.Collect(maps.Keys(a.theirSubscribe))),
		ours.publish(ctx, a.ourPublish, token), theirs.publish(ctx, slices.Collect(maps.Keys(a.theirPublish)), token),
		ours.FlushWithContext(ctx), theirs.FlushWithContext(ctx), // each side has received the other side's messages
	)
	if err != nil {
		return nil, err
	}
	shared := ours.received() || theirs.received()
	if _, refused := ours.refused(); slices.ContainsFunc(a.ourSubscribe, func(s string) bool { return refused[s] }) {
		return nil, fmt.Errorf("the role %s may not subscribe to %s", p.Role, strings.Join(a.ourSubscribe, " and "))
	}
	if !shared {
		return nil, nil
	}
	return a.allowed(theirs.refused()), nil
}

// allowed returns the findings of the attempts that the server did not refuse, sorted and without
// duplicates.
func (a attempts) allowed(notPublish, notSubscribe map[string]bool) (findings []string) {
	for _, tried := range []struct {
		subjects map[string]string
		refused  map[string]bool
	}{{a.theirPublish, notPublish}, {a.theirSubscribe, notSubscribe}} {
		for subject, means := range tried.subjects {
			if !tried.refused[subject] && !slices.Contains(findings, means) {
				findings = append(findings, means)
			}
		}
	}
	slices.Sort(findings)
	return findings
}

// connectAsOther connects with the credentials in App, without any credentials in URL.
func (p Probe) connectAsOther() (*probeConn, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, err
	}
	u.User = nil
	return connectProbe(u.String(), p.TLS, p.App)
}

// isRefusal reports whether err means that the server rejected the client's credentials.
func isRefusal(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// probeConn is a connection that records the server's refusals. Its subscriptions hold received messages.
type probeConn struct {
	*nats.Conn
	subs   []*nats.Subscription
	errs   []error       // readable once closed is closed
	closed chan struct{} // closed after the last error is recorded
}

func connectProbe(url string, options ...[]nats.Option) (c *probeConn, err error) {
	c = &probeConn{closed: make(chan struct{})}
	all := append(slices.Concat(options...),
		nats.Name("authd probe"), nats.Timeout(probeConnect), nats.NoReconnect(), nats.NoEcho(),
		// nats.go calls both from one goroutine, in the order of the events.
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.errs = append(c.errs, err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	)
	c.Conn, err = nats.Connect(url, all...)
	return c, err
}

// subscribe returns when the server has processed all subscriptions.
func (c *probeConn) subscribe(ctx context.Context, subjects []string) error {
	for _, subject := range subjects {
		sub, err := c.SubscribeSync(subject)
		if err != nil {
			return err
		}
		c.subs = append(c.subs, sub)
	}
	return c.FlushWithContext(ctx)
}

// publish returns when the server has processed all messages. Each names a nonexistent stream as its
// expected stream, so that no stream stores it.
func (c *probeConn) publish(ctx context.Context, subjects []string, token string) error {
	for _, subject := range subjects {
		m := nats.NewMsg(subject)
		m.Header.Set(nats.ExpectedStreamHdr, token)
		if err := c.PublishMsg(m); err != nil {
			return err
		}
	}
	return c.FlushWithContext(ctx)
}

// received reports whether any subscription has received a message.
func (c *probeConn) received() bool {
	return slices.ContainsFunc(c.subs, func(s *nats.Subscription) bool {
		n, _, err := s.Pending()
		return err == nil && n > 0
	})
}

// violation matches the server's error for a refused subject.
var violation = regexp.MustCompile(`for (Publish|Subscription) to "([^"]+)"`)

// refused closes the connection and returns the subjects that the server refused.
func (c *probeConn) refused() (publish, subscribe map[string]bool) {
	c.Close()
	<-c.closed
	publish, subscribe = map[string]bool{}, map[string]bool{}
	for _, err := range c.errs {
		switch m := violation.FindStringSubmatch(err.Error()); {
		case m == nil:
		case m[1] == "Publish":
			publish[m[2]] = true
		default:
			subscribe[m[2]] = true
		}
	}
	return publish, subscribe
}
