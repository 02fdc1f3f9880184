package password

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// ErrExcess is wrapped around auth.ErrOverloaded when the pool refuses a request whose network
// has more requests in the pool than an even share. A request that is refused without it is not to
// blame.
var ErrExcess = errors.New("the network has more than its share of the hashing pool")

// placesPerCore is how many requests for each core may be between Enter and their leaving. One of
// them hashes; the others ask the database, and have the next hash ready when a core is free. So
// the number also bounds the database's load in a storm of logins.
const placesPerCore = 16

// Pool bounds how many passwords are hashed at once and how long a request waits for its turn. It
// refuses a request at once if the wait would be too long, so that a storm is answered as fast as
// it comes.
//
// A request passes two gates. Enter is the first, before the request costs anything: it waits
// there for one of a few places. Do is the second: it waits there for a core. At both gates
// networks take turns (see gate), so a network that sends a flood waits for itself.
//
// Hashing is kept away from everything else: it is done on threads of its own, of the lowest
// priority where the system has such a priority. So work of microseconds gets a core as soon
// as it is ready, and hashing has what is left, which is nearly all. See also room.
type Pool struct {
	// Background lowers the priority of the threads and makes room for them (GOMAXPROCS). It is
	// for whole programs: the priority cannot be raised again.
	Background bool

	// Observe, if it is set, receives for each hashed password how long it waited for its
	// turn, at both gates, and how long its hash took.
	Observe func(waited, took time.Duration)

	size    int
	room    room
	wait    time.Duration
	jobs    chan func()
	typical atomic.Int64 // recent duration of a hash in nanoseconds
	refused atomic.Int64

	mu    sync.Mutex
	entry gate // before a request costs anything
	cores gate // before a hash
}

// NewPool makes a Pool that hashes size passwords at once, and lets none wait for longer than
// wait. typical is the estimated duration of a hash until some have been measured. Requests wait
// until Run runs.
func NewPool(size int, wait, typical time.Duration) *Pool {
	p := &Pool{size: size, room: room{cores: size}, wait: wait, jobs: make(chan func())}
	p.typical.Store(int64(typical))
	return p
}

// Run hashes until ctx ends, which is to be after the last request has been answered.
//
// The threads stay for as long as it runs. Were one to end with each hash, Go might make a new
// thread at that very moment, for anything, and that would inherit the priority.
func (p *Pool) Run(ctx context.Context) error {
	var threads sync.WaitGroup
	for range p.size {
		threads.Go(func() {
			runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
			if p.Background {
				lowerPriority()
			}
			for {
				select {
				case job := <-p.jobs:
					job()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	if p.Background {
		p.room.run(ctx, func() bool { s := p.Stats(); return s.Running+s.Waiting == 0 })
	}
	threads.Wait()
	return nil
}

// PoolStats is the state of a Pool. Refused counts since the start; Typical is the recent
// duration of a hash.
type PoolStats struct {
	Running int64         `json:"running"`
	Waiting int64         `json:"waiting"`
	Refused int64         `json:"refused"`
	Typical time.Duration `json:"typical"`
}

// Stats returns the state of the pool.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{
		Running: int64(p.cores.held), Waiting: int64(p.entry.waiting + p.cores.waiting), Refused: p.refused.Load(),
		Typical: time.Duration(p.typical.Load()),
	}
}

// likely is the longest expected wait of a request that is let in: one that takes a little longer than
// expected still has its turn within wait.
func (p *Pool) likely() time.Duration { return p.wait * 3 / 4 }

// bounds returns how many requests may have a place, and how many may wait for one. Together they
// are as many as can be hashed within the likely wait. At least half of those beyond the cores
// wait at the gate, where the networks take turns.
func (p *Pool) bounds() (places, waiting int) {
	ahead := int(float64(p.likely()) * float64(p.size) / float64(max(1, p.typical.Load())))
	beside := min((placesPerCore-1)*p.size, ahead/2)
	return p.size + beside, ahead - beside
}

// turn is a request's place in the pool.
type turn struct {
	*ticket
	pool   *Pool
	waited time.Duration // at the first gate
}

// turnKey is where a context carries its turn.
type turnKey struct{}

// Enter waits for a place in the pool and returns a context that carries it to Do, and a function that
// gives it up, which the caller has to call. It comes before the request's first statement, so that a request that
// is refused costs nothing.
//
// It returns auth.ErrOverloaded if the turn would not come in time, which also wraps ErrExcess if
// the class's network is to blame, and the error of ctx if that ends while it waits. On a nil Pool it
// does nothing.
func (p *Pool) Enter(ctx context.Context, class Class) (context.Context, func(), error) {
	if p == nil {
		return ctx, func() {}, nil
	}
	t, err := p.enter(ctx, class)
	if err != nil {
		return ctx, func() {}, err
	}
	return context.WithValue(ctx, turnKey{}, t), func() { p.leave(&p.entry, t.ticket) }, nil
}

func (p *Pool) enter(ctx context.Context, class Class) (*turn, error) {
	t, came := newTicket(class), time.Now()
	p.mu.Lock()
	places, room := p.bounds()
	p.entry.enter(t, places, room)
	p.mu.Unlock()
	err := p.await(ctx, &p.entry, t, p.wait)
	return &turn{t, p, time.Since(came)}, err
}

// await waits until a ticket is granted a place, for patience at most.
func (p *Pool) await(ctx context.Context, g *gate, t *ticket, patience time.Duration) error {
	select {
	case <-t.decided: // as it mostly is at once, which needs no timer
		return p.decision(t)
	default:
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-t.decided:
		return p.decision(t)
	case <-ctx.Done():
		p.leave(g, t)
		return ctx.Err()
	case <-late.C:
		p.leave(g, t)
		if err := ctx.Err(); err != nil {
			return err
		}
		p.refused.Add(1)
		return auth.ErrOverloaded.After(p.wait)
	}
}

// decision is the error of a ticket that was decided on.
func (p *Pool) decision(t *ticket) error {
	if t.state == granted {
		return nil
	}
	p.refused.Add(1)
	p.mu.Lock()
	beyond := p.entry.held + p.entry.waiting + 1 - p.size
	p.mu.Unlock()
	err := auth.ErrOverloaded.After(time.Duration(beyond)*time.Duration(p.typical.Load())/time.Duration(p.size) - p.likely())
	if t.excess {
		return fmt.Errorf("%w: %w", err, ErrExcess)
	}
	return err
}

// leave takes a ticket out of a gate, wherever it is.
func (p *Pool) leave(g *gate, t *ticket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	places := p.size
	if g == &p.entry {
		places, _ = p.bounds()
	}
	g.leave(t, places)
}

// Do runs work on a core when it is its turn, in the place that ctx carries from Enter. Without
// one it enters by itself, among clients that are not known. It returns the errors of Enter; work
// has not begun then. On a nil Pool it runs at once.
func (p *Pool) Do(ctx context.Context, work func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p == nil {
		work()
		return nil
	}
	ctx, span := trace.Step(ctx, trace.Internal, "hash password")
	err := p.do(ctx, func() {
		span.Moment("turn") // what is before it was spent waiting
		work()
	})
	span.End(err)
	return err
}

func (p *Pool) do(ctx context.Context, work func()) error {
	t, ok := ctx.Value(turnKey{}).(*turn)
	if !ok || !p.holds(t) {
		own, err := p.enter(ctx, Class{})
		if err != nil {
			return err
		}
		defer p.leave(&p.entry, own.ticket)
		t = own
	}
	if p.Background {
		p.room.take()
	}
	came := time.Now()
	began, err := p.hand(ctx, t, work)
	if err != nil {
		return err
	}
	took := time.Since(began)
	p.typical.Add((int64(took) - p.typical.Load()) / 8)
	if p.Observe != nil {
		p.Observe(t.waited+began.Sub(came), took)
	}
	t.waited = 0 // the request's next hash did not wait for that
	return nil
}

// holds reports whether a turn has a place in this pool.
func (p *Pool) holds(t *turn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return t.pool == p && t.state == granted
}

// hand waits for a core, has a thread do the work and returns when it began. It passes a panic
// on to the caller.
func (p *Pool) hand(ctx context.Context, t *turn, work func()) (began time.Time, err error) {
	core := newTicket(t.class)
	p.mu.Lock()
	p.cores.enter(core, p.size, math.MaxInt)
	p.mu.Unlock()
	if err := p.await(ctx, &p.cores, core, p.wait-t.waited); err != nil {
		return time.Time{}, err
	}
	defer p.leave(&p.cores, core)
	done := make(chan any, 1)
	job := func() {
		defer func() { done <- recover() }()
		began = time.Now()
		work()
	}
	select {
	case p.jobs <- job: // a thread is free, or will be when Run runs
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
	if failure := <-done; failure != nil {
		panic(failure)
	}
	return began, nil
}
