package handlers

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/internal/clock"
	"github.com/zyotra/auth/persistence"
)

// endBatch is the maximum number of session rows that one transaction ends or deletes.
const endBatch = 1000

// EndAll ends all sessions of a user in the caller's transaction, or all except keep, which must be
// live. Every operation that ends all of a user's sessions calls it, before it changes a credential.
//
// It raises the user's epoch, which locks the user's row, as logins do: an earlier login has
// stored its session by then, and a later one reads the user as the transaction leaves it. After the
// commit no session of a former epoch is live, and its tokens cannot be refreshed. The transaction
// ends the rows of the most recently used sessions, at most endBatch, with their events; Endings ends
// the others. So the transaction takes the same time for any number of sessions.
//
// It returns the number of rows it ended, auth.ErrNotFound if the user does not exist, and
// auth.ErrTokenRevoked if keep is not live.
func (s *Sessions) EndAll(ctx context.Context, tx *persistence.Store, user auth.UserID, keep string, reason auth.Reason) (int, error) {
	epoch, err := tx.RaiseEpoch(ctx, user)
	if err != nil {
		return 0, err
	}
	if keep != "" {
		kept, err := tx.KeepSession(ctx, user, keep, epoch)
		if err == nil && !kept {
			err = auth.ErrTokenRevoked
		}
		if err != nil {
			return 0, err
		}
	}
	ending := persistence.SessionEnding{UserID: user, Epoch: epoch, Reason: reason}
	ended, err := tx.EndLastUsed(ctx, ending, endBatch, s.Clock.Now())
	if err != nil {
		return 0, err
	}
	if len(ended) == endBatch {
		if err := tx.AddEnding(ctx, ending); err != nil {
			return 0, err
		}
	}
	return len(ended), s.tellEnded(ctx, tx, ended)
}

// endOfDeleted is EndAll for a user that the transaction deletes: it also deletes the ended rows.
func (s *Sessions) endOfDeleted(ctx context.Context, tx *persistence.Store, user auth.UserID) error {
	if _, err := s.EndAll(ctx, tx, user, "", auth.ReasonUserDeleted); err != nil {
		return err
	}
	deleted, err := tx.DeleteSessions(ctx, user, endBatch)
	if err != nil || deleted < endBatch {
		return err
	}
	return tx.AddEnding(ctx, persistence.SessionEnding{UserID: user, Reason: auth.ReasonUserDeleted})
}

// Endings ends the session rows that EndAll has left, with their events. Every instance runs it, so
// another instance continues after a crash. Sessions, Log and Clock are those of the service.
type Endings struct {
	Sessions *Sessions
	Log      *slog.Logger
	Clock    clock.Func
}

// endingsEvery is how often an instance looks for rows to end. Until Endings ends them, local
// verifiers accept the access tokens of the sessions beyond endBatch that one operation ended.
const endingsEvery = time.Second

// Run ends the remaining rows repeatedly until ctx ends. It logs an error and retries.
func (e *Endings) Run(ctx context.Context) error {
	tick := time.NewTicker(endingsEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := e.Once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failed:
			e.Log.Warn("sessions cannot be ended", "err", err)
		case err == nil && failed:
			e.Log.Info("sessions are ended again")
		}
		failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Once ends all remaining rows that no other instance is ending, in one transaction per batch.
func (e *Endings) Once(ctx context.Context) error {
	left, err := e.Sessions.Store.HasEndings(ctx)
	for left && err == nil {
		left, err = e.batch(ctx)
	}
	return err
}

// batch ends one batch, and reports whether it found an ending.
func (e *Endings) batch(ctx context.Context) (found bool, err error) {
	err = e.Sessions.Store.Tx(ctx, func(ctx context.Context, tx *persistence.Store) error {
		ending, err := tx.HoldEnding(ctx)
		if errors.Is(err, auth.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		return e.end(ctx, tx, ending)
	})
	return found, err
}

// end ends a batch of the rows of an ending, and removes the ending with its last batch. It locks the
// user's row first, as every transaction does that ends several sessions of a user, to prevent a
// deadlock.
func (e *Endings) end(ctx context.Context, tx *persistence.Store, ending persistence.SessionEnding) error {
	_, err := tx.HoldUser(ctx, ending.UserID)
	isDeleted := errors.Is(err, auth.ErrNotFound)
	if err != nil && !isDeleted {
		return err
	}
	ended, err := tx.EndNext(ctx, ending, endBatch, e.Clock.Now())
	if err != nil {
		return err
	}
	if err := e.Sessions.tellEnded(ctx, tx, ended); err != nil {
		return err
	}
	deleted := 0
	if isDeleted {
		if deleted, err = tx.DeleteSessions(ctx, ending.UserID, endBatch); err != nil {
			return err
		}
	}
	if len(ended) == endBatch || deleted == endBatch {
		return nil
	}
	return tx.RemoveEnding(ctx, ending)
}
