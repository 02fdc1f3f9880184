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
	// revocationsPage is the maximum number of sessions in one reply: about 80 KiB.
	revocationsPage = 500
	// revocationsOverlap is the period that the next reply repeats. A row that an instance writes with its
	// own clock may become visible after later rows of another instance: its transaction takes time, and
	// its clock may be behind.
	revocationsOverlap = time.Minute
	// recentOverlap is the shorter overlap for callers that request the list as soon as an event arrives, and
	// request the longer overlap now and then: it covers the usual transaction and clocks that differ by a second.
	recentOverlap = 5 * time.Second
)

// Revocations answers auth.revocations: it returns the ended sessions whose access tokens may not have
// expired yet, oldest first. It returns auth.ErrInvalid for a malformed cursor.
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

// parseCursor parses a cursor and returns oldest if the cursor is empty or older. It returns auth.ErrInvalid
// for a malformed cursor.
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
