package bus

import (
	"context"
	"time"

	"github.com/zyotra/auth"
)

// Observer hears of each request that was answered: the code of its refusal, "" if it was not
// refused, and how long the answer took, 0 if it was refused unread. It is called on the way to the caller, so it must be
// quick. A request that another instance took over is heard of there.
type Observer func(code auth.Code, took time.Duration)

// observer is what watches the requests of a subject.
func (s *Server) observer(subject string) Observer {
	if s.Observe == nil {
		return func(auth.Code, time.Duration) {}
	}
	return s.Observe(subject)
}

// InFlight is how many requests are being answered here.
func (s *Server) InFlight() int64 { return s.within.Load() }

// observed is serve, watched.
func observed[Req, Resp any](s *Server, observe Observer, op auth.Op[Req, Resp], r request, fn func(context.Context, Req) (Resp, error)) ([]byte, error) {
	s.within.Add(1)
	defer s.within.Add(-1)
	began := time.Now()
	data, err := serve(s, op, r, fn)
	observe(codeOf(err), time.Since(began))
	return data, err
}

// codeOf is the code that a caller is told, "" for no error.
func codeOf(err error) auth.Code {
	if err == nil {
		return ""
	}
	return auth.Public(err).Code
}
