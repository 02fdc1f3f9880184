package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/persistence"
)

// The commands of operators, as people type them, beside a running instance.
func TestUsersCommands(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.post(t, "/register", strings.Replace(credentials, "}", `,"name":"Ada"}`, 1))
	for _, name := range []string{"bob", "eve"} {
		a.post(t, "/register", strings.Replace(credentials, "ada", name, 1))
	}
	for range 2 {
		a.post(t, "/login", credentials)
	}
	empty := externalNATS(t, server.Options{})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/users", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("NATS_LISTEN", strings.TrimPrefix(a.nats, "nats://"))
			env.Setenv("DATA_DIR", filepath.Join(a.dir, "data"))
			env.Setenv("EMPTY_NATS", empty)
			return nil
		},
	})
}

// operated are the ways to run the service, each with an operator's connection.
var operated = map[string]func(*testing.T) (*instance, *nats.Conn){
	"SQLite and embedded bus": func(t *testing.T) (*instance, *nats.Conn) {
		a := start(t, "--rate-limits=off")
		return a, asAdmin(t, a)
	},
	"Postgres and embedded bus": func(t *testing.T) (*instance, *nats.Conn) {
		a := start(t, append(withPostgres(testpg.URL(t)), "--rate-limits=off")...)
		return a, asAdmin(t, a)
	},
	"Postgres and external bus": func(t *testing.T) (*instance, *nats.Conn) {
		a := deployments["Postgres and external bus"](t)
		return a, connect(t, a.nats)
	},
	"edge and handlers apart": func(t *testing.T) (*instance, *nats.Conn) {
		edge, handlers := startApart(t, "--rate-limits=off")
		return edge, asAdmin(t, handlers)
	},
}

// Both doors, every request of a session and a verifier in another process: this one.
func TestADisabledUserIsRefusedAtEveryDoor(t *testing.T) {
	t.Parallel()
	for name, deploy := range operated {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, operator := deploy(t)
			disableAndEnable(t, a, operator)
		})
	}
}

func disableAndEnable(t *testing.T, a *instance, operator *nats.Conn) {
	app := connect(t, a.nats)
	told, err := app.SubscribeSync("user.*")
	check(t, err)
	verifier := connect(t, a.nats)
	// It does not catch up while the test runs, so what it refuses it was told.
	v, err := bus.NewVerifier(verifier, bus.VerifierConfig{Issuer: "http://localhost:3000", Audience: "zyotra", MaxStaleness: 10 * patience})
	check(t, err)
	t.Cleanup(func() { check(t, v.Close()) })
	check(t, v.Ready(t.Context()))
	check(t, app.Flush())

	signUp(t, a)
	login := a.post(t, "/login", credentials)
	access, session := login.member(t, "accessToken"), login.member(t, "sessionId")
	refresh := `{"refreshToken":"` + login.member(t, "refreshToken") + `"}`
	page := from(a)
	page.send(t, "POST /login", cookieLogin)
	_, err = v.Verify(t.Context(), access)
	check(t, err)
	heard(t, told, "user.registered", "1")

	ask(t, operator, "auth.admin.users.disable", nil, `{"userId":1}`).replied(t, `{"disabledAt":"<time>","ended":3}`)
	ask(t, operator, "auth.admin.users.disable", nil, `{"userId":1}`).replied(t, `{"disabledAt":"<time>","ended":0}`)
	until(t, "the verifier refuses", func() bool {
		_, err := v.Verify(t.Context(), access)
		return errors.Is(err, auth.ErrTokenRevoked)
	})
	// The edge has a verifier of its own, which may be in another process than the handlers.
	until(t, "the edge refuses", func() bool { return a.get(t, "/verify", access).Answer.Status == 401 })

	a.post(t, "/login", credentials).refused(t, 401, "invalid_credentials", "")
	a.post(t, "/login", `{"email":"ada@example.com","password":"wrong"}`).refused(t, 401, "invalid_credentials", "")
	ask(t, app, "auth.login", nil, credentials).refused(t, 401, "invalid_credentials", "")
	from(a).send(t, "POST /login", cookieLogin).refused(t, 401, "invalid_credentials", "")
	a.post(t, "/refresh", refresh).refused(t, 401, "token_revoked", "")
	ask(t, app, "auth.refresh", nil, refresh).refused(t, 401, "token_revoked", "")
	page.send(t, "POST /refresh", "").refused(t, 401, "token_revoked", "")
	page.send(t, "GET /me", "").refused(t, 401, "token_revoked", "")
	for _, b := range bound {
		if b.subject == "auth.logout" {
			continue // which is as good as done
		}
		fill := strings.NewReplacer("<session>", session, "<token>", access).Replace
		header := bearer(access)
		if b.body != "" && !strings.Contains(b.body, "<") {
			header["Content-Type"] = []string{"application/json"}
			a.do(t, b.route, header, b.body).refused(t, 401, "token_revoked", "")
		} else {
			a.do(t, fill(b.route), header, "").refused(t, 401, "token_revoked", "")
		}
		ask(t, app, b.subject, bearer(access), fill(b.body)).refused(t, 401, "token_revoked", "")
	}

	ask(t, operator, "auth.admin.users.enable", nil, `{"userId":1}`).replied(t, `{}`)
	ask(t, operator, "auth.admin.users.enable", nil, `{"userId":1}`).replied(t, `{}`)
	again := a.post(t, "/login", credentials).member(t, "accessToken")
	a.get(t, "/verify", again).answered(t, 200, verified)
	_, err = v.Verify(t.Context(), again)
	check(t, err)
	a.get(t, "/verify", access).refused(t, 401, "token_revoked", "")
	ask(t, operator, "auth.admin.users.set_password", nil, `{"userId":1,"password":"staple battery correct"}`).replied(t, `{"ended":1}`)
	until(t, "the verifier refuses", func() bool {
		_, err := v.Verify(t.Context(), again)
		return errors.Is(err, auth.ErrTokenRevoked)
	})
	a.post(t, "/login", credentials).refused(t, 401, "invalid_credentials", "")
	for _, kind := range []string{"user.disabled", "user.enabled", "user.password_changed"} { // once each
		heard(t, told, kind, "1")
	}
}

// Everyone but the admin is stopped by the server, before anybody could answer.
func TestOnlyOperatorsMayAskForUsers(t *testing.T) {
	t.Parallel()
	a := startInside(t)
	signUp(t, a)
	for _, role := range embedded.Roles() {
		options := []nats.Option{nats.CustomInboxPrefix(role.InboxPrefix)}
		if role.Name != embedded.App {
			options = append(options, embedded.Credentials(filepath.Join(a.dir, "data", "nats"), role.Name))
		}
		conn := connect(t, a.nats, options...)
		violation := make(chan error, 1)
		conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violation <- err })
		asked := 0
		for subject := range asyncAPIOperations(t) {
			if !strings.HasPrefix(subject, "auth.admin.") {
				continue
			}
			asked++
			if role.Name == embedded.Admin {
				ask(t, conn, subject, nil, `{"userId":0}`)
				continue
			}
			check(t, conn.PublishRequest(subject, conn.NewInbox(), []byte(`{"userId":1}`)))
			if err := <-violation; !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s asks %s: %v", role.Name, subject, err)
			}
		}
		if asked != 6 {
			t.Errorf("%d subjects", asked)
		}
	}
	ask(t, asAdmin(t, a), "auth.admin.users.get", nil, `{"userId":1}`).replied(t, `{"userId":1,"email":"ada@example.com","emailVerified":false,"name":"","createdAt":"<time>","updatedAt":"<time>","sessions":1}`)
}

// The list goes on from page to page.
func TestUsersListShowsEverybody(t *testing.T) {
	t.Parallel()
	a := start(t)
	const n = 1201
	store, err := persistence.Open(t.Context(), "sqlite://"+a.dir+"/data/authd.db")
	check(t, err)
	check(t, store.Tx(t.Context(), func(ctx context.Context, tx *persistence.Store) error {
		for i := range n {
			if _, err := tx.CreateUser(ctx, persistence.NewUser{EmailKey: fmt.Sprint(i), At: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
	check(t, store.Close())
	for limit, want := range map[string]int{"0": n, "1000": 1000, "1001": 1001, "5000": n} {
		said := command(t, t.TempDir(), append([]string{"users", "list", "--json", "--limit=" + limit}, a.reach()...)...)
		if lines := strings.Count(said, "\n"); lines != want || !strings.HasPrefix(said, `{"userId":1,`) {
			t.Errorf("--limit=%s: %d lines", limit, lines)
		}
	}
}
