package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// NATS deals requests out among instances without looking at what they can do. One that is cut off
// from its database would fail its share of everybody's requests, for as long as nobody takes it
// away. So it asks another in its place: each instance that is able listens for that.

const (
	// watchEvery is how often an instance makes sure that it is able.
	watchEvery = time.Second
	// watchTimeout is how long it may take to answer that.
	watchTimeout = 2 * time.Second
	// awayPrefix stands before the subjects on which able instances are asked for a place by those
	// that are not.
	awayPrefix = "auth.place.away."
)

// watch asks Able again and again until ctx ends. While it says no, requests are handed over.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		err := s.isAble(ctx)
		if ctx.Err() != nil {
			return
		}
		if unable := err != nil; s.unable.Swap(unable) != unable {
			s.tellAble(err)
			s.changed() // what is offered to others
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) isAble(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	return s.Able(ctx)
}

func (s *Server) tellAble(err error) {
	if err != nil {
		s.log.Warn("requests are given to other instances, if there are any", "err", err)
		return
	}
	s.log.Info("requests are answered here again")
}

// away takes requests over from instances that are not able while this one is.
func (s *Server) away(q *queued, answer func(request) *nats.Msg) *taker {
	able := func() bool { return s.Able != nil && !s.unable.Load() }
	return &taker{
		queued:  q,
		subject: within(awayPrefix, q.subject),
		ready:   able,
		begin:   able,
		answer:  answer,
		giveUp:  func() {},
	}
}

// instead has a request answered by an able instance if this one is not. It returns nil if it is
// to be answered here all the same: there is no other.
func (s *Server) instead(q *queued, r request) *nats.Msg {
	if !s.unable.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.patience())
	defer cancel()
	for ctx.Err() == nil {
		m, err := s.handOver(ctx, q, within(awayPrefix, q.subject), r)
		if !errors.Is(err, errNoPlace) && !errors.Is(err, context.DeadlineExceeded) {
			return m
		}
	}
	return nil
}

// pass answers a request with the reply of another instance.
func (s *Server) pass(r micro.Request, m *nats.Msg) {
	err := error(nil)
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		err = r.Error(code, m.Header.Get(micro.ErrorHeader), m.Data)
	} else {
		err = r.Respond(m.Data)
	}
	if err != nil {
		s.noise.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}
