package password_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth/internal/password"
)

// leaked is a password that the server knows, and no list of ours.
const leaked = "Zoë's old password"

func sha1Of(pw string) string { return fmt.Sprintf("%X", sha1.Sum([]byte(pw))) }

// asker is a Hasher that asks a server of the test, and the log of that.
type asker struct {
	*password.Hasher
	log   *bytes.Buffer
	now   time.Time
	asked atomic.Int64
}

func newAsker(t *testing.T, answer http.HandlerFunc) *asker {
	t.Helper()
	a := &asker{Hasher: newHasher(t), log: &bytes.Buffer{}, now: time.Now()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	pwned := password.NewPwned(server.URL+"/range", "authd/test", slog.New(slog.NewTextHandler(a.log, nil)))
	pwned.Now = func() time.Time { return a.now }
	t.Cleanup(func() { pwned.Close() })
	a.Pwned = pwned
	return a
}

// ranges answers as the public server does.
func ranges(w http.ResponseWriter, r *http.Request) {
	prefix, asked := strings.CutPrefix(r.URL.Path, "/range/")
	if !asked || len(prefix) != 5 || r.Method != http.MethodGet || r.Header.Get("Add-Padding") != "true" || r.Header.Get("User-Agent") != "authd/test" {
		http.Error(w, "not the protocol", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "0018A45C4D1DEF81644B54AB7F969B88D65:10\r\n")
	if rest, found := strings.CutPrefix(sha1Of(leaked), prefix); found {
		fmt.Fprintf(w, "%s:3\r\n", rest)
	}
	if rest, found := strings.CutPrefix(sha1Of("a padded password"), prefix); found {
		fmt.Fprintf(w, "%s:0\r\n", rest)
	}
	fmt.Fprintf(w, "FFFFF45C4D1DEF81644B54AB7F969B88D65:0")
}

// quiet wants nothing of the password in a text.
func quiet(t *testing.T, text, pw string) {
	t.Helper()
	if strings.Contains(text, pw) || strings.Contains(strings.ToUpper(text), sha1Of(pw)[:5]) {
		t.Errorf("tells of the password: %s", text)
	}
}

func TestPasswordsThatBecameKnownAreRefused(t *testing.T) {
	a := newAsker(t, ranges)
	for pw, reason := range map[string]string{
		leaked: "too_common", strings.ReplaceAll(leaked, "ë", "e\u0308"): "too_common",
		"zoë's old password": "", "a padded password": "", "correct horse battery": "",
	} {
		if got := a.Check(t.Context(), pw); got != reason {
			t.Errorf("%q: got %q, want %q", pw, got, reason)
		}
	}
	if a.log.Len() > 0 {
		t.Errorf("logged: %s", a.log)
	}
}

func TestNobodyIsAskedAboutWhatIsRefusedAnyway(t *testing.T) {
	a := newAsker(t, ranges)
	for _, pw := range []string{"short", strings.Repeat("x", 257), "password\x00", "football", "ada@example.com"} {
		if a.Check(t.Context(), pw, "ada@example.com") == "" {
			t.Errorf("%q is taken", pw)
		}
	}
	if n := a.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// Whatever the server does, the password is taken, the log says so once, and nobody waits for
// the server again until the pause is over.
func TestAServerThatFailsIsLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
		"hangs in between": {func(w http.ResponseWriter, r *http.Request) {
			ranges(w, r)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "deadline exceeded"},
		"fails":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "status 500"},
		"has enough of us": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, "status 429"},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere"+r.URL.Path, http.StatusFound)
		}, "redirects are not followed"},
		"is huge":          {func(w http.ResponseWriter, r *http.Request) { huge(w) }, "too large"},
		"is one long line": {func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte("A"), 100<<10)) }, "no range"},
		"is a page":        {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<h1>Please log in</h1>\n")) }, "no range"},
		"hangs up":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"says more than it sends": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			ranges(w, r)
		}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAsker(t, tt.answer)
			for range 3 {
				if reason := a.Check(t.Context(), leaked); reason != "" {
					t.Errorf("refused: %s", reason)
				}
			}
			if n := a.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			log := a.log.String()
			if strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, tt.says) {
				t.Errorf("logged: %s", log)
			}
			quiet(t, log, leaked)
		})
	}
}

// huge is a range without end.
func huge(w http.ResponseWriter) {
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(w, "%035X:1\r\n", i); err != nil {
			return
		}
	}
}

func TestAServerThatComesBackIsAskedAgain(t *testing.T) {
	var away atomic.Bool
	a := newAsker(t, func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(503)
			return
		}
		ranges(w, r)
	})
	check := func(pause time.Duration, reason string, asked int64) {
		t.Helper()
		a.now = a.now.Add(pause)
		a.asked.Store(0)
		if got := a.Check(t.Context(), leaked); got != reason || a.asked.Load() != asked {
			t.Errorf("got %q, asked %d times", got, a.asked.Load())
		}
	}
	away.Store(true)
	check(0, "", 1)
	check(29*time.Second, "", 0)
	check(2*time.Second, "", 1)
	away.Store(false)
	check(29*time.Second, "", 0)
	check(2*time.Second, "too_common", 1)
	check(0, "too_common", 1)
	if log := a.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, "answer again") || !strings.Contains(log, "unasked=4") {
		t.Errorf("logged: %s", log)
	}
}

// While one finds out whether the server is back, the others do not wait for it.
func TestOneAloneFindsOutWhetherTheServerIsBack(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var back atomic.Bool
	a := newAsker(t, func(w http.ResponseWriter, r *http.Request) {
		if !back.Load() {
			w.WriteHeader(503)
			return
		}
		close(entered)
		<-release
		ranges(w, r)
	})
	a.Check(t.Context(), leaked)
	a.now = a.now.Add(31 * time.Second)
	back.Store(true)
	var first string
	var wait sync.WaitGroup
	wait.Go(func() { first = a.Check(t.Context(), leaked) })
	<-entered
	if reason := a.Check(t.Context(), leaked); reason != "" {
		t.Errorf("the second: %q", reason)
	}
	close(release)
	wait.Wait()
	if first != "too_common" || a.asked.Load() != 2 {
		t.Errorf("the first: %q, asked %d times", first, a.asked.Load())
	}
}

// A caller who goes says nothing about the server.
func TestACallerWhoGoesDoesNotCount(t *testing.T) {
	entered := make(chan struct{}, 1)
	var patient atomic.Bool
	a := newAsker(t, func(w http.ResponseWriter, r *http.Request) {
		if !patient.Load() {
			entered <- struct{}{}
			<-r.Context().Done()
			return
		}
		ranges(w, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	a.Check(ctx, leaked)
	patient.Store(true)
	if reason := a.Check(t.Context(), leaked); reason != "too_common" {
		t.Errorf("got %q", reason)
	}
	if a.log.Len() > 0 {
		t.Errorf("logged: %s", a.log)
	}
}
