package handlers

import (
	"context"
	"fmt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// Snapshot tells services that keep a list of users who there is.
type Snapshot struct {
	Store *persistence.Store
	// Sequence is the number of the latest event in the stream, 0 if there is none.
	Sequence func(context.Context) (uint64, error)
}

// Bounds of a page. The reply of the longest one stays below what NATS carries, 1 MiB.
const (
	defaultPage = 100
	maxPage     = 500
)

// Users answers auth.users.snapshot. The sequence is read before the accounts: an event that
// has it or a lower one was published by then, so what it tells of was committed and is seen.
func (s *Snapshot) Users(ctx context.Context, req auth.UsersSnapshotRequest) (auth.UsersSnapshotReply, error) {
	var faults []auth.Field
	if req.After < 0 {
		faults = append(faults, auth.Field{Field: "after", Reason: reasonInvalid})
	}
	if req.Limit < 0 || req.Limit > maxPage {
		faults = append(faults, auth.Field{Field: "limit", Reason: reasonInvalid})
	}
	if faults != nil {
		return auth.UsersSnapshotReply{}, auth.ErrInvalid.With(faults...)
	}
	if req.Limit == 0 {
		req.Limit = defaultPage
	}
	sequence, err := s.Sequence(ctx)
	if err != nil {
		away := auth.ErrUnavailable.With(auth.Field{Field: "events", Reason: "away"})
		return auth.UsersSnapshotReply{}, fmt.Errorf("%w: %w", away, err)
	}
	users, err := s.Store.Accounts(ctx, req.After, req.Limit+1)
	if err != nil {
		return auth.UsersSnapshotReply{}, err
	}
	reply := auth.UsersSnapshotReply{Users: users, Sequence: sequence}
	if len(users) > req.Limit {
		reply.Users = users[:req.Limit]
		reply.Next = users[req.Limit-1].UserID
	}
	return reply, nil
}
