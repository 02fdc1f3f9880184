package password

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/trace"
)

// Pool bounds how many passwords are hashed at once and how long one waits for its turn. Turns
// come in the order of arrival. Whoever would have to wait for too long is refused at once, so
// that a storm is answered as fast as it comes.
//
// Hashing is kept away from everything else: it is done on threads of its own, of the lowest
// priority where the system knows such a thing. So what takes microseconds gets a core as soon
// as it wants one, and hashing has what is left, which is nearly all. See also room.
type Pool struct {
	// Background lowers the priority of the threads and makes room for them (GOMAXPROCS). It is
	// for whole programs: the priority cannot be raised again.
	Background bool

	// Observe, if it is set, hears of each password that was hashed: how long it waited for its
	// turn, and how long its hash took.
	Observe func(waited, took time.Duration)

	size    int64
	room    room
	wait    time.Duration
	jobs    chan func()
	inside  atomic.Int64 // that hash or wait
	typical atomic.Int64 // nanoseconds that a hash has taken of late
	refused atomic.Int64
}

// NewPool makes a Pool that hashes size passwords at once, of which one takes about typical
// until it is known better, and lets none wait for longer than wait. They wait until it runs.
func NewPool(size int, wait, typical time.Duration) *Pool {
	p := &Pool{size: int64(size), room: room{cores: size}, wait: wait, jobs: make(chan func())}
	p.typical.Store(int64(typical))
	return p
}

// Run hashes until ctx ends, which is to be after the last one who waits.
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
		p.room.run(ctx, func() bool { return p.inside.Load() == 0 })
	}
	threads.Wait()
	return nil
}

// PoolStats is the state of a Pool. Refused counts since the start; Typical is what a hash has
// taken of late, in nanoseconds.
type PoolStats struct {
	Running int64         `json:"running"`
	Waiting int64         `json:"waiting"`
	Refused int64         `json:"refused"`
	Typical time.Duration `json:"typical"`
}

// Stats tells how the pool is doing.
func (p *Pool) Stats() PoolStats {
	inside := p.inside.Load()
	return PoolStats{
		Running: min(inside, p.size), Waiting: max(0, inside-p.size), Refused: p.refused.Load(),
		Typical: time.Duration(p.typical.Load()),
	}
}

// Admit returns an auth.ErrOverloaded error if a password that came now would be refused: for
// whoever has something to do before. It is nil on a nil Pool.
func (p *Pool) Admit() error {
	if p == nil {
		return nil
	}
	return p.admit(p.inside.Load() + 1)
}

// admit is Admit for the last of inside.
func (p *Pool) admit(inside int64) error {
	ahead := inside - p.size
	wait := time.Duration(ahead * p.typical.Load() / p.size)
	likely := p.wait * 3 / 4 // that it takes a little longer is no reason to wait for nothing
	if ahead <= 0 || wait <= likely {
		return nil
	}
	p.refused.Add(1)
	return auth.ErrOverloaded.After(wait - likely)
}

// Do runs work when it is its turn. It returns an auth.ErrOverloaded error if
// that would not come in time, and the error of ctx if that ends before; work has not begun
// then. On a nil Pool it runs at once.
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
	inside := p.inside.Add(1)
	defer p.inside.Add(-1)
	if err := p.admit(inside); err != nil {
		return err
	}
	if p.Background {
		p.room.take()
	}
	came := time.Now()
	began, err := p.hand(ctx, work)
	if err != nil {
		return err
	}
	took := time.Since(began)
	p.typical.Add((int64(took) - p.typical.Load()) / 8)
	if p.Observe != nil {
		p.Observe(began.Sub(came), took)
	}
	return nil
}

// hand has a thread do the work, waits for it and tells when it began. A panic is the
// caller's.
func (p *Pool) hand(ctx context.Context, work func()) (began time.Time, err error) {
	late, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	done := make(chan any, 1)
	job := func() {
		defer func() { done <- recover() }()
		began = time.Now()
		work()
	}
	select {
	case p.jobs <- job: // those who wait here have their turns in their order
	case <-late.Done():
		if err := ctx.Err(); err != nil {
			return time.Time{}, err
		}
		p.refused.Add(1)
		return time.Time{}, auth.ErrOverloaded.After(p.wait)
	}
	if failure := <-done; failure != nil {
		panic(failure)
	}
	return began, nil
}
