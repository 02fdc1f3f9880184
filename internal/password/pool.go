package password

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/zyotra/auth"
)

// Pool bounds how many passwords are hashed at once and how long one waits for its turn. Turns
// come in the order of arrival. Whoever would have to wait for too long is refused at once, so
// that a storm is answered as fast as it comes.
//
// Hashing is kept away from everything else: it runs on threads of its own, of the lowest
// priority where the system knows such a thing. So what takes microseconds gets a core as soon
// as it wants one, and hashing has what is left, which is nearly all.
type Pool struct {
	size    int64
	wait    time.Duration
	slots   *semaphore.Weighted
	inside  atomic.Int64 // that hash or wait
	typical atomic.Int64 // nanoseconds that a hash has taken of late
	refused atomic.Int64
	changed chan struct{}
}

// NewPool makes a Pool that hashes size passwords at once, of which one takes about typical
// until it is known better, and lets none wait for longer than wait.
func NewPool(size int, wait, typical time.Duration) *Pool {
	p := &Pool{size: int64(size), wait: wait, slots: semaphore.NewWeighted(int64(size)), changed: make(chan struct{}, 1)}
	p.typical.Store(int64(typical))
	return p
}

// PoolStats is the state of a Pool.
type PoolStats struct {
	Running, Waiting int64
	Refused          int64         // since the start
	Typical          time.Duration // that a hash has taken of late
}

// Stats tells how the pool is doing.
func (p *Pool) Stats() PoolStats {
	inside := p.inside.Load()
	return PoolStats{
		Running: min(inside, p.size), Waiting: max(0, inside-p.size), Refused: p.refused.Load(),
		Typical: time.Duration(p.typical.Load()),
	}
}

// Idle tells whether a password would be hashed at once.
func (p *Pool) Idle() bool { return p.inside.Load() < p.size }

// Changed receives when the answer of Idle may be another one.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

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
	if ahead <= 0 || wait <= p.wait {
		return nil
	}
	p.refused.Add(1)
	return auth.ErrOverloaded.After(wait - p.wait)
}

// Do runs work, which hashes, when it is its turn. It returns an auth.ErrOverloaded error if
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
	inside := p.inside.Add(1)
	defer p.leave()
	if err := p.admit(inside); err != nil {
		return err
	}
	if inside == p.size {
		p.tell()
	}
	if err := p.turn(ctx); err != nil {
		return err
	}
	defer p.slots.Release(1)
	began := time.Now()
	apart(work)
	took := int64(time.Since(began))
	p.typical.Add((took - p.typical.Load()) / 8)
	return nil
}

// turn waits for a slot, which is then the caller's.
func (p *Pool) turn(ctx context.Context) error {
	late, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	if err := p.slots.Acquire(late, 1); err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p.refused.Add(1)
	return auth.ErrOverloaded.After(p.wait)
}

func (p *Pool) leave() {
	if p.inside.Add(-1) < p.size {
		p.tell()
	}
}

func (p *Pool) tell() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// apart runs work on a thread of its own and waits for it. The thread is never used for
// anything else, since its priority cannot be raised again: it ends with the goroutine that it
// is locked to. Making one takes microseconds. A panic is the caller's.
func apart(work func()) {
	var failure any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { failure = recover() }()
		runtime.LockOSThread()
		lowerPriority()
		work()
	}()
	<-done
	if failure != nil {
		panic(failure)
	}
}
