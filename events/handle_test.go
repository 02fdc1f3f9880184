package events

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zyotra/auth"
)

// working is a message that counts how often it is said to be worked on.
type working struct {
	jetstream.Msg
	said atomic.Int32
}

func (w *working) InProgress() error { w.said.Add(1); return nil }

// While a handler takes longer than the stream waits, the stream hears of it.
func TestASlowHandlerIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := On(func(ctx context.Context, _ Event, d UserDeleted) error {
			time.Sleep(handledWithin + handledWithin/2)
			if d.UserID != auth.UserID(1) {
				t.Errorf("%+v", d)
			}
			return ctx.Err()
		})
		s := Subscription{Consumer: Consumer{Timeout: time.Minute}, handlers: map[string]Handler{"user.deleted": slow}}
		m := &working{}
		err := s.handle(t.Context(), m, Event{Type: "user.deleted", Data: []byte(`{"userId":1}`)})
		if err != nil || m.said.Load() != 4 {
			t.Errorf("said %d times, %v", m.said.Load(), err)
		}
	})
}
