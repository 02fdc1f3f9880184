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
	limit, err := pageLimit(req.After, req.Limit)
	if err != nil {
		return auth.UsersSnapshotReply{}, err
	}
	sequence, err := s.Sequence(ctx)
	if err != nil {
		away := auth.ErrUnavailable.With(auth.Field{Field: "events", Reason: "away"})
		return auth.UsersSnapshotReply{}, fmt.Errorf("%w: %w", away, err)
	}
	users, next, err := userPage(ctx, s.Store, req.After, limit)
	if err != nil {
		return auth.UsersSnapshotReply{}, err
	}
	return auth.UsersSnapshotReply{Users: users, Next: next, Sequence: sequence}, nil
}

// pageLimit is the length of a page that is asked for. It returns an auth.ErrInvalid error that
// names the members at fault.
func pageLimit(after auth.UserID, limit int) (int, error) {
	var faults []auth.Field
	if after < 0 {
		faults = append(faults, auth.Field{Field: "after", Reason: reasonInvalid})
	}
	if limit < 0 || limit > maxPage {
		faults = append(faults, auth.Field{Field: "limit", Reason: reasonInvalid})
	}
	switch {
	case faults != nil:
		return 0, auth.ErrInvalid.With(faults...)
	case limit == 0:
		return defaultPage, nil
	}
	return limit, nil
}

// userPage reads the page of accounts behind an id, and the id that the next one is behind: 0
// if there is none.
func userPage(ctx context.Context, store *persistence.Store, after auth.UserID, limit int) (users []auth.User, next auth.UserID, err error) {
	users, err = store.Users(ctx, after, limit+1)
	if err != nil || len(users) <= limit {
		return users, 0, err
	}
	return users[:limit], users[limit-1].UserID, nil
}
