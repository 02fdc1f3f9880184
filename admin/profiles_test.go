package admin_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/zyotra/auth/admin"
)

func profile(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	admin.Profiles().ServeHTTP(w, httptest.NewRequest("GET", admin.ProfilesPath+path, nil))
	return w
}

func TestProfilesAreListedAndServed(t *testing.T) {
	t.Parallel()
	const gzip = "\x1f\x8b"
	list := profile("").Body.String()
	for _, name := range []string{"heap", "goroutine", "allocs", "block?seconds=1", "mutex?seconds=1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if w := profile(name); w.Code != 200 || !strings.HasPrefix(w.Body.String(), gzip) {
				t.Errorf("%d %.100q", w.Code, w.Body)
			}
			path, _, _ := strings.Cut(name, "?")
			if !strings.Contains(list, admin.ProfilesPath+path+"\n") {
				t.Errorf("it is not in the list:\n%s", list)
			}
		})
	}
}

// Flags may hold the master secret.
func TestTheCommandLineIsNoProfile(t *testing.T) {
	t.Parallel()
	if w := profile("cmdline"); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
