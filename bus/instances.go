package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Instance is one that answers on the bus.
type Instance struct {
	ID      string
	Version string
}

// instancesWithin is how long instances may take to tell of themselves after the last one that did.
const instancesWithin = 500 * time.Millisecond

// Instances asks those that answer to tell of themselves. Nobody knows how many they are, so it
// listens until none has told for a while, or ctx ends. Whoever may not ask gets
// nats.ErrPermissionViolation only in their connection's error handler, and here none.
func Instances(ctx context.Context, conn *nats.Conn) (list []Instance, err error) {
	subject, err := micro.ControlSubject(micro.InfoVerb, ServiceName, "")
	if err != nil {
		return nil, err
	}
	inbox := conn.NewInbox()
	replies, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	defer func() { _ = replies.Unsubscribe() }()
	if err := conn.PublishRequest(subject, inbox, nil); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	for ctx.Err() == nil {
		reply, err := replies.NextMsg(instancesWithin)
		if err != nil { // none any more, or none at all
			break
		}
		var info micro.Info
		if json.Unmarshal(reply.Data, &info) == nil && info.ID != "" {
			list = append(list, Instance{ID: info.ID, Version: info.Version})
		}
	}
	return list, nil
}
