package operations_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/zyotra/auth/internal/secret"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testpg"
)

// login begins a session and returns its access token and the kid that signed it.
func login(t *testing.T, a *testauthd.Instance) (token, kid string) {
	t.Helper()
	token = a.Post(t, "/login", testauthd.Credentials).Member(t, "accessToken")
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	check(t, err)
	var header struct{ Kid string }
	check(t, json.Unmarshal(head, &header))
	return token, header.Kid
}

// published are the kids in the key set.
func published(t *testing.T, a *testauthd.Instance) (kids []string) {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	check(t, json.Unmarshal([]byte(a.Get(t, "/.well-known/jwks.json", "").Answer.Body), &set))
	for _, key := range set.Keys {
		kids = append(kids, key.Kid)
	}
	return kids
}

// Each instance has a bus of its own, so that it is known who signs and who verifies.
func TestKeysChangeBesideRunningInstances(t *testing.T) {
	t.Parallel()
	url := testpg.URL(t)
	run := func() *testauthd.Instance {
		return testauthd.Start(t, append(testauthd.WithPostgres(url), "--nats-url="+testauthd.ExternalNATS(t, server.Options{}))...)
	}
	keys := func(args ...string) string {
		t.Helper()
		return testauthd.Run(t, t.TempDir(), append(append([]string{"keys"}, args...), "--database-url="+url, "--secret-key="+testauthd.MasterSecret)...)
	}
	a := run()
	b := run()
	testauthd.SignUp(t, a)
	token, first := login(t, a)
	every := func(what string, so func(*testauthd.Instance) bool) {
		t.Helper()
		testauthd.Until(t, what, func() bool { return so(a) && so(b) })
	}

	next, _, _ := strings.Cut(keys("rotate", "--now"), " ")
	every("both publish both keys", func(i *testauthd.Instance) bool { return slices.Equal(published(t, i), []string{next, first}) })
	for _, i := range []*testauthd.Instance{a, b} {
		if _, kid := login(t, i); kid != next {
			t.Errorf("signed with %s, want %s", kid, next)
		}
		i.Get(t, "/verify", token).Answered(t, 200, testauthd.Verified)
	}

	check(t, b.Signal(syscall.SIGKILL))
	b.Wait(t, testauthd.Patience)
	keys("retire", first)
	b = run()
	every("both publish the new key alone", func(i *testauthd.Instance) bool { return slices.Equal(published(t, i), []string{next}) })
	fresh, _ := login(t, b)
	every("both refuse what the old one signed", func(i *testauthd.Instance) bool { return i.Get(t, "/verify", token).Answer.Status == 401 })
	for _, i := range []*testauthd.Instance{a, b} {
		i.Get(t, "/verify", token).Refused(t, 401, "invalid_token", "")
		i.Get(t, "/verify", fresh).Answered(t, 200, testauthd.Verified)
	}
}

func TestTheGeneratedSecretIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := testauthd.Launch(t, dir).Ready(t)
	testauthd.SignUp(t, a)
	a.Stop(t)
	name := filepath.Join(dir, "data", "secret.key")
	former, err := os.ReadFile(name)
	check(t, err)
	put := func(text string) { t.Helper(); check(t, os.WriteFile(name, []byte(text+"\n"), 0o600)) }

	next := secret.Generate()
	put(next)
	testauthd.Launch(t, dir).Refused(t, 2, "SECRET_KEY is not the one")
	put(next + "," + strings.TrimSpace(string(former)))
	a = testauthd.Launch(t, dir).Ready(t)
	if strings.Contains(a.Stderr.String(), "can go") {
		t.Error("the former one is given up before everything is sealed anew")
	}
	if said := testauthd.Run(t, dir, "keys", "reseal"); !strings.Contains(said, "signing keys 1, peppers 1") {
		t.Errorf("while the service runs: %s", said)
	}
	a.Stop(t)
	a = testauthd.Launch(t, dir).Ready(t)
	a.Line(t, "the second SECRET_KEY can go")
	a.Stop(t)

	put(next)
	a = testauthd.Launch(t, dir).Ready(t)
	for range 2 { // the first one stores the password afresh
		token, _ := login(t, a)
		a.Get(t, "/verify", token).Answered(t, 200, testauthd.Verified)
	}
	a.Stop(t)
}
