package handlers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// Health reports whether the service can serve requests. Store is required.
type Health struct {
	Store    *persistence.Store      // has to answer and to accept writes
	Needed   map[string]func() error // checks of parts without which requests fail, by name
	Expected map[string]func() error // checks of parts without which requests succeed, but events or mails wait
}

// databaseTimeout bounds the check of the database. Including the maximum age of a result of
// Store.Writable, Check reports a fault within two seconds.
const databaseTimeout = 1500 * time.Millisecond

// Check answers auth.health. It returns an auth.ErrUnavailable error that names the unreachable
// part, or the database if it accepts no writes.
func (h *Health) Check(ctx context.Context, _ auth.HealthRequest) (auth.HealthReply, error) {
	if err := h.checkDatabase(ctx); err != nil {
		return auth.HealthReply{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(h.Needed)) {
		if err := h.Needed[name](); err != nil {
			return auth.HealthReply{}, fails(name, reasonAway, err)
		}
	}
	reply := auth.HealthReply{Status: "ready"}
	for _, name := range slices.Sorted(maps.Keys(h.Expected)) {
		if h.Expected[name]() != nil { // the part itself logs the cause
			reply.Status, reply.Degraded = "degraded", append(reply.Degraded, name)
		}
	}
	return reply, nil
}

// Reasons why a part fails.
const (
	reasonAway        = "away"
	reasonNotWritable = "not_writable" // it answers but accepts no writes
)

// checkDatabase returns an error unless the database answers and accepts writes.
func (h *Health) checkDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	if err := h.Store.Ping(ctx); err != nil {
		return fails("database", reasonAway, err)
	}
	if err := h.Store.Writable(ctx); err != nil {
		return fails("database", reasonNotWritable, err)
	}
	return nil
}

func fails(part, reason string, err error) error {
	return fmt.Errorf("%w: %w", auth.ErrUnavailable.With(auth.Field{Field: part, Reason: reason}), err)
}
