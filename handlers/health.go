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
	Store    *persistence.Store
	Needed   map[string]func() error // without which requests fail, by name
	Expected map[string]func() error // without which requests succeed, and something waits
}

// pingTimeout is how long the database may take to answer. Whoever asks waits little longer.
const pingTimeout = 2 * time.Second

// Check answers auth.health. It returns an auth.ErrUnavailable error that names the part
// that is away.
func (h *Health) Check(ctx context.Context, _ auth.HealthRequest) (auth.HealthReply, error) {
	ping, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := h.Store.Ping(ping); err != nil {
		return auth.HealthReply{}, away("database", err)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Needed)) {
		if err := h.Needed[name](); err != nil {
			return auth.HealthReply{}, away(name, err)
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

func away(part string, err error) error {
	return fmt.Errorf("%w: %w", auth.ErrUnavailable.With(auth.Field{Field: part, Reason: "away"}), err)
}
