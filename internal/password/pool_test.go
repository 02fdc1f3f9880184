package password_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/password"
)

// pool runs one until the test ends.
func pool(t *testing.T, size int, wait, typical time.Duration) *password.Pool {
	t.Helper()
	p := password.NewPool(size, wait, typical)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

// until waits for a state of the pool.
func until(t *testing.T, p *password.Pool, running, waiting int64) {
	t.Helper()
	for late := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Microsecond) {
		s := p.Stats()
		if s.Running == running && s.Waiting == waiting {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%+v, want %d running and %d waiting", s, running, waiting)
		}
	}
}

func TestPoolRunsSoManyAtOnceInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	p := pool(t, 2, time.Minute, time.Millisecond)
	var hashed, waited atomic.Int64
	p.Observe = func(wait, took time.Duration) {
		hashed.Add(1)
		waited.Add(int64(wait))
	}
	var group sync.WaitGroup
	release := make(chan struct{})
	for range 2 { // keep it busy
		group.Go(func() {
			if err := p.Do(t.Context(), func() { <-release }); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, p, 2, 0)
	var mu sync.Mutex
	var order []int
	var atOnce, most atomic.Int64
	for i := range 20 {
		group.Go(func() {
			err := p.Do(t.Context(), func() {
				most.Store(max(most.Load(), atOnce.Add(1)))
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				atOnce.Add(-1)
			})
			if err != nil {
				t.Error(err)
			}
		})
		until(t, p, 2, int64(i+1))
		time.Sleep(time.Millisecond) // counted as waiting, it has yet to stand in the queue
	}
	release <- struct{}{} // one goes on, so that one thread takes them all
	until(t, p, 1, 0)
	release <- struct{}{}
	group.Wait()
	if !slices.IsSorted(order) || most.Load() > 2 {
		t.Errorf("%v, %d at once", order, most.Load())
	}
	if p.Stats().Refused != 0 {
		t.Errorf("%+v", p.Stats())
	}
	if hashed.Load() != 22 || waited.Load() < int64(20*time.Millisecond) { // the first of the 20 alone waited for as long
		t.Errorf("%d were told of, which waited for %s", hashed.Load(), time.Duration(waited.Load()))
	}
}

func TestPoolRefusesAtOnceWhatWouldComeTooLate(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, 4*time.Hour, time.Hour) // so three may wait
	release := make(chan struct{})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if err := p.Do(t.Context(), func() { <-release }); err != nil {
				t.Error(err)
			}
		})
		until(t, p, 1, int64(i))
	}
	for _, err := range []error{p.Admit(), p.Do(t.Context(), func() { t.Error("begun") })} {
		if !errors.Is(err, auth.ErrOverloaded) || auth.Public(err).RetryAfter != 3600 {
			t.Errorf("%v, %+v", err, auth.Public(err))
		}
	}
	until(t, p, 1, 3)
	close(release)
	group.Wait()
	if err := p.Admit(); err != nil {
		t.Error(err)
	}
}

func TestPoolGivesUpWaiting(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, 20*time.Millisecond, time.Microsecond)
	release := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		if err := p.Do(t.Context(), func() { <-release }); err != nil {
			t.Error(err)
		}
	})
	until(t, p, 1, 0)
	if err := p.Do(t.Context(), func() { t.Error("begun") }); !errors.Is(err, auth.ErrOverloaded) {
		t.Errorf("late: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if err := p.Do(gone, func() { t.Error("begun for nobody") }); !errors.Is(err, context.Canceled) {
		t.Errorf("gone while waiting: %v", err)
	}
	if err := p.Do(gone, func() { t.Error("begun for nobody") }); !errors.Is(err, context.Canceled) {
		t.Errorf("gone before: %v", err)
	}
	close(release)
	group.Wait()
	until(t, p, 0, 0)
}

func TestPoolHandsAPanicToItsCaller(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, time.Minute, time.Millisecond)
	func() {
		defer func() {
			if recover() != "a bug" {
				t.Error("no panic")
			}
		}()
		_ = p.Do(t.Context(), func() { panic("a bug") })
	}()
	if err := p.Do(t.Context(), func() {}); err != nil { // the thread lives on
		t.Error(err)
	}
}
