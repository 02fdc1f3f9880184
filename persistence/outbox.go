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
	Subject string `bun:"subject"` // that of the event; NULL until the relay fills in what an earlier version left out
	Urgent  bool   `bun:"urgent"`  // it goes before those that are not
}

// isPending holds for an event that waits to be published.
const isPending = "EXISTS (SELECT 1 FROM outbox_pending AS p WHERE p.seq = o.seq)"

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
	return s.fault("insert events", s.insertPending(ctx, s.write, rows))
}

// Woken receives after transactions of this process that emitted something.
func (s *Store) Woken() <-chan struct{} { return s.woken }

// tell lets this process know of events whose transaction has ended with err. If it failed
// they may be there all the same, so the relay looks.
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

// noteTimeout bounds noting what was published, with a database that says nothing.
const noteTimeout = 5 * time.Second

// Take hands unpublished events, at most n, to publish: urgent ones (events.UrgentTypes) first, then the
// oldest. Events of one subject keep their order, so those that precede an urgent one go before it. Take notes as many of them as
// published as that says, and tells how many it handed over. Of all instances one does so
// at a time, and the others wait. If the note fails the events are published again. The
// error is publish's, or the database's.
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
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout) // they are out, whoever stops us
		defer cancel()
		_, err = s.write.NewDelete().Model((*pendingRow)(nil)).Where("seq IN (?)", bun.List(seqs[:done])).Exec(ctx)
		return err
	})
	return taken, errors.Join(failed, s.fault("take events", err))
}

// pending returns the events whose turn it is, at most n. It asks for them by number, since a join
// could be planned as one that reads the outbox from its beginning.
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
	// The others were deleted just when somebody let them be published once more.
	_, err = s.write.NewDelete().Model((*pendingRow)(nil)).Where("seq IN (?)", bun.List(seqs)).
		Where("NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.seq = p.seq)").Exec(ctx)
	return rows, err
}

// turns returns the numbers of the events whose turn it is, at most n: the urgent ones and those of
// the same subjects that precede them, then the oldest of the rest. In general there are no more than n, and
// one query tells them all.
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

// inOrder returns the numbers of rows, which are sorted by number: the urgent ones and those of the same
// subjects that precede them, then the rest.
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

// lastOfSubjects returns the highest number of each subject in rows, which are sorted by number.
func lastOfSubjects(rows []pendingRow) map[string]int64 {
	last := make(map[string]int64, len(rows))
	for _, r := range rows {
		last[r.Subject] = r.Seq
	}
	return last
}

// sortPending fills in subject and urgency of rows that instances of an earlier version have written.
// There are none in general, so it looks first: an update would lock SQLite at every turn of a relay.
func (s *Store) sortPending(ctx context.Context) error {
	isUnsorted, err := s.read.NewSelect().Model((*pendingRow)(nil)).Where("subject IS NULL").Exists(ctx)
	if err != nil || !isUnsorted {
		return err
	}
	_, err = s.write.NewRaw("UPDATE outbox_pending SET subject = o.subject, urgent = o.type IN (?)"+
		" FROM outbox AS o WHERE o.seq = outbox_pending.seq AND outbox_pending.subject IS NULL", bun.List(events.UrgentTypes())).Exec(ctx)
	return err
}

// turnsOfBacklog is turns for any number of waiting events.
func (s *Store) turnsOfBacklog(ctx context.Context, n int) ([]int64, error) {
	urgent, err := s.urgent(ctx, n)
	if err != nil {
		return nil, err
	}
	seqs := inTurns(urgent)
	if len(seqs) >= n { // some may be left out, which the rest must not overtake
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

// urgent returns the oldest urgent rows, at most n, and the rows of their subjects that precede them, at
// most n of each. What precedes a row that is seen was committed before it, so the latter are looked for
// when all of them have a subject.
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

// inTurns orders rows: the first of each subject, then the second of each, and so on. So a subject with
// many does not hold up the others, and each keeps its own order.
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

// Backlog tells what waits to be published.
func (s *Store) Backlog(ctx context.Context) (b events.Backlog, err error) {
	err = s.read.NewSelect().Model((*pendingRow)(nil)).ColumnExpr("count(*)").Scan(ctx, &b.Events)
	if err != nil || b.Events == 0 {
		return b, s.fault("count events", err)
	}
	err = s.read.NewSelect().Model((*outboxRow)(nil)).Column("time").
		Where("seq = (SELECT min(seq) FROM outbox_pending)").Scan(ctx, &b.Oldest)
	if errors.Is(err, sql.ErrNoRows) { // published meanwhile
		return events.Backlog{}, nil
	}
	b.Oldest = b.Oldest.UTC()
	return b, s.fault("select oldest event", err)
}

// Republish lets events since a time be published once more, and tells how many. The stream drops
// those it has had within its window. Mails would be sent once more: they are left out unless
// they are what is asked for, and then nothing else is published. None of them is urgent: what happens
// now goes before.
func (s *Store) Republish(ctx context.Context, since time.Time, mails bool) (int, error) {
	compare := "type <> ?"
	if mails {
		compare = "type = ?"
	}
	again := s.write.NewSelect().Model((*outboxRow)(nil)).Column("seq", "subject").Where("time >= ?", since).Where(compare, events.MailType)
	result, err := s.write.NewRaw("INSERT INTO outbox_pending (seq, subject) ? ON CONFLICT (seq) DO NOTHING", again).Exec(ctx)
	return count(result, s.fault("republish events", err))
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
		Where(which).Where("time <= ?", before).Where("NOT " + isPending).Order("time").Limit(batch)
	var seqs []int64
	if err := old.Scan(ctx, &seqs); err != nil || len(seqs) == 0 {
		return 0, s.fault("select old events", err)
	}
	result, err := s.write.NewDelete().Model((*outboxRow)(nil)).Where("seq IN (?)", bun.List(seqs)).Exec(ctx)
	return count(result, s.fault("delete old events", err))
}
