package handlers

import (
	"context"
	"fmt"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/persistence"
)

// Snapshot returns the accounts to services that keep a copy of the list of users.
type Snapshot struct {
	Store *persistence.Store
	// Sequence returns the sequence number of the latest event in the stream, 0 if there is none.
	Sequence func(context.Context) (uint64, error)
}

// Bounds of a page, in accounts. The longest reply stays below the NATS message limit of 1 MiB.
const (
	defaultPage = 100
	maxPage     = 500
)

// Users answers auth.users.snapshot: it returns a page of accounts. It reads the sequence before the accounts:
// every event up to that sequence is published by then, so its change is committed and visible. It returns an
// auth.ErrInvalid error that names the invalid members, and auth.ErrUnavailable if Sequence fails.
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

// pageLimit returns the requested page length, or defaultPage if the request has none. It returns an
// auth.ErrInvalid error that names the invalid members.
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

// userPage returns the page of accounts after an id, and the id after which the next page starts: 0
// if there is none.
func userPage(ctx context.Context, store *persistence.Store, after auth.UserID, limit int) (users []auth.User, next auth.UserID, err error) {
	users, err = store.Users(ctx, after, limit+1)
	if err != nil || len(users) <= limit {
		return users, 0, err
	}
	return users[:limit], users[limit-1].UserID, nil
}
