package operations_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/zyotra/auth/bus/embedded"
	"github.com/zyotra/auth/internal/testauthd"
	"github.com/zyotra/auth/internal/testcert"
	"github.com/zyotra/auth/internal/testnats"
	"github.com/zyotra/auth/internal/testpg"
)

// doesNotStart wants an authd that ends at once and says why.
func doesNotStart(t *testing.T, flags []string, said ...string) {
	t.Helper()
	args := slices.Concat([]string{"serve"}, testauthd.ListenAnywhere(), flags)
	testauthd.Execute(t, t.TempDir(), testauthd.Command(t, testauthd.Owned, args...)).Refused(t, 1, said...)
}

// The certificate of the bus is checked against NATS_TLS_CA, whichever scheme its URL has.
func TestBusWithTLS(t *testing.T) {
	t.Parallel()
	ca, other := testcert.New(t), testcert.New(t)
	keys := t.TempDir() + "/keys"
	config := func(tls string) string {
		text, err := embedded.External{Dir: keys, TLS: tls}.Config()
		check(t, err)
		return text
	}
	edgeAt := func(url, ca string) []string {
		flags := []string{"--edge", "--nats-nkey-seed-file=" + keys, "--nats-url=" + url}
		if ca != "" {
			flags = append(flags, "--nats-tls-ca="+ca)
		}
		return flags
	}
	bus := testnats.Start(t, testnats.Config{Text: testnats.Moved(config(ca.Dir))})
	for _, url := range []string{bus.URL(), strings.Replace(bus.URL(), "nats", "tls", 1)} {
		edge := testauthd.Start(t, append([]string{"serve"}, edgeAt(url, ca.CAFile())...)...)
		edge.Get(t, "/verify", "").Refused(t, 401, "unauthenticated", "")
		for _, authority := range []string{other.CAFile(), ""} {
			doesNotStart(t, edgeAt(url+","+url, authority), "NATS_URL", "certificate signed by unknown authority", "NATS_TLS_CA names")
		}
	}
	doesNotStart(t, edgeAt(strings.Replace(bus.URL(), "127.0.0.1", "localhost", 1), ca.CAFile()), "NATS_URL", "wanted to match localhost")

	plain := testnats.Start(t, testnats.Config{Text: testnats.Moved(config(""))})
	doesNotStart(t, edgeAt(plain.URL(), ca.CAFile()), "NATS_URL", "the server has no TLS")
	doesNotStart(t, edgeAt(strings.Replace(plain.URL(), "nats", "tls", 1), ""), "NATS_URL", "the server has no TLS")
}

// The certificate of the database is checked if its URL says so.
func TestDatabaseWithTLS(t *testing.T) {
	t.Parallel()
	ca, other := testcert.New(t), testcert.New(t)
	certificate, key := ca.Issue(t, "database", "127.0.0.1")
	server, err := testpg.Start(t.Context(), testpg.Config{Certificate: certificate, Key: key})
	check(t, err)
	t.Cleanup(server.Close)
	with := func(mode, ca string) []string {
		query := url.Values{"sslmode": {mode}}
		if ca != "" {
			query.Set("sslrootcert", ca)
		}
		return testauthd.WithPostgres(strings.Replace(server.URL, "sslmode=disable", query.Encode(), 1))
	}
	a := testauthd.Start(t, with("verify-full", ca.CAFile())...)
	testauthd.SignUp(t, a)
	doesNotStart(t, with("verify-full", other.CAFile()), "DATABASE_URL", "certificate signed by unknown authority")
	doesNotStart(t, with("verify-full", ""), "DATABASE_URL", "certificate signed by unknown authority")
	named := strings.Replace(strings.Join(with("verify-full", ca.CAFile())[:1], ""), "127.0.0.1", "localhost", 1)
	doesNotStart(t, append(with("", "")[1:], named), "DATABASE_URL", "wanted to match localhost")
	doesNotStart(t, with("verify-full", ca.Dir+"/missing.pem"), "DATABASE_URL", "missing.pem")
}
