package bus

import (
	"context"
	"time"

	"github.com/zyotra/auth"
)

// Observer receives each answered request: the code of its refusal, "" for a success, and the time
// that the answer took, 0 if the request was refused unread. The server calls it before it sends the
// reply, so it must be quick. The instance that answers a handed-off request calls its own Observer.
type Observer func(code auth.Code, took time.Duration)

// observer returns the Observer of a subject, one that does nothing if Observe is nil.
func (s *Server) observer(subject string) Observer {
	if s.Observe == nil {
		return func(auth.Code, time.Duration) {}
	}
	return s.Observe(subject)
}

// InFlight returns the number of requests that this instance is answering.
func (s *Server) InFlight() int64 { return s.within.Load() }

// observed calls serve, counts the request as in flight and reports it to observe.
func observed[Req, Resp any](s *Server, observe Observer, op auth.Op[Req, Resp], r request, fn func(context.Context, Req) (Resp, error)) ([]byte, error) {
	s.within.Add(1)
	defer s.within.Add(-1)
	began := time.Now()
	data, err := serve(s, op, r, fn)
	observe(codeOf(err), time.Since(began))
	return data, err
}

// codeOf returns the code that the caller receives, "" for no error.
func codeOf(err error) auth.Code {
	if err == nil {
		return ""
	}
	return auth.Public(err).Code
}
