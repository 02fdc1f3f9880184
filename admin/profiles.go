package admin

import (
	"fmt"
	"net/http"
	httpprof "net/http/pprof"
	"runtime"
	"runtime/pprof"
	"sync"
)

// ProfilesPath is where Profiles is served.
const ProfilesPath = "/debug/pprof/"

const (
	// blockedFor is of which length, in nanoseconds, one wait is noted while a block profile is made.
	blockedFor = 10_000
	// oneIn is of how many contended locks one is noted while a mutex profile is made.
	oneIn = 10
	// contentionSeconds is how long such a profile is made if nobody says.
	contentionSeconds = "10"
)

// Profiles serves the profiles of this process, as "go tool pprof" reads them: profile is where the
// cores are, for ?seconds=30; trace is all that happens in a second; block and mutex are where
// goroutines waited for each other in the next ?seconds=10, and are only noted in that time; all
// others, as heap and goroutine, are how things are. What net/http/pprof has besides is left
// out: the command line may hold a secret.
func Profiles() http.Handler {
	var p profiles
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ProfilesPath+"{$}", listProfiles)
	mux.HandleFunc("GET "+ProfilesPath+"profile", httpprof.Profile)
	mux.HandleFunc("GET "+ProfilesPath+"trace", httpprof.Trace)
	mux.HandleFunc("GET "+ProfilesPath+"block", p.contention("block", runtime.SetBlockProfileRate, blockedFor))
	mux.HandleFunc("GET "+ProfilesPath+"mutex", p.contention("mutex", setMutexFraction, oneIn))
	mux.HandleFunc("GET "+ProfilesPath+"{name}", func(w http.ResponseWriter, r *http.Request) {
		httpprof.Handler(r.PathValue("name")).ServeHTTP(w, r)
	})
	return mux
}

// profiles lets one profile of waiting be made at a time: there is one rate for the process.
type profiles struct{ making sync.Mutex }

// contention makes a profile of what happens from now on, at a rate that is 0 otherwise.
func (p *profiles) contention(name string, set func(int), rate int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !p.making.TryLock() {
			http.Error(w, "another profile is being made", http.StatusServiceUnavailable)
			return
		}
		defer p.making.Unlock()
		query := r.URL.Query()
		if query.Get("seconds") == "" {
			query.Set("seconds", contentionSeconds)
			r.URL.RawQuery = query.Encode()
		}
		set(rate)
		defer set(0)
		httpprof.Handler(name).ServeHTTP(w, r)
	}
}

func setMutexFraction(one int) { runtime.SetMutexProfileFraction(one) }

// listProfiles lists what can be asked for.
func listProfiles(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, name := range []string{"profile", "trace"} {
		_, _ = fmt.Fprintln(w, ProfilesPath+name)
	}
	for _, profile := range pprof.Profiles() {
		_, _ = fmt.Fprintln(w, ProfilesPath+profile.Name())
	}
}
