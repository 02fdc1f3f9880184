package persistence

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/trace"
)

type outboxRow struct {
	bun.BaseModel `bun:"table:outbox,alias:o"`

	Seq         int64     `bun:"seq,pk,autoincrement"`
	ID          string    `bun:"id"`
	Type        string    `bun:"type"`
	Subject     string    `bun:"subject"`
	Time        time.Time `bun:"time"`
	Data        string    `bun:"data"`
	Trace       string    `bun:"traceparent"`
	PublishedAt time.Time `bun:"published_at,nullzero"`
}

func (r outboxRow) event() events.Event {
	return events.Event{ID: r.ID, Type: r.Type, Subject: r.Subject, Time: r.Time.UTC(), Data: json.RawMessage(r.Data), Trace: r.Trace}
}

// Emit writes events, in their order, in the transaction that makes the change they tell of.
// The relay of this process is woken when that ends.
func (s *Store) Emit(ctx context.Context, at time.Time, data ...events.Data) error {
	if s.emitted == nil {
		return errors.New("emit: not in a transaction")
	}
	if len(data) == 0 {
		return nil
	}
	rows, parent := make([]outboxRow, len(data)), trace.Parent(ctx)
	for i, d := range data {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("make event id: %w", err)
		}
		text, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("encode %s: %w", d.Type(), err)
		}
		rows[i] = outboxRow{ID: id.String(), Type: d.Type(), Subject: d.Subject(), Time: at, Data: string(text), Trace: parent}
	}
	*s.emitted = append(*s.emitted, data...)
	_, err := s.write.NewInsert().Model(&rows).Exec(ctx)
	return s.fault("insert events", err)
}

// Woken receives after transactions of this process that emitted something.
func (s *Store) Woken() <-chan struct{} { return s.woken }

// tell lets this process know of events whose transaction has ended with err. If it failed
// they may be there all the same, so the relay looks.
func (s *Store) tell(emitted []events.Data, err error) {
	if err == nil && s.Told != nil {
		for _, d := range emitted {
			s.Told(d)
		}
	}
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// noteTimeout bounds noting what was published, with a database that says nothing.
const noteTimeout = 5 * time.Second

// Take hands the oldest unpublished events, at most n, to publish, notes as many of them as
// published as that says, and tells how many it handed over. Of all instances one does so
// at a time, and the others wait. If the note fails the events are published again. The
// error is publish's, or the database's.
func (s *Store) Take(ctx context.Context, n int, publish func(context.Context, []events.Event) (int, error)) (taken int, err error) {
	var failed error
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
		var done int
		if done, failed = publish(ctx, list); done == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout) // they are out, whoever stops us
		defer cancel()
		_, err := s.write.NewUpdate().Model((*outboxRow)(nil)).Set("published_at = ?", now()).
			Where("seq IN (?)", bun.List(seqs[:done])).Exec(ctx)
		return err
	})
	return taken, errors.Join(failed, s.fault("take events", err))
}

// now is for notes that no rule depends on.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Backlog tells what waits to be published.
func (s *Store) Backlog(ctx context.Context) (b events.Backlog, err error) {
	err = s.read.NewSelect().Model((*outboxRow)(nil)).ColumnExpr("count(*)").Where("published_at IS NULL").Scan(ctx, &b.Events)
	if err != nil || b.Events == 0 {
		return b, s.fault("count events", err)
	}
	err = s.read.NewSelect().Model((*outboxRow)(nil)).Column("time").Where("published_at IS NULL").Order("seq").Limit(1).Scan(ctx, &b.Oldest)
	if errors.Is(err, sql.ErrNoRows) { // published meanwhile
		return events.Backlog{}, nil
	}
	b.Oldest = b.Oldest.UTC()
	return b, s.fault("select oldest event", err)
}

// Republish lets events since a time be published once more, and tells how many. The stream drops
// those it has had within its window. Mails would be sent once more: they are left out unless
// they are what is asked for, and then nothing else is published.
func (s *Store) Republish(ctx context.Context, since time.Time, mails bool) (int, error) {
	compare := "type <> ?"
	if mails {
		compare = "type = ?"
	}
	result, err := s.write.NewUpdate().Model((*outboxRow)(nil)).Set("published_at = NULL").
		Where("time >= ? AND published_at IS NOT NULL", since).Where(compare, events.MailType).Exec(ctx)
	return count(result, s.fault("republish events", err))
}

// Ending is a place in the list of sessions that have ended.
type Ending struct {
	At  time.Time
	Seq int64
}

// Revocations returns sessions that ended after a place in the list, at most n, and the
// place of the last of them. They are read from their events, which stay when their users
// are deleted.
func (s *Store) Revocations(ctx context.Context, after Ending, n int) (list []auth.Revocation, last Ending, err error) {
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
		last = Ending{r.Time.UTC(), r.Seq}
	}
	return list, last, nil
}

// SweepOutbox deletes published events that happened before a time, in one small batch, and
// tells how many: fewer than the batch means that none is left.
func (s *Store) SweepOutbox(ctx context.Context, before time.Time, batch int64) (int, error) {
	return s.sweepOutbox(ctx, "TRUE", before, batch)
}

// SweepMails is SweepOutbox for mails alone.
func (s *Store) SweepMails(ctx context.Context, before time.Time, batch int64) (int, error) {
	return s.sweepOutbox(ctx, "type = '"+events.MailType+"'", before, batch) // spelled as in the index
}

func (s *Store) sweepOutbox(ctx context.Context, which string, before time.Time, batch int64) (int, error) {
	old := s.read.NewSelect().Model((*outboxRow)(nil)).Column("seq").
		Where(which).Where("time <= ? AND published_at IS NOT NULL", before).Order("time").Limit(batch)
	var seqs []int64
	if err := old.Scan(ctx, &seqs); err != nil || len(seqs) == 0 {
		return 0, s.fault("select old events", err)
	}
	result, err := s.write.NewDelete().Model((*outboxRow)(nil)).Where("seq IN (?)", bun.List(seqs)).Exec(ctx)
	return count(result, s.fault("delete old events", err))
}
