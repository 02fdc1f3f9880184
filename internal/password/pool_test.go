package password_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
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
	if hashed.Load() != 22 || waited.Load() <= 0 {
		t.Errorf("%d were observed, which waited for %s", hashed.Load(), time.Duration(waited.Load()))
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
	_, _, entry := p.Enter(t.Context(), password.Class{})
	for _, err := range []error{entry, p.Do(t.Context(), func() { t.Error("begun") })} {
		if !errors.Is(err, auth.ErrOverloaded) || auth.Public(err).RetryAfter != 3600 {
			t.Errorf("%v, %+v", err, auth.Public(err))
		}
	}
	until(t, p, 1, 3)
	close(release)
	group.Wait()
	_, leave, err := p.Enter(t.Context(), password.Class{})
	if err != nil {
		t.Error(err)
	}
	leave()
}

// flood takes all places and all of the queue of a pool for one network, and returns the answers.
func flood(t *testing.T, p *password.Pool, class password.Class, n int) <-chan error {
	t.Helper()
	answers := make(chan error, n)
	for range n {
		before := p.Stats()
		go func() {
			ctx, leave, err := p.Enter(t.Context(), class)
			if err == nil {
				err = p.Do(ctx, func() {})
			}
			leave()
			answers <- err
		}()
		for p.Stats() == before {
			runtime.Gosched()
		}
	}
	return answers
}

// A network that floods the pool waits for itself, and pays for the place of another one.
func TestPoolSharesByNetwork(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, 8*time.Hour, time.Hour) // so six may wait
	release := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		if err := p.Do(t.Context(), func() { <-release }); err != nil {
			t.Error(err)
		}
	})
	until(t, p, 1, 0)
	flooding := flood(t, p, password.Class{Network: "192.0.2.0/24"}, 20)
	for range 14 {
		if err := <-flooding; !errors.Is(err, auth.ErrOverloaded) || !errors.Is(err, password.ErrExcess) {
			t.Errorf("one too many: %v", err)
		}
	}
	honest := flood(t, p, password.Class{Network: "198.51.100.0/24"}, 1)
	if err := <-flooding; !errors.Is(err, password.ErrExcess) {
		t.Errorf("the newest of the flood: %v", err)
	}
	close(release)
	busy.Wait()
	for _, answers := range []<-chan error{honest, flooding, flooding, flooding, flooding, flooding} {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	until(t, p, 0, 0)
}

// A request that is refused for others' sake is not to blame.
func TestPoolBlamesNobodyForTheLoadOfAll(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, 8*time.Hour, time.Hour)
	release := make(chan struct{})
	var group sync.WaitGroup
	for i := range 7 {
		group.Go(func() {
			ctx, leave, err := p.Enter(t.Context(), password.Class{Network: strconv.Itoa(i)})
			defer leave()
			if err == nil {
				err = p.Do(ctx, func() { <-release })
			}
			if err != nil {
				t.Error(err)
			}
		})
		until(t, p, 1, int64(i))
	}
	_, _, err := p.Enter(t.Context(), password.Class{Network: "one more"})
	if !errors.Is(err, auth.ErrOverloaded) || errors.Is(err, password.ErrExcess) {
		t.Error(err)
	}
	close(release)
	group.Wait()
}

// A request has one place, however many hashes it needs, and gives it up once.
func TestPoolKeepsAPlaceForARequestsHashes(t *testing.T) {
	t.Parallel()
	p := pool(t, 1, 2*time.Hour, time.Hour) // so one may wait
	ctx, leave, err := p.Enter(t.Context(), password.Class{Network: "a"})
	if err != nil {
		t.Fatal(err)
	}
	waiting := flood(t, p, password.Class{Network: "b"}, 1)
	for range 3 {
		if err := p.Do(ctx, func() {}); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-waiting:
		t.Errorf("the place was given away: %v", err)
	default:
	}
	leave()
	leave()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if err := p.Do(ctx, func() {}); err != nil { // takes a place of its own
		t.Error(err)
	}
	until(t, p, 0, 0)
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
	patient := pool(t, 1, time.Hour, time.Microsecond)
	group.Go(func() {
		if err := patient.Do(t.Context(), func() { <-release }); err != nil {
			t.Error(err)
		}
	})
	until(t, patient, 1, 0)
	group.Go(func() {
		if err := patient.Do(gone, func() { t.Error("begun for nobody") }); !errors.Is(err, context.Canceled) {
			t.Errorf("gone while waiting: %v", err)
		}
	})
	until(t, patient, 1, 1)
	cancel()
	until(t, patient, 1, 0)
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
