// Package events_test reads the events of authd with the SDK of CloudEvents, as other services may.
package events_test

import (
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
)

// In every event, the SDK reads the attributes and the data that the headers and the body hold.
func TestTheCloudEventsSDKReadsTheEvents(t *testing.T) {
	t.Parallel()
	for name, deploy := range map[string]func(*testing.T) *testauthd.Instance{
		"SQLite and embedded bus": func(t *testing.T) *testauthd.Instance { return testauthd.Start(t) },
		"Postgres and embedded bus": func(t *testing.T) *testauthd.Instance {
			return testauthd.Start(t, testauthd.WithPostgres(testpg.URL(t))...)
		},
		"Postgres and external bus": func(t *testing.T) *testauthd.Instance {
			bus := "--nats-url=" + testauthd.ExternalNATS(t, testauthd.WithJetStream(t))
			return testauthd.Start(t, append(testauthd.WithPostgres(testpg.URL(t)), bus)...)
		},
		"edge and handlers apart": func(t *testing.T) *testauthd.Instance {
			edge, handlers := testauthd.StartApart(t)
			edge.Dir = handlers.Dir // of the credentials
			return edge
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t, deploy(t))
		})
	}
}

// story makes changes of a user and reads the event of each.
func story(t *testing.T, a *testauthd.Instance) {
	app, admin := testauthd.Connect(t, a.NATS), a.AsRole(t, embedded.Admin)
	users, err := app.SubscribeSync("user.>")
	testauthd.Check(t, err)
	sessions, err := app.SubscribeSync("session.>")
	testauthd.Check(t, err)
	testauthd.Check(t, app.Flush())

	a.Post(t, "/register", testauthd.Credentials).Done(t)
	reads(t, users, "user.registered")
	own := testauthd.Bearer(a.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken"))
	reads(t, sessions, "session.created")
	a.Do(t, "POST /logout", own, "").Done(t)
	reads(t, sessions, "session.revoked")
	for _, change := range []struct{ subject, body, kind string }{
		{"auth.admin.users.disable", `{"userId":1}`, "user.disabled"},
		{"auth.admin.users.enable", `{"userId":1}`, "user.enabled"},
		{"auth.admin.users.set_password", `{"userId":1,"password":"staple battery correct"}`, "user.password_changed"},
	} {
		testauthd.Ask(t, admin, change.subject, nil, change.body).Done(t)
		reads(t, users, change.kind)
	}
}

// reads waits for the next event and compares its headers and data with the event that the SDK reads.
func reads(t *testing.T, sub *nats.Subscription, kind string) {
	t.Helper()
	m, err := sub.NextMsg(testauthd.Patience)
	testauthd.Check(t, err)
	testauthd.Check(t, testauthd.EventAsDescribed(m.Subject, m.Header, m.Data))
	e, err := binding.ToEvent(t.Context(), nats_jetstream.NewMessage(m))
	testauthd.Check(t, err)
	testauthd.Check(t, e.Validate())
	at, err := time.Parse(time.RFC3339, m.Header.Get("ce-time"))
	testauthd.Check(t, err)
	if e.Type() != kind || e.Subject() != "1" || e.ID() != m.Header.Get("ce-id") || e.Source() != "/zyotra/auth" || !e.Time().Equal(at) ||
		string(e.Data()) != string(m.Data) || e.DataContentType() != "application/json" || e.SpecVersion() != "1.0" {
		t.Errorf("the SDK reads %s\nof %v %s", e, m.Header, m.Data)
	}
}
