package http

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/bus"
)

// healthy answers while the process lives.
func (e *Edge) healthy(c *fiber.Ctx) error {
	return c.JSON(auth.HealthReply{Status: "alive"})
}

// ready answers 200 if requests would succeed, and otherwise names the part that is away.
func (e *Edge) ready(c *fiber.Ctx) error {
	reply, err := e.Ready(e.context(c))
	if err != nil {
		return err
	}
	return c.JSON(reply)
}

// readyWithin is how long the service may take to say that it is ready. Who probes waits no longer.
const readyWithin = 2 * time.Second

// Ready asks the service whether requests would succeed. It returns an auth.ErrUnavailable error
// that names the part that is away, which is the bus if nobody answers.
func (e *Edge) Ready(ctx context.Context) (auth.HealthReply, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	reply, err := bus.Call(ctx, e.conn, auth.Health, auth.HealthRequest{})
	var known *auth.Error
	if err == nil || errors.As(err, &known) && known.Fields != nil {
		return reply, err
	}
	return auth.HealthReply{}, fmt.Errorf("%w: %w", auth.ErrUnavailable.With(auth.Field{Field: "bus", Reason: "away"}), err)
}
