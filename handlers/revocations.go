package handlers

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/handlers/keyring"
	"github.com/zyotra/auth/persistence"
)

const (
	// revocationsPage is how many sessions one reply tells of at most: some 80 KiB.
	revocationsPage = 500
	// revocationsOverlap is how far the list is told again. What an instance writes with its
	// own clock may be visible to others later than what they wrote after it: its
	// transaction takes a while, and its clock may be behind.
	revocationsOverlap = time.Minute
	// recentOverlap is the same for callers that ask at once when they hear of an event, and for the
	// rest now and then: enough for the usual transaction and for clocks that differ by a second.
	recentOverlap = 5 * time.Second
)

// Revocations answers auth.revocations: sessions that ended and whose access tokens may be
// good otherwise, oldest first. It returns auth.ErrInvalid for a cursor that is none.
func (s *Sessions) Revocations(ctx context.Context, req auth.RevocationsRequest) (auth.RevocationsReply, error) {
	now := s.Clock.Now()
	remembered, err := keyring.Horizon(ctx, s.Store, s.AccessTTL)
	if err != nil {
		return auth.RevocationsReply{}, err
	}
	oldest := persistence.RevocationCursor{At: now.Add(-remembered - revocationsOverlap)}
	after, err := parseCursor(req.Since, oldest)
	if err != nil {
		return auth.RevocationsReply{}, err
	}
	list, last, err := s.Store.Revocations(ctx, after, revocationsPage)
	if err != nil {
		return auth.RevocationsReply{}, err
	}
	more := len(list) == revocationsPage
	reply := auth.RevocationsReply{Revoked: list, Cursor: cursor(last), More: more, Now: now}
	if !more {
		reply.Cursor = cursor(persistence.RevocationCursor{At: now.Add(-revocationsOverlap)})
		reply.Recent = cursor(persistence.RevocationCursor{At: now.Add(-recentOverlap)})
	}
	return reply, nil
}

func cursor(e persistence.RevocationCursor) string {
	return fmt.Sprintf("%d.%d", e.At.UnixMicro(), e.Seq)
}

// parseCursor reads a cursor, which never leads further back than what matters.
func parseCursor(text string, oldest persistence.RevocationCursor) (persistence.RevocationCursor, error) {
	if text == "" {
		return oldest, nil
	}
	left, right, _ := strings.Cut(text, ".")
	at, err := strconv.ParseInt(left, 10, 64)
	seq, err2 := strconv.ParseInt(right, 10, 64)
	if err != nil || err2 != nil || at < 0 || seq < 0 {
		return persistence.RevocationCursor{}, auth.ErrInvalid.With(auth.Field{Field: "since", Reason: reasonInvalid})
	}
	e := persistence.RevocationCursor{At: time.UnixMicro(at).UTC(), Seq: seq}
	if e.At.Before(oldest.At) {
		return oldest, nil
	}
	return e, nil
}
