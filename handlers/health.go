package handlers

import (
	"context"
	"fmt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// Health tells whether the service can do its work.
type Health struct {
	Store *persistence.Store
}

// Check answers auth.health. It returns an auth.ErrUnavailable error that names the part
// that is away.
func (h *Health) Check(ctx context.Context, _ auth.HealthRequest) (auth.HealthReply, error) {
	if err := h.Store.Ping(ctx); err != nil {
		away := auth.ErrUnavailable.With(auth.Field{Field: "database", Reason: "away"})
		return auth.HealthReply{}, fmt.Errorf("%w: %w", away, err)
	}
	return auth.HealthReply{Status: "ready"}, nil
}
