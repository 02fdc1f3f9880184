package admin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/admin"
)

func TestPagesAreServedUntilTheEnd(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	var s admin.Server
	s.Page("/slow", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		_, _ = io.WriteString(w, "done")
	}))
	s.Page("/a", http.NotFoundHandler())
	s.Probes(nil)
	s.Handle("/a/{part}", http.NotFoundHandler())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	get := func(path string) string {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
	if got := get("/"); got != "/a\n/healthz\n/readyz\n/slow\n" {
		t.Errorf("the list is %q", got)
	}
	said := make(chan string, 1)
	go func() { said <- get("/slow") }()
	<-asked
	stop()
	close(answer)
	if got := <-said; got != "done" {
		t.Errorf("a page under way: %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := new(admin.Server).Run(t.Context(), l); err == nil {
		t.Error("it runs on a listener that is closed")
	}
}

func TestProbesTellOfThePartThatIsAway(t *testing.T) {
	t.Parallel()
	var failed error
	var s admin.Server
	s.Probes(func(context.Context) (auth.HealthReply, error) { return auth.HealthReply{Status: "ready"}, failed })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	get := func(path string, status int, body string) {
		t.Helper()
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(content), body) {
			t.Errorf("%s: %d %s, %v", path, resp.StatusCode, content, err)
		}
		if got := resp.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control is %q", path, got)
		}
	}
	get("/readyz", 200, `{"status":"ready"}`)
	failed = auth.ErrUnavailable.With(auth.Field{Field: "database", Reason: "away"})
	get("/readyz", 503, `"fields":[{"field":"database","reason":"away"}]`)
	get("/healthz", 200, `{"status":"alive"}`)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
