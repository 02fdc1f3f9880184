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

// ErrExcess wraps auth.ErrOverloaded when the pool refuses a request whose network has more requests in
// the pool than an even share. A refusal without it is not the fault of the network.
var ErrExcess = errors.New("the network has more than its share of the hashing pool")

// placesPerCore is how many requests for each core may hold a place. One of them hashes; the others
// query the database and have the next hash ready when a core is free. So the number also bounds the
// load of the database in a storm of logins.
const placesPerCore = 16

// Pool bounds how many passwords are hashed at once and how long a request waits for its turn. It
// refuses a request at once if the wait would be too long, so that it answers a storm as fast as the
// requests arrive.
//
// A request passes two gates. At the first one, Enter, it waits for one of a few places before it costs
// anything. At the second one, Do, it waits for a core. At both gates networks take turns (see gate), so
// a network that sends a flood delays itself.
//
// Hashing runs on separate threads, with the lowest priority where the system has such a priority. So
// short work gets a core as soon as it is ready, and hashing uses the remaining time, which is nearly
// all. See also gomaxprocs.
type Pool struct {
	// Background lowers the priority of the threads and raises GOMAXPROCS while they hash. It is for
	// whole programs: the priority cannot be raised again.
	Background bool

	// Observe, if it is set, receives for each hashed password how long it waited for its
	// turn, at both gates, and how long its hash took.
	Observe func(waited, took time.Duration)

	size    int
	procs   gomaxprocs
	wait    time.Duration
	jobs    chan func()
	ewma    atomic.Int64 // moving average of the duration of a hash, in nanoseconds
	refused atomic.Int64

	mu    sync.Mutex
	entry gate // before a request costs anything
	cores gate // before a hash
}

// NewPool returns a Pool that hashes size passwords at once, and lets no request wait for longer than wait.
// typical is the estimated duration of a hash until some have been measured. Requests wait until Run is
// called.
func NewPool(size int, wait, typical time.Duration) *Pool {
	p := &Pool{size: size, procs: gomaxprocs{cores: size}, wait: wait, jobs: make(chan func())}
	p.ewma.Store(int64(typical))
	return p
}

// Run hashes until ctx ends, which must be after the last request has been answered.
//
// The threads stay until then. If a thread ended after each hash, Go might start another thread from it
// at that moment, which would inherit the low priority.
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
		p.procs.run(ctx, func() bool { s := p.Stats(); return s.Running+s.Waiting == 0 })
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
		Typical: time.Duration(p.ewma.Load()),
	}
}

// likely is the longest expected wait of an admitted request. A request that takes a little longer than
// expected still has its turn within wait.
func (p *Pool) likely() time.Duration { return p.wait * 3 / 4 }

// bounds returns how many requests may have a place, and how many may wait for one. Together they
// are as many as can be hashed within the likely wait. At least half of those beyond the cores
// wait at the gate, where the networks take turns.
func (p *Pool) bounds() (places, waiting int) {
	ahead := int(float64(p.likely()) * float64(p.size) / float64(max(1, p.ewma.Load())))
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
	t, enqueuedAt := newTicket(class), time.Now()
	p.mu.Lock()
	places, waiting := p.bounds()
	p.entry.enter(t, places, waiting)
	p.mu.Unlock()
	err := p.await(ctx, &p.entry, t, p.wait)
	return &turn{t, p, time.Since(enqueuedAt)}, err
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

// decision returns the error of a ticket that the gate granted or refused.
func (p *Pool) decision(t *ticket) error {
	if t.state == granted {
		return nil
	}
	p.refused.Add(1)
	p.mu.Lock()
	beyond := p.entry.held + p.entry.waiting + 1 - p.size
	p.mu.Unlock()
	err := auth.ErrOverloaded.After(time.Duration(beyond)*time.Duration(p.ewma.Load())/time.Duration(p.size) - p.likely())
	if t.excess {
		return fmt.Errorf("%w: %w", err, ErrExcess)
	}
	return err
}

// leave removes a ticket from a gate, whatever its state.
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
		p.procs.raise()
	}
	enqueuedAt := time.Now()
	began, err := p.submit(ctx, t, work)
	if err != nil {
		return err
	}
	took := time.Since(began)
	p.ewma.Add((int64(took) - p.ewma.Load()) / 8)
	if p.Observe != nil {
		p.Observe(t.waited+began.Sub(enqueuedAt), took)
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

// submit waits for a core, has a thread do the work and returns when the work began. It passes a panic on to
// the caller.
func (p *Pool) submit(ctx context.Context, t *turn, work func()) (began time.Time, err error) {
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
