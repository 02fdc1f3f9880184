// Package operator is the HTTP listener for whoever runs the service, apart from the one that
// everybody reaches: what is shown there needs no login, so the address has to keep others out.
// Each page is brought by the package that knows what to show.
package operator

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// stopWithin is how long a page may take to be finished when the listener stops.
const stopWithin = 2 * time.Second

// Server serves pages to operators. The zero value has none.
type Server struct {
	mux   http.ServeMux
	pages []string
}

// Handle serves what matches the pattern (see http.ServeMux) by h.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Page is Handle for a page that the list of pages leads to.
func (s *Server) Page(path string, h http.Handler) {
	s.Handle(path, h)
	s.pages = append(s.pages, path)
}

// Run serves over the listener until ctx ends, and then finishes what was asked for.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	s.mux.HandleFunc("GET /{$}", s.index)
	server := &http.Server{
		Handler: &s.mux, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
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
