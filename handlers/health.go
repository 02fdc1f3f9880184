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

// Health tells whether the service can do its work. Store is required.
type Health struct {
	Store    *persistence.Store      // has to answer and to take changes
	Needed   map[string]func() error // without which requests fail, by name
	Expected map[string]func() error // without which requests succeed, and something waits
}

// databaseTimeout bounds the check of the database. With the age that a result of Store.Writable
// may have, a fault shows within two seconds.
const databaseTimeout = 1500 * time.Millisecond

// Check answers auth.health. It returns an auth.ErrUnavailable error that names the part
// that is away, or the database if that takes no changes.
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
		if h.Expected[name]() != nil { // whose fault it is has been logged there
			reply.Status, reply.Degraded = "degraded", append(reply.Degraded, name)
		}
	}
	return reply, nil
}

// Reasons why a part fails.
const (
	reasonAway        = "away"
	reasonNotWritable = "not_writable" // it answers, and takes no changes
)

// checkDatabase returns an error unless the database answers and takes changes.
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
