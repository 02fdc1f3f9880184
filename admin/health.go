package admin

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/problem"
)

// Probes serves /healthz, which answers 200 while the process lives, and /readyz, which does while
// ready returns no error, and otherwise names the part that is away. They are the edge's, for
// processes without one, and answer under every name: a load balancer may probe by one.
func (s *Server) Probes(ready func(context.Context) (auth.HealthReply, error)) {
	s.probe("/healthz", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tell(w, auth.HealthReply{Status: "alive"})
	}))
	s.probe("/readyz", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply, err := ready(r.Context())
		if err != nil {
			refuse(w, err)
			return
		}
		tell(w, reply)
	}))
}

func (s *Server) probe(path string, h http.Handler) {
	s.mux.Handle(path, h)
	s.pages = append(s.pages, path)
}

func tell(w http.ResponseWriter, reply auth.HealthReply) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(reply) // whoever asked has gone
}

func refuse(w http.ResponseWriter, err error) {
	p := problem.Of(err)
	for name, value := range p.Header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body) // whoever asked has gone
}
