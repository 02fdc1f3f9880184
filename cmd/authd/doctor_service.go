package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/mail"
)

// examineMail checks the mail server.
func (p *patient) examineMail(ctx context.Context, t tell) {
	if p.Edge {
		return
	}
	if name, wrong := p.isWrong("SMTP_", "MAIL"); wrong {
		t.none(name+" is wrong", inspection{"mail server", nil})
		return
	}
	t.one(ctx, inspection{"mail server", p.mailServer})
}

func (p *patient) mailServer(ctx context.Context) finding {
	c := p.config.mail
	switch {
	case !c.mailer:
		return good("MAILER=off leaves mails to another service")
	case c.smtp == nil && c.mailbox:
		return good("there is no SMTP_URL: mails go to the mailbox of those who develop")
	case c.smtp == nil:
		return doubtful("set SMTP_URL and MAIL_FROM, or MAILER=off", "there is no SMTP_URL: mails wait in their queue, and after two days they are gone")
	}
	smtp := *c.smtp
	var err error
	if smtp.Roots, err = p.roots(); err != nil {
		return bad("", "%s", err)
	}
	if err := smtp.Probe(ctx); err != nil {
		return bad("see that it runs and can be reached from here, and that SMTP_URL has the right user, password and kind of TLS", "%s: %s", smtp.String(), mail.Masked(err.Error()))
	}
	return good("%s lets us in; no mail was sent", smtp.String())
}

// examineInstance checks the health of the instance on this machine.
func (p *patient) examineInstance(ctx context.Context, t tell) {
	if name, wrong := p.isWrong("HOST", "PORT", "METRICS_ADDR"); wrong {
		t.none(name+" is wrong", inspection{"this instance", nil})
		return
	}
	t.one(ctx, inspection{"this instance", p.instance})
}

func (p *patient) instance(ctx context.Context) finding {
	asked := []string{}
	if !p.Handlers {
		asked = append(asked, net.JoinHostPort(reachable(p.Host), p.Port))
	}
	if host, port, err := net.SplitHostPort(p.config.operatorAddr); err == nil {
		asked = append(asked, net.JoinHostPort(reachable(host), port))
	}
	for _, address := range asked {
		f, isThere := p.askInstance(ctx, "http://"+address)
		if isThere {
			return f
		}
	}
	if p.runsHere() {
		return bad("see its log; HOST, PORT and METRICS_ADDR have to be those that it was started with", "an authd uses DATA_DIR, and does not answer at %s", listed(asked))
	}
	return skip("none answers at %s: \"authd serve\" starts one", listed(asked))
}

// askInstance checks the health of the process that listens at url. isThere is false if url refuses the
// connection.
func (p *patient) askInstance(ctx context.Context, url string) (f finding, isThere bool) {
	alive, err := readyAnswer(ctx, url+"/healthz")
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return f, false
	case err != nil:
		return bad("see what listens there", "%s: %s", url, err), true
	case alive.Status != "alive":
		return bad("stop that, or set PORT", "%s: what listens there is no authd", url), true
	}
	ready, err := readyAnswer(ctx, url+"/readyz")
	switch {
	case err != nil:
		return bad("see its log", "%s: %s", url, err), true
	case len(ready.Fields) > 0:
		return bad("see above, and its log", "%s lives and is not ready: away: %s", url, listed(ready.parts())), true
	case ready.Status == "degraded":
		return doubtful("see its log; JetStream that was switched off comes back with a restart", "%s is ready, and degraded: %s", url, listed(ready.Degraded)), true
	case ready.Status != "ready":
		return bad("see its log", "%s lives and is not ready", url), true
	}
	return good("%s lives and is ready", url), true
}

// probed is a response of /healthz or /readyz, which may be a problem document.
type probed struct {
	Status   status
	Degraded []string
	Fields   []auth.Field
}

func (p probed) parts() (names []string) {
	for _, f := range p.Fields {
		names = append(names, f.Field)
	}
	return names
}

// status is the status word of a response; "" for the numeric status of a problem document.
type status string

func (s *status) UnmarshalJSON(data []byte) error {
	*s = ""
	_ = json.Unmarshal(data, (*string)(s)) // a number leaves it empty
	return nil
}

func readyAnswer(ctx context.Context, url string) (p probed, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return p, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return p, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, auth.MaxRequestBytes))
	if err != nil {
		return p, err
	}
	_ = json.Unmarshal(content, &p) // a response that is not JSON has no status, so it does not come from an authd
	return p, nil
}
