package bus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/requestid"
	"github.com/zyotra/auth/internal/trace"
)

// maxQueued bounds the requests of a subject that are under way, in the queue or before it. It bounds
// memory and is far above the number that can be hashed in time. Networks share the places: see crowd.
const maxQueued = 4096

// A refusal as overloaded is sent after a pause: callers that try again immediately, in a loop, would
// otherwise keep the cores busy with refusals. The pause grows with the number of refusals that are
// held back, so that an instance sends about a thousand a second at most.
const (
	refusalPause = 200 * time.Millisecond
	longestPause = 800 * time.Millisecond // the answer is to come within a second
)

// spareTries is how often an idle instance is asked for: some offers are a moment old.
const spareTries = 5

// sparePrefix stands before the subjects on which idle instances are asked for a place.
const sparePrefix = "auth.place.spare."

// queued is a subject whose requests wait for their turn.
type queued struct {
	subject string
	answer  func(request) *nats.Msg
	observe Observer
	inside  atomic.Int64
	crowd   crowd
	done    atomic.Int64
	failed  atomic.Int64
	took    atomic.Int64 // nanoseconds
}

// HandleQueued is Handle for an op whose requests wait for their turn and may take long: it is
// answered outside of the subscription, so that requests go on being taken, and fn refuses what
// is too much. Where s.AtOnce of them are being answered, one that comes is given to another
// instance if one has less to do: NATS deals requests out without looking at who is busy.
//
// What the services protocol counts is the handing over. "data" in its statistics has the
// rest: how many were answered, how many of those with an error, the time it took, and how the
// queue is doing.
func HandleQueued[Req, Resp any](s *Server, op auth.Op[Req, Resp], fn func(context.Context, Req) (Resp, error)) error {
	q := &queued{subject: string(op), observe: s.observer(string(op))}
	q.answer = func(r request) *nats.Msg {
		data, err := observed(s, q.observe, op, r, fn)
		if errors.Is(err, auth.ErrOverloaded) {
			s.holdBack()
		}
		return s.reply(q.subject, data, err)
	}
	s.queued.Store(q.subject, q)
	s.takers = append(s.takers, s.spare(q), s.away(q, s.anywhere(q)))
	return add(s, op, 1, func(r micro.Request) {
		if !s.isAnswerable(q.subject, r.Reply()) {
			q.observe(auth.CodeMalformed, 0)
			return
		}
		network := networkOf(r.Data())
		if !q.crowd.enter(network) {
			err := auth.ErrOverloaded.After(time.Second)
			q.observe(auth.CodeOverloaded, 0)
			s.logUnanswered(q.subject, nats.Header(r.Headers()), err)
			s.refuse(r, err)
			return
		}
		answer := s.anywhere(q)
		s.answerLater(q, r.Reply(), request{r.Data(), nats.Header(r.Headers())}, func(r request) *nats.Msg {
			defer q.crowd.leave(network)
			return answer(r)
		})
	})
}

// holdBack waits for the pause before a refusal.
func (s *Server) holdBack() {
	n := s.paused.Add(1)
	defer s.paused.Add(-1)
	time.Sleep(min(max(refusalPause, time.Duration(n)*time.Millisecond), longestPause))
}

// answerLater answers a request by fn and lets the subscription go on.
func (s *Server) answerLater(q *queued, to string, r request, fn func(request) *nats.Msg) {
	q.inside.Add(1)
	s.later.Go(func() {
		began := time.Now()
		m := fn(r)
		m.Subject = to
		if err := s.back.PublishMsg(m); err != nil {
			s.noise.Error("reply lost", "subject", q.subject, "err", err)
		}
		if m.Header.Get(micro.ErrorCodeHeader) != "" {
			q.failed.Add(1)
		}
		q.took.Add(int64(time.Since(began)))
		q.done.Add(1)
		q.inside.Add(-1)
	})
}

// anywhere answers a request here, or where it is begun sooner.
func (s *Server) anywhere(q *queued) func(request) *nats.Msg {
	return func(r request) *nats.Msg {
		if m := s.instead(q, r); m != nil {
			return m
		}
		if n := s.begin(); n <= s.AtOnce || s.AtOnce == 0 {
			return s.here(q, r)
		}
		s.end()
		if m := s.elsewhere(q, r); m != nil {
			return m
		}
		s.begin()
		return s.here(q, r)
	}
}

// here answers a request that has begun.
func (s *Server) here(q *queued, r request) *nats.Msg {
	defer s.end()
	return q.answer(r)
}

// begin and end count the requests that are answered here, and have the offer follow.
func (s *Server) begin() int {
	n := int(s.busy.Add(1))
	if n == s.AtOnce {
		s.changed()
	}
	return n
}

func (s *Server) end() {
	if n := int(s.busy.Add(-1)); n == s.AtOnce-1 {
		s.changed()
	}
}

func (s *Server) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// elsewhere has a request answered by an instance that has less to do. It returns nil if there
// is none.
func (s *Server) elsewhere(q *queued, r request) *nats.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), r.patience())
	defer cancel()
	for range spareTries {
		m, err := s.handOver(ctx, q, within(sparePrefix, q.subject), r)
		if !errors.Is(err, errNoPlace) {
			return m
		}
	}
	return nil
}

// spare takes requests over from busy instances while this one is not.
func (s *Server) spare(q *queued) *taker {
	return &taker{
		queued:  q,
		subject: within(sparePrefix, q.subject),
		ready:   func() bool { return int(s.busy.Load()) < s.AtOnce && !s.unable.Load() },
		begin: func() bool {
			if s.begin() <= s.AtOnce {
				return true
			}
			s.end()
			return false
		},
		answer: func(r request) *nats.Msg { return s.here(q, r) },
		giveUp: s.end,
	}
}

// within puts a subject of the service behind another prefix.
func within(prefix, subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	return prefix + rest
}

// logUnanswered is logRefusal for a request that nobody here has begun to answer.
func (s *Server) logUnanswered(subject string, header nats.Header, err error) {
	ctx := requestid.With(context.Background(), header.Get(requestid.Header))
	s.logRefusal(trace.Within(ctx, header.Get(trace.Header)), subject, err)
}

// reply makes the message that answers a request of the subject. An error was logged.
func (s *Server) reply(subject string, data []byte, err error) *nats.Msg {
	m := nats.NewMsg("")
	if err == nil {
		m.Data = data
		return m
	}
	code, message, body, err := told(err)
	if err != nil {
		s.log.Error("encode error", "subject", subject, "err", err)
	}
	m.Header.Set(micro.ErrorCodeHeader, code)
	m.Header.Set(micro.ErrorHeader, message)
	m.Data = body
	return m
}

// queuedStats is what the statistics of a queued subject hold besides. Times are nanoseconds.
type queuedStats struct {
	Answered int64 `json:"answered"`
	Errors   int64 `json:"errors"`
	Inside   int64 `json:"in_progress"`
	Took     int64 `json:"processing_time"`
	Average  int64 `json:"average_processing_time"`
	Queue    any   `json:"queue,omitempty"`
}

// stats are those of a queued subject, nil for any other.
func (s *Server) stats(subject string) any {
	v, ok := s.queued.Load(subject)
	if !ok {
		return nil
	}
	q := v.(*queued)
	done, took := q.done.Load(), q.took.Load()
	told := queuedStats{done, q.failed.Load(), q.inside.Load(), took, took / max(1, done), nil}
	if s.Queue != nil {
		told.Queue = s.Queue()
	}
	return told
}

// patience is how long the caller waits, Timeout if it does not say.
func (r request) patience() time.Duration {
	ms, err := strconv.ParseInt(r.header.Get(headerTimeout), 10, 64)
	if err != nil || ms < 0 || ms > Timeout.Milliseconds() {
		return Timeout
	}
	return time.Duration(ms) * time.Millisecond
}
