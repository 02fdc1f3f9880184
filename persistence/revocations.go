package persistence

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/zyotra/auth"
)

// RevocationCursor is a position in the list of sessions that have ended.
type RevocationCursor struct {
	At  time.Time
	Seq int64
}

// Revocations returns the sessions after a position in the list, at most n, and the position of the last
// of them. It reads them from their events, which remain when their users are deleted.
func (s *Store) Revocations(ctx context.Context, after RevocationCursor, n int) (list []auth.Revocation, last RevocationCursor, err error) {
	var rows []outboxRow
	err = s.read.NewSelect().Model(&rows).Column("seq", "time", "data").
		Where("type = 'session.revoked' AND (time, seq) > (?, ?)", after.At, after.Seq).
		Order("time", "seq").Limit(int64(n)).Scan(ctx)
	if err != nil {
		return nil, after, s.fault("select revocations", err)
	}
	list, last = make([]auth.Revocation, len(rows)), after
	for i, r := range rows {
		if err := json.Unmarshal([]byte(r.Data), &list[i]); err != nil {
			return nil, after, fmt.Errorf("event %d: %w", r.Seq, err)
		}
		last = RevocationCursor{r.Time.UTC(), r.Seq}
	}
	return list, last, nil
}
