package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Instance is an instance of the service that answers on the bus.
type Instance struct {
	ID      string
	Version string
}

// instancesWithin is how long Instances waits for the next reply.
const instancesWithin = 500 * time.Millisecond

// Instances returns the instances that answer a request of the services protocol. Their number is
// unknown, so it collects replies until none arrives for instancesWithin, or ctx ends. If the caller
// lacks the right to send the request, Instances returns an empty list, and only the connection's
// error handler receives nats.ErrPermissionViolation.
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
		if err != nil { // no further reply
			break
		}
		var info micro.Info
		if json.Unmarshal(reply.Data, &info) == nil && info.ID != "" {
			list = append(list, Instance{ID: info.ID, Version: info.Version})
		}
	}
	return list, nil
}
