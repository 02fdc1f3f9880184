package bus

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

type someKey struct{}

func within1h() *deadline {
	parent := context.WithValue(context.Background(), someKey{}, "value")
	return &deadline{Context: parent, at: time.Now().Add(time.Hour)}
}

// A deadline is what context.WithDeadline makes, whenever somebody begins to wait for its end.
func TestADeadlineIsAContext(t *testing.T) {
	d := within1h()
	if at, ok := d.Deadline(); !ok || at != d.at || d.Err() != nil || d.Value(someKey{}) != "value" {
		t.Errorf("%s, %t, %v, %v", at, ok, d.Err(), d.Value(someKey{}))
	}
	before := runtime.NumGoroutine()
	child, cancel := context.WithCancel(d)
	defer cancel()
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines for a context within it", n-before)
	}
	if d.Err() != nil || child.Err() != nil || child.Value(someKey{}) != "value" {
		t.Errorf("%v, %v, %v", d.Err(), child.Err(), child.Value(someKey{}))
	}
	d.end()
	<-d.Done()
	<-child.Done()
	if !errors.Is(d.Err(), context.Canceled) || !errors.Is(child.Err(), context.Canceled) {
		t.Errorf("%v, %v", d.Err(), child.Err())
	}
}

func TestADeadlinePasses(t *testing.T) {
	for name, wait := range map[string]bool{"while somebody waits": true, "while nobody does": false} {
		d := &deadline{Context: context.Background(), at: time.Now().Add(10 * time.Millisecond)}
		if wait {
			<-d.Done()
		}
		for d.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		<-d.Done()
		d.end()
		if err := d.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADeadlineThatHasEndedIsOverForWhoComesLate(t *testing.T) {
	d := within1h()
	d.end()
	if err := d.Err(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-d.Done()
	if err := d.Err(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
