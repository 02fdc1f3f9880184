package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/zyotra/auth"
	"github.com/zyotra/auth/events"
	"github.com/zyotra/auth/internal/gcra"
	"github.com/zyotra/auth/internal/testpg"
	"github.com/zyotra/auth/migrations"
)

// filled is how many users there are when plans are looked at: enough for a scan to cost more
// than any index, of the narrowest table too.
const filled = 10_000

// small are tables whose rows do not grow with users or requests, or that are emptied by those who
// read them: reading all of one is no scan.
var small = []string{"signing_keys", "peppers", "outbox_pending", "session_endings", "access_lifetimes"}

// narrow are indexes that hold only what a statement looks for, so that reading one from its
// beginning is no scan.
var narrow = []string{"outbox_pending_pkey", "outbox_pending_urgent", "outbox_mails", "outbox_revocations", "session_endings_pkey"}

// hot is what requests, the relay and clean-up ask of the database.
var hot = map[string]func(ctx context.Context, s *Store) error{
	"CreateUser": func(ctx context.Context, s *Store) error {
		_, err := s.CreateUser(ctx, NewUser{Email: "new", EmailKey: "new", At: filledAt})
		return err
	},
	"Account":     func(ctx context.Context, s *Store) error { _, err := s.Account(ctx, 7); return err },
	"User":        func(ctx context.Context, s *Store) error { _, err := s.User(ctx, 7); return err },
	"UserByEmail": func(ctx context.Context, s *Store) error { _, err := s.UserByEmail(ctx, "7@example.com"); return err },
	"HoldUser":    func(ctx context.Context, s *Store) error { _, err := s.HoldUser(ctx, 7); return err },
	"HoldUserByEmail": func(ctx context.Context, s *Store) error {
		_, err := s.HoldUserByEmail(ctx, "7@example.com")
		return err
	},
	"Users":           func(ctx context.Context, s *Store) error { _, err := s.Users(ctx, 100, 100); return err },
	"Password":        func(ctx context.Context, s *Store) error { _, err := s.Password(ctx, 7); return err },
	"Credentials":     func(ctx context.Context, s *Store) error { _, err := s.Credentials(ctx, "7@example.com"); return err },
	"HoldPassword":    func(ctx context.Context, s *Store) error { _, err := s.HoldPassword(ctx, 7); return err },
	"ReplacePassword": func(ctx context.Context, s *Store) error { _, err := s.ReplacePassword(ctx, 7, "a", "b"); return err },
	"UpdateUser": func(ctx context.Context, s *Store) error {
		name := "other"
		_, err := s.UpdateUser(ctx, 7, Change{Name: &name}, filledAt)
		return err
	},
	"SetVerified": func(ctx context.Context, s *Store) error { return s.SetVerified(ctx, 7, filledAt) },
	"SetEmail":    func(ctx context.Context, s *Store) error { return s.SetEmail(ctx, 15, "a", "a", filledAt) },
	"SetPassword": func(ctx context.Context, s *Store) error { return s.SetPassword(ctx, 7, "a", filledAt) },
	"SetDisabled": func(ctx context.Context, s *Store) error { return s.SetDisabled(ctx, 8, filledAt, filledAt) },
	"DeleteUser":  func(ctx context.Context, s *Store) error { _, err := s.DeleteUser(ctx, 9, "stored"); return err },

	"CreateSession": func(ctx context.Context, s *Store) error {
		return s.CreateSession(ctx, Session{ID: "new", UserID: 7, CreatedAt: filledAt})
	},
	"Session": func(ctx context.Context, s *Store) error { _, err := s.Session(ctx, "7"); return err },
	"AdvanceSession": func(ctx context.Context, s *Store) error {
		_, err := s.AdvanceSession(ctx, Step{
			SessionID: "7", Generation: 1, At: filledAt, ExpiresAt: filledAt.Add(time.Hour), Carrier: "body",
			Limit: gcra.Limit{Burst: 30, Interval: time.Second},
		})
		return err
	},
	"AdvanceSession of a verified user": func(ctx context.Context, s *Store) error {
		_, err := s.AdvanceSession(ctx, Step{
			SessionID: "21", Generation: 1, At: filledAt, ExpiresAt: filledAt.Add(time.Hour), Carrier: "body", Verified: true,
		})
		if !errors.Is(err, auth.ErrNotFound) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	},
	"advanceBatch": func(ctx context.Context, s *Store) error {
		if s.refreshes == nil {
			return nil
		}
		return s.advanceBatch(ctx, batchOf("50", "51", "52"))
	},
	"EndSession": func(ctx context.Context, s *Store) error {
		_, err := s.EndSession(ctx, "11", auth.ReasonLogout, filledAt)
		return err
	},
	"EndSessionOf": func(ctx context.Context, s *Store) error {
		_, err := s.EndSessionOf(ctx, 12, "12", auth.ReasonLogout, filledAt)
		return err
	},
	"RaiseEpoch": func(ctx context.Context, s *Store) error { _, err := s.RaiseEpoch(ctx, 13); return err },
	"KeepSession": func(ctx context.Context, s *Store) error {
		_, err := s.KeepSession(ctx, 13, "13", 1)
		return err
	},
	"EndLastUsed": func(ctx context.Context, s *Store) error {
		_, err := s.EndLastUsed(ctx, SessionEnding{13, 1, auth.ReasonAdmin}, 1000, filledAt)
		return err
	},
	"EndNext": func(ctx context.Context, s *Store) error {
		_, err := s.EndNext(ctx, SessionEnding{16, 1, auth.ReasonAdmin}, 1000, filledAt)
		return err
	},
	"DeleteSessions": func(ctx context.Context, s *Store) error { _, err := s.DeleteSessions(ctx, 13, 1000); return err },
	"HasEndings":     func(ctx context.Context, s *Store) error { _, err := s.HasEndings(ctx); return err },
	"AddEnding": func(ctx context.Context, s *Store) error {
		return s.AddEnding(ctx, SessionEnding{13, 1, auth.ReasonAdmin})
	},
	"HoldEnding": func(ctx context.Context, s *Store) error {
		_, err := s.HoldEnding(ctx)
		if errors.Is(err, auth.ErrNotFound) {
			return nil
		}
		return err
	},
	"RemoveEnding": func(ctx context.Context, s *Store) error {
		return s.RemoveEnding(ctx, SessionEnding{13, 1, auth.ReasonAdmin})
	},
	"NoteLifetime":    func(ctx context.Context, s *Store) error { return s.NoteLifetime(ctx, time.Minute, filledAt, filledAt) },
	"LongestLifetime": func(ctx context.Context, s *Store) error { _, err := s.LongestLifetime(ctx); return err },
	"EndOldestSessions": func(ctx context.Context, s *Store) error {
		_, err := s.EndOldestSessions(ctx, 14, "14", 5, 100, auth.ReasonSessionLimit, filledAt)
		return err
	},
	"LiveSessions": func(ctx context.Context, s *Store) error {
		_, err := s.LiveSessions(ctx, 7, "8", 101, filledAt)
		return err
	},
	"SessionAddresses": func(ctx context.Context, s *Store) error {
		_, err := s.SessionAddresses(ctx, 7, 100, filledAt)
		return err
	},
	"CountLiveSessions": func(ctx context.Context, s *Store) error { _, err := s.CountLiveSessions(ctx, 7, filledAt); return err },
	"KnowDevice":        func(ctx context.Context, s *Store) error { _, err := s.KnowDevice(ctx, 7, "new", filledAt); return err },

	"HoldCounters": func(ctx context.Context, s *Store) error { _, err := s.HoldCounters(ctx, "7", "8", "new"); return err },
	"SetCounters": func(ctx context.Context, s *Store) error {
		return s.SetCounters(ctx, Counter{Key: "7"}, Counter{Key: "8"})
	},

	"AddOneTime": func(ctx context.Context, s *Store) error {
		return s.AddOneTime(ctx, OneTime{Digest: "new", CreatedAt: filledAt, ExpiresAt: filledAt})
	},
	"OneTime": func(ctx context.Context, s *Store) error {
		_, err := s.OneTime(ctx, "verify", filledAt, "7", "8")
		return err
	},
	"OneTimeByCode": func(ctx context.Context, s *Store) error {
		_, err := s.OneTimeByCode(ctx, "verify", filledAt, "code 7", "code 8")
		return err
	},
	"LatestOneTime": func(ctx context.Context, s *Store) error {
		_, err := s.LatestOneTime(ctx, "verify", "7@example.com", filledAt)
		return err
	},
	"LatestRegistration": func(ctx context.Context, s *Store) error {
		if _, err := s.LatestRegistration(ctx, "verify", "7@example.com", filledAt); !errors.Is(err, auth.ErrNotFound) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	},
	"Registration": func(ctx context.Context, s *Store) error {
		if _, err := s.Registration(ctx, "verify", "7@example.com", filledAt, "a", "b"); !errors.Is(err, auth.ErrNotFound) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	},
	"MakeRoom":          func(ctx context.Context, s *Store) error { return s.MakeRoom(ctx, "verify", "14@example.com", "a", 5) },
	"VoidOneTimesSince": func(ctx context.Context, s *Store) error { return s.VoidOneTimesSince(ctx, 17, "undo", filledAt) },
	"Reservation": func(ctx context.Context, s *Store) error {
		if _, err := s.Reservation(ctx, "18@example.com", filledAt); !errors.Is(err, auth.ErrNotFound) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	},
	"Reservations": func(ctx context.Context, s *Store) error {
		_, err := s.Reservations(ctx, []string{"18@example.com", "19@example.com"}, filledAt)
		return err
	},
	"VoidAddress":   func(ctx context.Context, s *Store) error { return s.VoidAddress(ctx, "verify", "15@example.com") },
	"ForgetDevices": func(ctx context.Context, s *Store) error { return s.ForgetDevices(ctx, 16) },
	"TakeOneTime":   func(ctx context.Context, s *Store) error { _, err := s.TakeOneTime(ctx, "10", filledAt); return err },
	"VoidOneTimes":  func(ctx context.Context, s *Store) error { return s.VoidOneTimes(ctx, 11, "undo") },
	"VoidOlder": func(ctx context.Context, s *Store) error {
		return errors.Join(s.VoidOlder(ctx, "verify", 12, ""), s.VoidOlder(ctx, "verify", 0, "13@example.com"))
	},

	"Emit": func(ctx context.Context, s *Store) error {
		return s.Tx(ctx, func(ctx context.Context, tx *Store) error {
			return tx.Emit(ctx, filledAt, events.UserDeleted{UserID: 1})
		})
	},
	"Take": func(ctx context.Context, s *Store) error {
		_, err := s.Take(ctx, 10, func(_ context.Context, list []events.Event) (int, error) { return len(list), nil })
		return err
	},
	"Backlog": func(ctx context.Context, s *Store) error { _, err := s.Backlog(ctx); return err },
	"Revocations": func(ctx context.Context, s *Store) error {
		_, _, err := s.Revocations(ctx, RevocationCursor{At: filledAt.Add(-time.Minute)}, 500)
		return err
	},

	"SweepSessions": func(ctx context.Context, s *Store) error {
		_, _, err := s.SweepSessions(ctx, filledAt.Add(-time.Hour), 10)
		return err
	},
	"SweepOutbox": func(ctx context.Context, s *Store) error {
		_, err := s.SweepOutbox(ctx, filledAt.Add(-time.Hour), 10)
		return err
	},
	"SweepMails": func(ctx context.Context, s *Store) error {
		_, err := s.SweepMails(ctx, filledAt.Add(-time.Hour), 10)
		return err
	},
	"SweepCounters": func(ctx context.Context, s *Store) error {
		_, _, err := s.SweepCounters(ctx, filledAt.Add(-time.Hour), 10)
		return err
	},
	"SweepOneTimes": func(ctx context.Context, s *Store) error {
		_, err := s.SweepOneTimes(ctx, filledAt.Add(-time.Hour), 10)
		return err
	},
}

// No statement that a request, the relay or clean-up makes reads a table that grows: what a
// thousand users do not show, ten million would.
func TestNoHotStatementScans(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]struct {
		url       string
		isCounted bool // the database has statistics of its tables
		scans     func(*testing.T, *Store, string) []string
	}{
		"sqlite":                      {"sqlite://" + filepath.Join(t.TempDir(), "auth.db"), true, scansSQLite},
		"postgres":                    {testpg.URL(t), true, scansPostgres},
		"postgres without statistics": {testpg.URL(t), false, scansPostgres},
	} {
		t.Run(name, func(t *testing.T) {
			s := openFilled(t, on.url, on.isCounted)
			seen := &recorder{}
			s.prepare = func() *prepared { return nil } // EXPLAIN wants values
			s.write, s.read = s.write.(*bun.DB).WithQueryHook(seen), s.read.(*bun.DB).WithQueryHook(seen)
			for name, ask := range hot {
				seen.statements = nil
				if err := ask(t.Context(), s); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				for _, statement := range seen.statements {
					for _, fault := range on.scans(t, s, statement) {
						t.Errorf("%s: %s in %s", name, fault, statement)
					}
				}
			}
		})
	}
}

func openFilled(t *testing.T, url string, isCounted bool) *Store {
	t.Helper()
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := migrations.Up(t.Context(), s.db); err != nil {
		t.Fatal(err)
	}
	if isCounted {
		fill(t, s)
		execute(t, s, "ANALYZE")
		return s
	}
	// As after a restore, until autovacuum has come to these tables.
	for _, table := range []string{"users", "login_sessions", "outbox", "outbox_pending", "limits", "one_time_tokens", "known_devices"} {
		execute(t, s, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)")
	}
	fill(t, s)
	return s
}

func execute(t *testing.T, s *Store, statement string) {
	t.Helper()
	if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// recorder keeps the statements that read or change rows.
type recorder struct{ statements []string }

func (r *recorder) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (r *recorder) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	switch e.Operation() {
	case "SELECT", "INSERT", "UPDATE", "DELETE":
		r.statements = append(r.statements, e.Query)
	}
}

// scansPostgres returns what a statement reads from end to end.
func scansPostgres(t *testing.T, s *Store, statement string) []string {
	t.Helper()
	var text string
	if err := s.db.QueryRowContext(t.Context(), "EXPLAIN (FORMAT JSON) "+statement).Scan(&text); err != nil {
		t.Fatalf("%v: %s", err, statement)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal([]byte(text), &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan.scans()
}

// plan is a node of what Postgres would do.
type plan struct {
	Type      string `json:"Node Type"`
	Table     string `json:"Relation Name"`
	Index     string `json:"Index Name"`
	Condition string `json:"Index Cond"`
	Plans     []plan
}

func (p plan) scans() (faults []string) {
	switch {
	case p.Type == "Seq Scan" && !slices.Contains(small, p.Table):
		faults = append(faults, "Seq Scan of "+p.Table)
	case strings.Contains(p.Type, "Index") && p.Condition == "" && !slices.Contains(narrow, p.Index):
		faults = append(faults, p.Type+" of all of "+p.Index)
	}
	for _, below := range p.Plans {
		faults = append(faults, below.scans()...)
	}
	return faults
}

func scansSQLite(t *testing.T, s *Store, statement string) (faults []string) {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+statement)
	if err != nil {
		t.Fatalf("%v: %s", err, statement)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		read := strings.Fields(detail + " -")[1]
		isNarrow := slices.Contains([]string{"outbox_pending", "p", "e", "a"}, read) || // small ones, by their aliases
			slices.ContainsFunc(narrow, func(index string) bool { return strings.HasSuffix(detail, " "+index) })
		isOwn := strings.HasSuffix(detail, "CONSTANT ROW") || strings.HasSuffix(detail, "VALUES CLAUSE") ||
			strings.HasPrefix(detail, "SCAN (subquery") // of the statement: what a subquery reads has a line of its own
		if strings.HasPrefix(detail, "SCAN ") && !isOwn && !isNarrow {
			faults = append(faults, detail)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return faults
}

// filledAt is the present of what fill stores, half of which is over by then.
var filledAt = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// fill stores users with two sessions each, and what else there is of about as many; rows are
// spread over two weeks.
func fill(t *testing.T, s *Store) {
	t.Helper()
	var users []userRow
	var sessions []sessionRow
	var outbox []outboxRow
	var pending []pendingRow
	var limits []counterRow
	var oneTimes []oneTimeRow
	var devices []deviceRow
	for i := 1; i <= filled; i++ {
		at := filledAt.Add(time.Duration(i-filled/2) * 2 * time.Minute)
		id, address := auth.UserID(i), fmt.Sprintf("%d@example.com", i)
		users = append(users, userRow{Email: address, EmailKey: address, Password: "stored", CreatedAt: at, UpdatedAt: at})
		for _, suffix := range []string{"", " b"} {
			sessions = append(sessions, sessionRow{
				ID: fmt.Sprintf("%d%s", i, suffix), UserID: id, Generation: 1, CreatedAt: at, UsedAt: at,
				ExpiresAt: at.Add(24 * 15 * time.Hour), DeadlineAt: at.Add(24 * 90 * time.Hour), Carrier: "body", SweepAt: at,
			})
		}
		kind := []string{"user.registered", "session.created", "session.created", "session.revoked", events.MailType}[i%5]
		outbox = append(outbox, outboxRow{ID: fmt.Sprint(i), Type: kind, Subject: fmt.Sprint(i), Time: at, Data: `{}`})
		if i > filled-20 {
			pending = append(pending, pendingRow{Seq: int64(i)})
		}
		limits = append(limits, counterRow{Key: fmt.Sprint(i), First: at.UnixMicro(), IdleAt: at.UnixMicro()})
		oneTimes = append(oneTimes, oneTimeRow{
			Digest: fmt.Sprint(i), Code: fmt.Sprint("code ", i), Purpose: "verify", UserID: id, EmailKey: address,
			CreatedAt: at, ExpiresAt: at.Add(24 * 14 * time.Hour), CodeExpiresAt: at.Add(24 * 14 * time.Hour),
		})
		devices = append(devices, deviceRow{UserID: id, Device: "curl", CreatedAt: at})
	}
	insert(t, s, users)
	insert(t, s, sessions)
	insert(t, s, outbox)
	insert(t, s, pending)
	insert(t, s, limits)
	insert(t, s, oneTimes)
	insert(t, s, devices)
	execute(t, s, "UPDATE limits SET sweep_at = idle_at")
}

func insert[Row any](t *testing.T, s *Store, rows []Row) {
	t.Helper()
	for batch := range slices.Chunk(rows, 500) {
		if _, err := s.write.NewInsert().Model(&batch).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
