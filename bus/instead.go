package bus

import (
	"context"
	"strings"
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
	// insteadPrefix stands before the subjects on which able instances take requests from others.
	insteadPrefix = "auth.spare.away."
	// insteadGroup is their queue group.
	insteadGroup = "away"
)

// taker is a subject whose requests are taken from instances that are not able.
type taker struct {
	*queued
	answer func(request) *nats.Msg
	sub    *nats.Subscription // nil while this instance is not able
}

func insteadOf(subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	return insteadPrefix + rest
}

// watch asks Able again and again until ctx ends, and listens for the requests of others while it
// says yes.
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
			s.changed() // the offer of spare cores goes with it
		}
		if err := s.take(); err != nil && ctx.Err() == nil {
			s.log.Error("offer to take requests over", "err", err)
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

// take listens for requests of others, or no more.
func (s *Server) take() (err error) {
	for _, t := range s.takers {
		switch unable := s.unable.Load(); {
		case unable && t.sub != nil:
			err, t.sub = t.sub.Drain(), nil // what is on its way is still taken
		case !unable && t.sub == nil:
			t.sub, err = s.conn.QueueSubscribe(insteadOf(t.subject), insteadGroup, s.takeInstead(t))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeInstead answers what comes from an instance that is not able.
func (s *Server) takeInstead(t *taker) nats.MsgHandler {
	return func(m *nats.Msg) {
		if s.isAnswerable(m.Subject, m.Reply) {
			s.answerLater(t.queued, m.Reply, request{m.Data, m.Header}, t.answer)
		}
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
	return s.askAnother(ctx, q, insteadOf(q.subject), r, time.Now())
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
		s.log.Error("reply lost", "subject", r.Subject(), "err", err)
	}
}
