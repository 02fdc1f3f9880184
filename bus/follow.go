package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/gcra"
)

const (
	// catchUpEvery is the interval of the regular passes, in which a verifier reads the changes that it
	// may have missed. A third of MaxStaleness applies if it is shorter.
	catchUpEvery = 5 * time.Second
	// catchUpTimeout is how long a verifier waits for one reply.
	catchUpTimeout = 2 * time.Second
	// retryEvery is how soon a verifier retries after a failure.
	retryEvery = 250 * time.Millisecond
	// rereadEvery is the interval at which a verifier reads all revocations instead of those since the
	// last pass: a revocation may be committed long after the time that it records.
	rereadEvery = 5 * time.Minute
	// rereads is the number of reads that catchUp attempts if the clock jumps during each.
	rereads = 3
	// keysAgainAfter is how long after a hint the verifier fetches the keys a second time. The instance
	// that answered the first request may not have read the change yet.
	keysAgainAfter = 500 * time.Millisecond
)

// inventedHints and trueHints bound how often hints make a verifier send requests. Any client that may
// publish on the bus can forge a hint, so a hint that the service confirms costs less. Both limits have
// the same slack and share one time. The verifier follows the last hint within the longer interval.
var (
	inventedHints = gcra.Limit{Burst: 20, Interval: 250 * time.Millisecond}
	trueHints     = gcra.Limit{Burst: 96, Interval: 50 * time.Millisecond}
)

// pass is the kind of the follower's next read.
type pass int

const (
	passStop    pass = iota
	passRegular      // keys, and revocations since the last regular pass or all of them
	passHinted       // the latest revocations, and keys if a hint was about keys
	passKeys         // keys
)

// follower is the state of Verifier.follow.
type follower struct {
	*Verifier
	cursor    string        // start of the next regular pass; "" is the oldest revocation
	recent    string        // start of the next hinted pass
	jumps     uint64        // of the clock, as of the last regular pass
	readAll   time.Duration // elapsed time of the last regular pass from the beginning
	due       time.Time     // of the next regular pass
	keysAgain time.Time     // of the second fetch after a hint; zero if none is due
	hintDue   time.Time     // of inventedHints and trueHints
	isAway    bool          // the last pass failed
}

// follow reads the service's keys and revocations repeatedly until ctx ends.
func (v *Verifier) follow(ctx context.Context) {
	defer close(v.done)
	reconnected := v.conn.StatusChanged(nats.CONNECTED)
	defer v.conn.RemoveStatusListener(reconnected)
	f := &follower{Verifier: v}
	every := min(catchUpEvery, v.config.MaxStaleness/3)
	for next := passRegular; next != passStop; next = f.wait(ctx, reconnected) {
		err := f.run(ctx, next)
		if ctx.Err() != nil {
			return
		}
		f.report(err)
		switch {
		case f.isAway:
			f.due = time.Now().Add(min(every, retryEvery))
		case next == passRegular:
			f.due = time.Now().Add(every)
		}
	}
}

func (f *follower) run(ctx context.Context, next pass) error {
	switch next {
	case passHinted:
		return f.followHint(ctx)
	case passKeys:
		return f.fetchKeys(ctx)
	}
	return f.catchUp(ctx)
}

// report logs when reads from the service begin to fail, and when they succeed again.
func (f *follower) report(err error) {
	switch {
	case err != nil && !f.isAway:
		f.config.Log.Warn("revocations cannot be read", "err", err)
	case err == nil && f.isAway:
		f.config.Log.Info("revocations are read again")
	}
	f.isAway = err != nil
}

// wait waits until the next pass is due and returns its kind. After a failure it ignores hints, so
// that no client makes the verifier send requests faster than it retries.
func (f *follower) wait(ctx context.Context, reconnected <-chan nats.Status) pass {
	timer := time.NewTimer(time.Until(f.due))
	defer timer.Stop()
	hints, wanted, jumped := f.hints, f.wanted, f.jumped
	var resume, again <-chan time.Time
	if pause := inventedHints.Wait(f.hintDue, time.Now()); pause > 0 {
		hints, resume = nil, time.After(pause)
	}
	if !f.keysAgain.IsZero() {
		again = time.After(time.Until(f.keysAgain))
	}
	if f.isAway {
		hints, wanted, jumped, resume, again = nil, nil, nil, nil, nil
	}
	for {
		select {
		case <-ctx.Done():
			return passStop
		case _, open := <-reconnected:
			if open {
				return passRegular
			}
			reconnected = nil // the connection is closed permanently
		case <-timer.C:
			return passRegular
		case <-jumped:
			return passRegular
		case <-again:
			f.keysAgain = time.Time{}
			return passKeys
		case <-wanted:
			return passKeys
		case <-resume:
			hints = f.hints
		case <-hints:
			return passHinted
		}
	}
}

// catchUp reads the keys and the revocations since the last pass. It reads all revocations the
// first time, every rereadEvery, and if the clock has jumped since. The new sync point is the time
// at which catchUp began.
func (f *follower) catchUp(ctx context.Context) error {
	for range rereads {
		begun := f.clock.Read()
		if err := f.fetchKeys(ctx); err != nil {
			return err
		}
		since, isAll := f.cursor, begun.Jumps != f.jumps || begun.Elapsed-f.readAll >= rereadEvery
		if isAll {
			since = ""
		}
		last, err := f.readSince(ctx, since)
		if err != nil {
			return err
		}
		if f.clock.Read().Jumps != begun.Jumps {
			continue
		}
		f.cursor, f.recent, f.jumps = last.Cursor, last.Recent, begun.Jumps
		if since == "" {
			f.readAll = begun.Elapsed
		}
		f.evict()
		if f.synced.Swap(&syncPoint{begun.Elapsed, begun.Jumps}) == nil {
			close(f.ready)
		}
		return nil
	}
	return errors.New("the clock keeps jumping")
}

// followHint reads the latest revocations, and the keys if a hint was about keys. It counts the hint
// against trueHints if the service confirms it, and against inventedHints otherwise.
func (f *follower) followHint(ctx context.Context) error {
	id := f.hinted.Swap(nil)
	err := f.readRecent(ctx)
	limit := inventedHints
	if id != nil && f.revoked.isRevoked(*id, 0) {
		limit = trueHints
	}
	f.hintDue = limit.Pass(f.hintDue, time.Now())
	return err
}

func (f *follower) readRecent(ctx context.Context) error {
	if f.keysHinted.Swap(false) {
		if err := f.fetchKeys(ctx); err != nil {
			return err
		}
		f.keysAgain = time.Now().Add(keysAgainAfter)
	}
	since := f.recent
	if since == "" { // a reply of an older service has no such cursor
		since = f.cursor
	}
	last, err := f.readSince(ctx, since)
	if err == nil {
		f.recent = last.Recent
	}
	return err
}

// readSince adds all revocations after a cursor and returns the last page. With each page it compares
// the clock with the service's.
func (f *follower) readSince(ctx context.Context, since string) (auth.RevocationsReply, error) {
	for {
		asked := f.clock.Read()
		page, err := f.readPage(ctx, since)
		if err != nil {
			return auth.RevocationsReply{}, err
		}
		answered := f.clock.Read()
		if !page.Now.IsZero() && f.clock.Check(page.Now, asked, answered) {
			f.config.Log.Warn("the clock differs from the service's, which counts", "ahead", f.clock.Ahead().Round(time.Millisecond).String())
		}
		f.revoked.addPage(page, answered)
		if !page.More {
			return page, nil
		}
		since = page.Cursor
	}
}

func (f *follower) readPage(ctx context.Context, since string) (auth.RevocationsReply, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	return Call(ctx, f.conn, auth.Revocations, auth.RevocationsRequest{Since: since})
}

// evict drops tokens that have expired or whose key is withdrawn, and revocations whose tokens have all
// expired.
func (f *follower) evict() {
	now := f.clock.Read()
	for id, m := range f.known.All() {
		if !now.Wall.Before(m.reply.ExpiresAt) || m.key.withdrawn.Load() {
			f.known.Invalidate(id)
		}
	}
	f.revoked.evict(now.Elapsed)
}

// onRevoked uses an event as a hint to read the revocations: a message on the bus does not prove its
// sender. It ignores an event of a session that is already revoked.
func (v *Verifier) onRevoked(m *nats.Msg) {
	_, data, err := events.Decode[events.SessionRevoked](m.Header, m.Data)
	if err != nil || v.revoked.isRevoked(data.SessionID, 0) {
		return
	}
	v.hinted.Store(&data.SessionID)
	signal(v.hints)
}

// Refetch makes the verifier fetch the keys soon. It is for a caller that knows of a change.
func (v *Verifier) Refetch() {
	v.keysHinted.Store(true)
	signal(v.hints)
}

// signal wakes the receiver of a channel with capacity one. It has no effect if a signal is pending.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
