package persistence

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/trace"
)

type outboxRow struct {
	bun.BaseModel `bun:"table:outbox,alias:o"`

	Seq     int64     `bun:"seq,pk,autoincrement"`
	ID      string    `bun:"id"`
	Type    string    `bun:"type"`
	Subject string    `bun:"subject"`
	Time    time.Time `bun:"time"`
	Data    string    `bun:"data"`
	Trace   string    `bun:"traceparent"`
}

// pendingRow is an event of the outbox that waits to be published.
type pendingRow struct {
	bun.BaseModel `bun:"table:outbox_pending,alias:p"`

	Seq     int64  `bun:"seq,pk"`
	Subject string `bun:"subject"` // subject of the event; NULL in a row of an earlier version until the relay fills it in
	Urgent  bool   `bun:"urgent"`  // published before events that are not urgent
}

// isPending holds for an event that waits to be published.
const isPending = "EXISTS (SELECT 1 FROM outbox_pending AS p WHERE p.seq = o.seq)"

func (r outboxRow) event() events.Event {
	return events.Event{ID: r.ID, Type: r.Type, Subject: r.Subject, Time: r.Time.UTC(), Data: json.RawMessage(r.Data), Trace: r.Trace}
}

// Emit writes events, in their order, in the transaction of the change that they describe. The end of
// the transaction wakes the relay of this process. Emit returns an error outside of a transaction.
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
	return s.fault("insert events", s.insertPending(ctx, s.write, rows))
}

// Woken returns a channel that receives after transactions of this process that emitted events.
func (s *Store) Woken() <-chan struct{} { return s.woken }

// tell passes events to OnCommit if their transaction has committed, and wakes the relay. It also wakes
// the relay if the transaction has failed with err: a commit may succeed although it returns an error.
func (s *Store) tell(emitted []events.Data, err error) {
	if err == nil && s.OnCommit != nil {
		for _, d := range emitted {
			s.OnCommit(d)
		}
	}
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// noteTimeout bounds the statement that removes published events from the pending ones, if the database
// does not respond.
const noteTimeout = 5 * time.Second

// Take passes pending events, at most n, to publish: urgent ones (events.UrgentTypes) first, then the
// oldest. Events of one subject keep their order, so earlier events of its subject precede an urgent one.
// publish returns the number of events that it published, from the first; Take removes these from the
// pending events. Take returns the number of events that it passed. One instance at a time runs Take;
// other instances wait. If the removal fails, the events are published again. The error is publish's, the
// database's, or both.
func (s *Store) Take(ctx context.Context, n int, publish func(context.Context, []events.Event) (int, error)) (taken int, err error) {
	var failed error
	err = s.exclusively(ctx, s, func(ctx context.Context, s *Store) error {
		rows, err := s.pending(ctx, n)
		if taken = len(rows); err != nil || taken == 0 {
			return err
		}
		list, seqs := make([]events.Event, taken), make([]int64, taken)
		for i, r := range rows {
			list[i], seqs[i] = r.event(), r.Seq
		}
		var done int
		if done, failed = publish(ctx, list); done == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout) // the events are published, even if ctx ends
		defer cancel()
		_, err = s.write.NewDelete().Model((*pendingRow)(nil)).Where("seq IN (?)", bun.List(seqs[:done])).Exec(ctx)
		return err
	})
	return taken, errors.Join(failed, s.fault("take events", err))
}

// pending returns the next events to publish, at most n. It selects them by number, since Postgres could
// plan a join that reads the outbox from its beginning.
func (s *Store) pending(ctx context.Context, n int) ([]outboxRow, error) {
	seqs, err := s.turns(ctx, n)
	if err != nil || len(seqs) == 0 {
		return nil, err
	}
	var rows []outboxRow
	if err := s.read.NewSelect().Model(&rows).Where("seq IN (?)", bun.List(seqs)).Scan(ctx); err != nil {
		return nil, err
	}
	turn := make(map[int64]int, len(seqs))
	for i, seq := range seqs {
		turn[seq] = i
	}
	slices.SortFunc(rows, func(a, b outboxRow) int { return cmp.Compare(turn[a.Seq], turn[b.Seq]) })
	if len(rows) == len(seqs) {
		return rows, nil
	}
	// A sweep deleted the missing events while an operator republished them.
	_, err = s.write.NewDelete().Model((*pendingRow)(nil)).Where("seq IN (?)", bun.List(seqs)).
		Where("NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.seq = p.seq)").Exec(ctx)
	return rows, err
}

// turns returns the numbers of the next events to publish, at most n: urgent events, together with the
// earlier events of their subjects, then the oldest of the rest. In general at most n events are pending,
// and one query returns all of them.
func (s *Store) turns(ctx context.Context, n int) ([]int64, error) {
	oldest, err := s.oldestPending(ctx, n+1)
	if err == nil && slices.ContainsFunc(oldest, func(r pendingRow) bool { return r.Subject == "" }) {
		if err = s.sortPending(ctx); err == nil {
			oldest, err = s.oldestPending(ctx, n+1)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(oldest) <= n {
		return inOrder(oldest), nil
	}
	return s.turnsOfBacklog(ctx, n)
}

func (s *Store) oldestPending(ctx context.Context, n int) (rows []pendingRow, err error) {
	err = s.read.NewSelect().Model(&rows).Order("seq").Limit(int64(n)).Scan(ctx)
	return rows, err
}

// inOrder returns the numbers of rows in the order of publication: urgent rows, together with the earlier
// rows of their subjects, then the rest. The rows must be sorted by number.
func inOrder(rows []pendingRow) []int64 {
	last := lastOfSubjects(slices.DeleteFunc(slices.Clone(rows), func(r pendingRow) bool { return !r.Urgent }))
	var first []pendingRow
	var rest []int64
	for _, r := range rows {
		if r.Seq <= last[r.Subject] {
			first = append(first, r)
		} else {
			rest = append(rest, r.Seq)
		}
	}
	return append(inTurns(first), rest...)
}

// lastOfSubjects returns the highest number of each subject in rows, which must be sorted by number.
func lastOfSubjects(rows []pendingRow) map[string]int64 {
	last := make(map[string]int64, len(rows))
	for _, r := range rows {
		last[r.Subject] = r.Seq
	}
	return last
}

// sortPending fills in subject and urgency of rows that instances of an earlier version have written. In
// general there are no such rows, so it checks first: an update would lock SQLite each time the relay runs.
func (s *Store) sortPending(ctx context.Context) error {
	isUnsorted, err := s.read.NewSelect().Model((*pendingRow)(nil)).Where("subject IS NULL").Exists(ctx)
	if err != nil || !isUnsorted {
		return err
	}
	_, err = s.write.NewRaw("UPDATE outbox_pending SET subject = o.subject, urgent = o.type IN (?)"+
		" FROM outbox AS o WHERE o.seq = outbox_pending.seq AND outbox_pending.subject IS NULL", bun.List(events.UrgentTypes())).Exec(ctx)
	return err
}

// turnsOfBacklog is turns for any number of pending events.
func (s *Store) turnsOfBacklog(ctx context.Context, n int) ([]int64, error) {
	urgent, err := s.urgent(ctx, n)
	if err != nil {
		return nil, err
	}
	seqs := inTurns(urgent)
	if len(seqs) >= n { // the rest must not overtake urgent events beyond n
		return seqs[:n], nil
	}
	rest := s.read.NewSelect().Model((*pendingRow)(nil)).Column("seq").Order("seq").Limit(int64(n - len(seqs)))
	if len(seqs) > 0 {
		rest.Where("seq NOT IN (?)", bun.List(seqs))
	}
	var more []int64
	if err := rest.Scan(ctx, &more); err != nil {
		return nil, err
	}
	return append(seqs, more...), nil
}

// urgent returns the oldest urgent rows, at most n, and the earlier rows of their subjects, at most n of
// each. A row that precedes a visible row was committed before it, so urgent selects the earlier rows
// second, after sortPending has given each of them a subject.
func (s *Store) urgent(ctx context.Context, n int) (rows []pendingRow, err error) {
	err = s.read.NewSelect().Model(&rows).Where("urgent").Order("seq").Limit(int64(n)).Scan(ctx)
	if err := errors.Join(err, s.sortPending(ctx)); err != nil || len(rows) == 0 {
		return nil, err
	}
	last := lastOfSubjects(rows)
	numbered := s.read.NewSelect().Model((*pendingRow)(nil)).Column("seq", "subject").
		ColumnExpr("row_number() OVER (PARTITION BY subject ORDER BY seq) AS place").
		Where("NOT urgent AND subject IN (?)", bun.List(slices.Collect(maps.Keys(last)))).Where("seq < ?", rows[len(rows)-1].Seq)
	var earlier []pendingRow
	err = s.read.NewSelect().TableExpr("(?) AS e", numbered).Column("seq", "subject").Where("place <= ?", n).Scan(ctx, &earlier)
	for _, r := range earlier {
		if r.Seq < last[r.Subject] {
			rows = append(rows, r)
		}
	}
	return rows, err
}

// inTurns returns the numbers of rows in round-robin order: the first of each subject, then the second of
// each, and so on. A subject with many events does not delay the other subjects, and each subject keeps
// its order.
func inTurns(rows []pendingRow) []int64 {
	slices.SortFunc(rows, func(a, b pendingRow) int { return cmp.Compare(a.Seq, b.Seq) })
	place, count := make(map[int64]int, len(rows)), map[string]int{}
	for _, r := range rows {
		place[r.Seq] = count[r.Subject]
		count[r.Subject]++
	}
	slices.SortStableFunc(rows, func(a, b pendingRow) int { return cmp.Compare(place[a.Seq], place[b.Seq]) })
	seqs := make([]int64, len(rows))
	for i, r := range rows {
		seqs[i] = r.Seq
	}
	return seqs
}

// Backlog returns the number of events that wait to be published, and the time of the oldest one.
func (s *Store) Backlog(ctx context.Context) (b events.Backlog, err error) {
	err = s.read.NewSelect().Model((*pendingRow)(nil)).ColumnExpr("count(*)").Scan(ctx, &b.Events)
	if err != nil || b.Events == 0 {
		return b, s.fault("count events", err)
	}
	err = s.read.NewSelect().Model((*outboxRow)(nil)).Column("time").
		Where("seq = (SELECT min(seq) FROM outbox_pending)").Scan(ctx, &b.Oldest)
	if errors.Is(err, sql.ErrNoRows) { // published since the count
		return events.Backlog{}, nil
	}
	b.Oldest = b.Oldest.UTC()
	return b, s.fault("select oldest event", err)
}

// Republish marks the events since a time as pending again and returns how many. The stream drops the
// events that it has received within its deduplication window. With mails, Republish selects only mails,
// which are then sent again; without mails, it selects all other events. Republished events are not
// urgent: new urgent events precede them.
func (s *Store) Republish(ctx context.Context, since time.Time, mails bool) (int, error) {
	compare := "type <> ?"
	if mails {
		compare = "type = ?"
	}
	again := s.write.NewSelect().Model((*outboxRow)(nil)).Column("seq", "subject").Where("time >= ?", since).Where(compare, events.MailType)
	result, err := s.write.NewRaw("INSERT INTO outbox_pending (seq, subject) ? ON CONFLICT (seq) DO NOTHING", again).Exec(ctx)
	return count(result, s.fault("republish events", err))
}

// SweepOutbox deletes published events that happened before a time, in one small batch, and returns how
// many: fewer than the batch means that none is left.
func (s *Store) SweepOutbox(ctx context.Context, before time.Time, batch int64) (int, error) {
	return s.sweepOutbox(ctx, "TRUE", before, batch)
}

// SweepMails is SweepOutbox for mails only.
func (s *Store) SweepMails(ctx context.Context, before time.Time, batch int64) (int, error) {
	return s.sweepOutbox(ctx, "type = '"+events.MailType+"'", before, batch) // spelled as in the index
}

func (s *Store) sweepOutbox(ctx context.Context, which string, before time.Time, batch int64) (int, error) {
	old := s.read.NewSelect().Model((*outboxRow)(nil)).Column("seq").
		Where(which).Where("time <= ?", before).Where("NOT " + isPending).Order("time").Limit(batch)
	var seqs []int64
	if err := old.Scan(ctx, &seqs); err != nil || len(seqs) == 0 {
		return 0, s.fault("select old events", err)
	}
	result, err := s.write.NewDelete().Model((*outboxRow)(nil)).Where("seq IN (?)", bun.List(seqs)).Exec(ctx)
	return count(result, s.fault("delete old events", err))
}
