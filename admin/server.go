// Package admin is the HTTP listener for operators, apart from the one that everybody reaches. Its
// pages need no login, so its address has to keep others out. Each page comes from the package that
// knows what to show.
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zyotra/auth/internal/accept"
)

// stopWithin is how long a page may take to be finished when the listener stops.
const stopWithin = 2 * time.Second

// Server serves pages to operators. Log is required; a Server without pages serves their empty list.
type Server struct {
	Log *slog.Logger

	mux   http.ServeMux
	pages []string
}

// Handle serves by h the requests that match the pattern (see http.ServeMux), to clients that ask for
// an IP address or localhost: a page of another site could let its own name lead to this machine and
// then read the answers (DNS rebinding).
func (s *Server) Handle(pattern string, h http.Handler) {
	s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isDirect(r.Host) {
			http.Error(w, "Ask for an IP address or localhost: pages for operators are not served under other names.", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	}))
}

// isDirect reports whether the header Host is an IP address or localhost, with or without a port.
func isDirect(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	return name == "localhost" || net.ParseIP(strings.Trim(name, "[]")) != nil
}

// Page is Handle for a page that is in the list of pages.
func (s *Server) Page(path string, h http.Handler) {
	s.Handle(path, h)
	s.pages = append(s.pages, path)
}

// Run serves over the listener until ctx ends, and then finishes what was asked for.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	s.Handle("GET /{$}", http.HandlerFunc(s.index))
	server := &http.Server{
		Handler: &s.mux, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(accept.New(l, s.Log)) }()
	select {
	case err := <-ended:
		return fmt.Errorf("operator's listener: %w", err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if server.Shutdown(stopping) != nil {
		_ = server.Close() // somebody reads slowly, and is cut off
	}
	<-ended
	return nil
}

// index lists the pages.
func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, page := range slices.Sorted(slices.Values(s.pages)) {
		_, _ = fmt.Fprintln(w, page) // whoever asked has gone
	}
}
