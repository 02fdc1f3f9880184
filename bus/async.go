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

// maxQueued bounds the requests of a subject that are in flight, in the queue or before it. It bounds
// memory and is far above the number that can be hashed in time. Networks share the places: see crowd.
const maxQueued = 4096

// The server sends an overloaded refusal after a pause: callers that retry immediately, in a loop, would
// otherwise keep the cores busy with refusals. The pause grows with the number of delayed refusals, so
// an instance sends at most about a thousand a second, until the pause reaches longestPause.
const (
	refusalPause = 200 * time.Millisecond
	longestPause = 800 * time.Millisecond // the caller receives the answer within a second
)

// overflowTries is the number of slots that a busy instance requests of idle ones. An instance may have
// become busy since it subscribed.
const overflowTries = 5

// overflowPrefix is the prefix of the subjects on which busy instances request a slot of idle ones.
const overflowPrefix = "auth.place.spare."

// asyncSubject is a subject that is answered outside of its subscription.
type asyncSubject struct {
	subject  string
	answer   func(request) *nats.Msg
	observe  Observer
	inFlight atomic.Int64
	crowd    crowd
	done     atomic.Int64
	failed   atomic.Int64
	took     atomic.Int64 // nanoseconds
}

// HandleAsync is Handle for an op whose requests wait for the hashing pool and may take long. Each is
// answered in a separate goroutine, so that the subscription is not blocked; fn refuses requests above its
// limit. Beyond s.MaxConcurrent requests, an instance hands a request off to an instance that is less
// busy, if there is one: NATS distributes requests without regard to load.
//
// The statistics of the services protocol count the dispatch alone. Their member "data" has the number
// of answered requests and errors, the processing time, and the state of the hashing pool.
func HandleAsync[Req, Resp any](s *Server, op auth.Op[Req, Resp], fn func(context.Context, Req) (Resp, error)) error {
	q := &asyncSubject{subject: string(op), observe: s.observer(string(op))}
	q.answer = func(r request) *nats.Msg {
		data, err := observed(s, q.observe, op, r, fn)
		if errors.Is(err, auth.ErrOverloaded) {
			s.holdBack()
		}
		return s.reply(q.subject, data, err)
	}
	s.queued.Store(q.subject, q)
	s.acceptors = append(s.acceptors, s.acceptOverflow(q), s.acceptFailover(q, s.dispatch(q)))
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
		answer := s.dispatch(q)
		s.answerAsync(q, r.Reply(), request{r.Data(), nats.Header(r.Headers())}, func(r request) *nats.Msg {
			defer q.crowd.leave(network)
			return answer(r)
		})
	})
}

// holdBack waits for the pause before an overloaded refusal.
func (s *Server) holdBack() {
	n := s.paused.Add(1)
	defer s.paused.Add(-1)
	time.Sleep(min(max(refusalPause, time.Duration(n)*time.Millisecond), longestPause))
}

// answerAsync answers a request by fn in a goroutine and does not block the subscription.
func (s *Server) answerAsync(q *asyncSubject, to string, r request, fn func(request) *nats.Msg) {
	q.inFlight.Add(1)
	s.replies.Go(func() {
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
		q.inFlight.Add(-1)
	})
}

// dispatch returns a function that answers a request here, or on an instance that can begin sooner.
func (s *Server) dispatch(q *asyncSubject) func(request) *nats.Msg {
	return func(r request) *nats.Msg {
		if m := s.failover(q, r); m != nil {
			return m
		}
		if n := s.begin(); n <= s.MaxConcurrent || s.MaxConcurrent == 0 {
			return s.serveLocal(q, r)
		}
		s.end()
		if m := s.overflow(q, r); m != nil {
			return m
		}
		s.begin()
		return s.serveLocal(q, r)
	}
}

// serveLocal answers a request that begin has counted, and calls end.
func (s *Server) serveLocal(q *asyncSubject, r request) *nats.Msg {
	defer s.end()
	return q.answer(r)
}

// begin and end count the requests that are answered here, and wake the advertiser when the instance
// becomes busy or idle.
func (s *Server) begin() int {
	n := int(s.inFlight.Add(1))
	if n == s.MaxConcurrent {
		s.wakeAdvertiser()
	}
	return n
}

func (s *Server) end() {
	if n := int(s.inFlight.Add(-1)); n == s.MaxConcurrent-1 {
		s.wakeAdvertiser()
	}
}

func (s *Server) wakeAdvertiser() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// overflow hands a request off to a less busy instance and returns the reply. It returns nil if no
// instance accepts the request.
func (s *Server) overflow(q *asyncSubject, r request) *nats.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout())
	defer cancel()
	for range overflowTries {
		m, err := s.handOff(ctx, q, withPrefix(overflowPrefix, q.subject), r)
		if !errors.Is(err, errNoSlot) {
			return m
		}
	}
	return nil
}

// acceptOverflow accepts requests from busy instances while this one is not busy.
func (s *Server) acceptOverflow(q *asyncSubject) *acceptor {
	return &acceptor{
		asyncSubject: q,
		subject:      withPrefix(overflowPrefix, q.subject),
		ready:        func() bool { return int(s.inFlight.Load()) < s.MaxConcurrent && !s.unhealthy.Load() },
		begin: func() bool {
			if s.begin() <= s.MaxConcurrent {
				return true
			}
			s.end()
			return false
		},
		answer:  func(r request) *nats.Msg { return s.serveLocal(q, r) },
		release: s.end,
	}
}

// withPrefix replaces the first token of a subject of the service by a prefix.
func withPrefix(prefix, subject string) string {
	_, rest, _ := strings.Cut(subject, ".")
	return prefix + rest
}

// logUnanswered is logRefusal for a request that no handler of this instance has begun to answer.
func (s *Server) logUnanswered(subject string, header nats.Header, err error) {
	ctx := requestid.With(context.Background(), header.Get(requestid.Header))
	s.logRefusal(trace.Within(ctx, header.Get(trace.Header)), subject, err)
}

// reply makes the message that answers a request of the subject. The caller has already logged err.
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

// queuedStats are the additional statistics of an asynchronous subject. Times are nanoseconds.
type queuedStats struct {
	Answered int64 `json:"answered"`
	Errors   int64 `json:"errors"`
	Inside   int64 `json:"in_progress"`
	Took     int64 `json:"processing_time"`
	Average  int64 `json:"average_processing_time"`
	Queue    any   `json:"queue,omitempty"`
}

// stats returns the additional statistics of an asynchronous subject, nil for any other subject.
func (s *Server) stats(subject string) any {
	v, ok := s.queued.Load(subject)
	if !ok {
		return nil
	}
	q := v.(*asyncSubject)
	done, took := q.done.Load(), q.took.Load()
	told := queuedStats{done, q.failed.Load(), q.inFlight.Load(), took, took / max(1, done), nil}
	if s.Queue != nil {
		told.Queue = s.Queue()
	}
	return told
}

// timeout returns how long the caller waits. It returns Timeout if the request gives no valid time, or
// a longer one.
func (r request) timeout() time.Duration {
	ms, err := strconv.ParseInt(r.header.Get(headerTimeout), 10, 64)
	if err != nil || ms < 0 || ms > Timeout.Milliseconds() {
		return Timeout
	}
	return time.Duration(ms) * time.Millisecond
}
