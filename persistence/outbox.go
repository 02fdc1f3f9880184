package persistence

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/zyotra/auth/events"
)

type outboxRow struct {
	bun.BaseModel `bun:"table:outbox,alias:o"`

	Seq         int64     `bun:"seq,pk,autoincrement"`
	ID          string    `bun:"id"`
	Type        string    `bun:"type"`
	Subject     string    `bun:"subject"`
	Time        time.Time `bun:"time"`
	Data        string    `bun:"data"`
	PublishedAt time.Time `bun:"published_at,nullzero"`
}

func (r outboxRow) event() events.Event {
	return events.Event{ID: r.ID, Type: r.Type, Subject: r.Subject, Time: r.Time.UTC(), Data: json.RawMessage(r.Data)}
}

// Emit writes events, in their order, with the transaction that makes the change they tell
// of. It may be called in a transaction alone, and the relay is woken when that commits.
func (s *Store) Emit(ctx context.Context, at time.Time, data ...events.Data) error {
	if len(data) == 0 {
		return nil
	}
	rows := make([]outboxRow, len(data))
	for i, d := range data {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make event id: %w", err)
		}
		text, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("encode %s: %w", d.Type(), err)
		}
		rows[i] = outboxRow{ID: id.String(), Type: d.Type(), Subject: d.Subject(), Time: at, Data: string(text)}
	}
	if s.emitted != nil {
		*s.emitted = true
	}
	_, err := s.write.NewInsert().Model(&rows).Exec(ctx)
	return s.fault("insert events", err)
}

// Woken receives after commits of this process that emitted something.
func (s *Store) Woken() <-chan struct{} { return s.woken }

// wake tells the relay, if it does not know yet.
func (s *Store) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Take hands the oldest unpublished events, at most n, to publish, notes as many of them as
// published as that says, and tells how many it handed over. Of all instances one does so
// at a time, and the others wait. What publish did stays done if the note fails: then the
// events are published again.
func (s *Store) Take(ctx context.Context, n int, publish func(context.Context, []events.Event) (int, error)) (taken int, err error) {
	err = s.exclusively(ctx, s, func(ctx context.Context, s *Store) error {
		var rows []outboxRow
		if err := s.read.NewSelect().Model(&rows).Where("published_at IS NULL").Order("seq").Limit(int64(n)).Scan(ctx); err != nil {
			return err
		}
		if taken = len(rows); taken == 0 {
			return nil
		}
		list, seqs := make([]events.Event, taken), make([]int64, taken)
		for i, r := range rows {
			list[i], seqs[i] = r.event(), r.Seq
		}
		done, failed := publish(ctx, list)
		if done > 0 {
			// The note must not be lost to a context that ended meanwhile.
			ctx := context.WithoutCancel(ctx)
			_, err := s.write.NewUpdate().Model((*outboxRow)(nil)).Set("published_at = ?", time.Now().UTC().Truncate(time.Microsecond)).
				Where("seq IN (?)", bun.List(seqs[:done])).Exec(ctx)
			if err != nil {
				return err
			}
		}
		publishErr = failed
		return nil
	})
	return taken, s.fault("take events", err)
}
