package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
)

// An instance hands a request over when another can do more for it: because it has cores to spare
// (queue.go), or because this one is cut off from the database (instead.go).
//
// That takes two steps. What is sent to a subscription that ends in that moment is lost, and
// nobody says so: the caller would wait in vain as long as it can. So the other instance is asked
// for a place first, which does no harm where it is lost and is soon found out. The other one promises
// a place on a subject of its own, and does not stop listening there before all places are used.

const (
	// spareGroup is the queue group of those who take requests over.
	spareGroup = "spare"
	// placeWithin is how long another instance may take to promise a place.
	placeWithin = 250 * time.Millisecond
	// placeFor is how long a place is kept for a request that does not come.
	placeFor = 2 * time.Second
)

// errNoPlace says that who was asked for a place has none any more.
var errNoPlace = errors.New("no place")

// taker takes requests over from other instances.
type taker struct {
	*queued
	subject string      // where it is asked for a place
	ready   func() bool // whether it should be asked
	begin   func() bool // keeps a place, unless there is none any more
	answer  func(request) *nats.Msg
	giveUp  func() // lets a place go that was not used

	sub *nats.Subscription // nil while it is not to be asked
}

// offer has takers asked while they are ready, until ctx ends.
func (s *Server) offer(ctx context.Context) {
	for {
		for _, t := range s.takers {
			if err := s.listen(t); err != nil && ctx.Err() == nil {
				s.log.Error("offer to take requests over", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// listen has a taker asked, or no more.
func (s *Server) listen(t *taker) (err error) {
	switch ready := t.ready(); {
	case ready && t.sub == nil:
		t.sub, err = s.conn.QueueSubscribe(t.subject, spareGroup, s.promise(t))
	case !ready && t.sub != nil:
		err, t.sub = t.sub.Drain(), nil
	}
	return err
}

// promise replies with the subject of a place, or with nothing if there is none any more: offers
// are a moment old, and whoever asks may even be this instance.
func (s *Server) promise(t *taker) nats.MsgHandler {
	return func(m *nats.Msg) {
		if !s.isAnswerable(m.Subject, m.Reply) {
			return
		}
		subject := ""
		if t.begin() {
			if subject = s.places.keep(t); subject == "" {
				t.giveUp()
			}
		}
		if err := m.Respond([]byte(subject)); err != nil {
			s.noise.Error("reply lost", "subject", m.Subject, "err", err)
		}
	}
}

// takeOver answers the request that a place was kept for. One that comes too late is not
// answered, as if it had not arrived.
func (s *Server) takeOver(m *nats.Msg) {
	t := s.places.use(m.Subject)
	if t == nil {
		s.noise.Warn("a request came too late for its place")
		return
	}
	if !s.isAnswerable(t.subject, m.Reply) {
		t.giveUp()
		return
	}
	s.answerLater(t.queued, m.Reply, request{m.Data, m.Header}, t.answer)
}

// handOver has a request answered by another instance that is asked on a subject for a place. An
// error says that nobody has begun to answer it: nats.ErrNoResponders if nobody is asked there,
// errNoPlace or context.DeadlineExceeded if another may be.
func (s *Server) handOver(ctx context.Context, q *queued, subject string, r request) (*nats.Msg, error) {
	began := time.Now()
	place, err := s.place(ctx, subject)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(place)
	m.Data, m.Header = r.data, r.header
	reply, err := s.back.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders): // it has died since
		return nil, errNoPlace
	case err != nil: // it may have been carried out
		q.observe(auth.CodeUnavailable, time.Since(began))
		err = fmt.Errorf("%w: taken over and not answered: %w", auth.ErrUnavailable, err)
		s.logUnanswered(q.subject, r.header, err)
		return s.reply(q.subject, nil, err), nil
	}
	return &nats.Msg{Data: reply.Data, Header: reply.Header}, nil
}

// place asks for a place on a subject.
func (s *Server) place(ctx context.Context, subject string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, placeWithin)
	defer cancel()
	reply, err := s.back.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return "", err
	}
	if len(reply.Data) == 0 {
		return "", errNoPlace
	}
	return string(reply.Data), nil
}

// places are those that are kept for requests on their way.
type places struct {
	prefix string // of their subjects
	mu     sync.Mutex
	last   uint64
	kept   map[string]*keptPlace // by subject
	closed bool                  // no more are kept
	empty  chan struct{}         // closed when closed is true and none is kept any more
}

type keptPlace struct {
	taker  *taker
	expiry *time.Timer
}

// newPlaces keeps places on the subjects of an inbox.
func newPlaces(inbox string) *places {
	return &places{prefix: inbox + ".", kept: map[string]*keptPlace{}, empty: make(chan struct{})}
}

// keep returns the subject of a new place, or "" after close.
func (p *places) keep(t *taker) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ""
	}
	p.last++
	subject := p.prefix + strconv.FormatUint(p.last, 10)
	p.kept[subject] = &keptPlace{t, time.AfterFunc(placeFor, func() {
		if t := p.use(subject); t != nil {
			t.giveUp()
		}
	})}
	return subject
}

// use ends a place and returns whose it was, nil if it has ended before.
func (p *places) use(subject string) *taker {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.kept[subject]
	if place == nil {
		return nil
	}
	place.expiry.Stop()
	delete(p.kept, subject)
	if p.closed && len(p.kept) == 0 {
		close(p.empty)
	}
	return place.taker
}

// close keeps no more places, and waits until those are used or given up that there are. It is
// called once.
func (p *places) close() {
	p.mu.Lock()
	p.closed = true
	if len(p.kept) == 0 {
		close(p.empty)
	}
	p.mu.Unlock()
	<-p.empty
}
