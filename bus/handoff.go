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

// An instance hands a request off to an instance with idle cores (async.go), or to a healthy instance if
// it is cut off from the database (failover.go).
//
// A hand-off takes two steps. A message to a subscription that ends at that moment is lost without an
// error, and the caller would wait until its timeout. So the instance first reserves a slot at the other
// instance; a lost reservation is harmless and times out soon. The other instance grants a slot on a
// subject of its inbox, and listens there until all slots are used or have expired.

const (
	// handoffGroup is the queue group of the instances that accept requests.
	handoffGroup = "spare"
	// reserveTimeout is how long another instance may take to grant a slot.
	reserveTimeout = 250 * time.Millisecond
	// slotTTL is the lifetime of a slot without a request.
	slotTTL = 2 * time.Second
)

// errNoSlot means that the other instance has no free slot.
var errNoSlot = errors.New("no slot")

// acceptor accepts requests of a subject from other instances.
type acceptor struct {
	*asyncSubject
	subject string      // the subject on which it grants slots
	ready   func() bool // reports whether it grants slots now
	begin   func() bool // reserves capacity; false if there is none
	answer  func(request) *nats.Msg
	release func() // returns capacity that was not used

	sub *nats.Subscription // nil while it grants no slots
}

// advertise subscribes acceptors while they are ready, until ctx ends.
func (s *Server) advertise(ctx context.Context) {
	for {
		for _, t := range s.acceptors {
			if err := s.advertiseOne(t); err != nil && ctx.Err() == nil {
				s.log.Error("subscribe for requests of other instances", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// advertiseOne subscribes an acceptor that is ready, and unsubscribes one that is not.
func (s *Server) advertiseOne(t *acceptor) (err error) {
	switch ready := t.ready(); {
	case ready && t.sub == nil:
		t.sub, err = s.conn.QueueSubscribe(t.subject, handoffGroup, s.grant(t))
	case !ready && t.sub != nil:
		err, t.sub = t.sub.Drain(), nil
	}
	return err
}

// grant replies with the subject of a slot, or with an empty message if there is no slot: the
// acceptor may have become unready a moment ago, and the caller may be this instance.
func (s *Server) grant(t *acceptor) nats.MsgHandler {
	return func(m *nats.Msg) {
		if !s.isAnswerable(m.Subject, m.Reply) {
			return
		}
		subject := ""
		if t.begin() {
			if subject = s.slots.add(t); subject == "" {
				t.release()
			}
		}
		if err := m.Respond([]byte(subject)); err != nil {
			s.noise.Error("reply lost", "subject", m.Subject, "err", err)
		}
	}
}

// acceptHandoff answers a request for which a slot is granted. It does not answer a request that arrives
// after slotTTL, as if the request had been lost.
func (s *Server) acceptHandoff(m *nats.Msg) {
	t := s.slots.take(m.Subject)
	if t == nil {
		s.noise.Warn("a request came too late for its slot")
		return
	}
	if !s.isAnswerable(t.subject, m.Reply) {
		t.release()
		return
	}
	s.answerAsync(t.asyncSubject, m.Reply, request{m.Data, m.Header}, t.answer)
}

// handOff sends a request to an instance that grants a slot on a subject, and returns the reply. An error
// means that no instance has begun to answer: nats.ErrNoResponders if none grants slots there, errNoSlot or
// context.DeadlineExceeded if another attempt may succeed.
func (s *Server) handOff(ctx context.Context, q *asyncSubject, subject string, r request) (*nats.Msg, error) {
	began := time.Now()
	slot, err := s.reserve(ctx, subject)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(slot)
	m.Data, m.Header = r.data, r.header
	reply, err := s.back.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders): // the instance ended after it granted the slot
		return nil, errNoSlot
	case err != nil: // the request may have been carried out
		q.observe(auth.CodeUnavailable, time.Since(began))
		err = fmt.Errorf("%w: handed off and not answered: %w", auth.ErrUnavailable, err)
		s.logUnanswered(q.subject, r.header, err)
		return s.reply(q.subject, nil, err), nil
	}
	return &nats.Msg{Data: reply.Data, Header: reply.Header}, nil
}

// reserve requests a slot on a subject and returns the subject of the slot. It returns errNoSlot if the
// instance that replies has none.
func (s *Server) reserve(ctx context.Context, subject string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, reserveTimeout)
	defer cancel()
	reply, err := s.back.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return "", err
	}
	if len(reply.Data) == 0 {
		return "", errNoSlot
	}
	return string(reply.Data), nil
}

// slots are the granted slots whose requests have not arrived yet.
type slots struct {
	prefix string // of the slots' subjects
	mu     sync.Mutex
	last   uint64
	kept   map[string]*slot // by subject
	closed bool             // no more slots are granted
	empty  chan struct{}    // closed once closed is true and kept is empty
}

type slot struct {
	acceptor *acceptor
	expiry   *time.Timer
}

// newSlots returns slots on the subjects of an inbox.
func newSlots(inbox string) *slots {
	return &slots{prefix: inbox + ".", kept: map[string]*slot{}, empty: make(chan struct{})}
}

// add returns the subject of a new slot, or "" after close.
func (p *slots) add(t *acceptor) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ""
	}
	p.last++
	subject := p.prefix + strconv.FormatUint(p.last, 10)
	p.kept[subject] = &slot{t, time.AfterFunc(slotTTL, func() {
		if t := p.take(subject); t != nil {
			t.release()
		}
	})}
	return subject
}

// take removes a slot and returns its acceptor, nil if the slot is used or has expired.
func (p *slots) take(subject string) *acceptor {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.kept[subject]
	if taken == nil {
		return nil
	}
	taken.expiry.Stop()
	delete(p.kept, subject)
	if p.closed && len(p.kept) == 0 {
		close(p.empty)
	}
	return taken.acceptor
}

// close stops granting slots and waits until the granted slots are used or have expired. It must be
// called only once.
func (p *slots) close() {
	p.mu.Lock()
	p.closed = true
	if len(p.kept) == 0 {
		close(p.empty)
	}
	p.mu.Unlock()
	<-p.empty
}
