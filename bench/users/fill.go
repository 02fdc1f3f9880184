package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// fillBatch is how many users one statement inserts.
const fillBatch = 100_000

// eventsEach is how many users there are for an event that is kept.
const eventsEach = 4

// agents are what sessions are begun with: two browsers and two apps.
const agents = `(ARRAY['Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36',
	'Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1',
	'ExampleApp/5.2.1 (Android 14; Pixel 8)', 'okhttp/4.12.0'])[i % 4 + 1]`

// fill adds the users behind a number up to another one, with their sessions, events and some
// counters, as the service would have stored them over the last week.
func (s *service) fill(ctx context.Context, behind, upTo int) error {
	began := time.Now()
	for from := behind + 1; from <= upTo; from += fillBatch {
		to := min(from+fillBatch-1, upTo)
		for _, statement := range s.fillers(from, to) {
			if _, err := s.stats.db.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
	}
	// What autovacuum and the checkpointer come to by and by.
	for _, statement := range []string{"VACUUM (ANALYZE)", "CHECKPOINT"} {
		if _, err := s.stats.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	fmt.Printf("%9d users filled in %s\n", upTo, time.Since(began).Round(time.Second))
	return nil
}

// fillers are the statements that insert the users from a number to another one.
func (s *service) fillers(from, to int) []string {
	replace := strings.NewReplacer(
		":from", fmt.Sprint(from), ":to", fmt.Sprint(to), ":each", fmt.Sprint(sessionsEach), ":events", fmt.Sprint(eventsEach),
		":password", s.stored, ":now", "timestamptz '"+s.began.Format(time.RFC3339)+"'", ":agent", agents,
		":ip", "'10.' || (i >> 16 & 255) || '.' || (i >> 8 & 255) || '.' || (i & 255)",
		":ago", "i % 604800 * interval '1 second'",
	)
	return []string{
		replace.Replace(`INSERT INTO users (email, email_key, password, name, created_at, updated_at)
			SELECT a, a, ':password', 'Somebody ' || i, :now - :ago, :now - :ago
			FROM (SELECT i, substr(md5(i::text), 1, 14) || '@example.com' AS a FROM generate_series(:from, :to) AS i) AS u`),
		replace.Replace(`INSERT INTO login_sessions (id, user_id, generation, amr, created_at, created_ip, created_agent,
				used_at, used_ip, used_agent, expires_at, deadline_at, carrier, sweep_at)
			SELECT lpad(to_hex(i), 10, '0') || substr(md5(i::text), 1, 26), (i - 1) / :each + 1, 1, 'pwd', :now - :ago, :ip, :agent,
				:now - :ago, :ip, :agent, :now - :ago + interval '360 hours', :now - :ago + interval '2160 hours', 'body', :now - :ago + interval '360 hours'
			FROM generate_series((:from - 1) * :each + 1, :to * :each) AS i`),
		replace.Replace(`INSERT INTO outbox (id, type, subject, time, data)
			SELECT gen_random_uuid(), 'session.created', i::text, :now - :ago,
				'{"userId":' || i || ',"sessionId":"' || lpad(to_hex(i), 10, '0') || substr(md5(i::text), 1, 26)
				|| '","amr":["pwd"],"client":{"ip":"' || :ip || '","userAgent":"' || :agent
				|| '"},"createdAt":"2026-11-24T08:21:42.088102Z","expiresAt":"2026-12-09T08:21:42.088102Z"}'
			FROM generate_series(:from, :to, :events) AS i`),
		replace.Replace(`INSERT INTO limits (key, first, second, idle_at, sweep_at)
			SELECT substr(md5(i::text) || md5('limit' || i), 1, 43), t, t, t, t
			FROM (SELECT i, (extract(epoch FROM :now) * 1000000)::bigint + i % 3600 * 1000000::bigint AS t
				FROM generate_series(:from, :to, 20) AS i) AS l`),
	}
}

// printSizes tells what a row takes, with its part of each index.
func (s *service) printSizes(ctx context.Context, users int) error {
	fmt.Printf("\nBytes a row, of the table (with its TOAST and maps) and of its indexes:\n")
	rows, err := s.stats.db.QueryContext(ctx, `SELECT relname, n_live_tup, pg_table_size(relid), pg_indexes_size(relid)
		FROM pg_stat_user_tables WHERE n_live_tup >= $1 ORDER BY relname`, users/50)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var live, table, indexes float64
		if err := rows.Scan(&name, &live, &table, &indexes); err != nil {
			return err
		}
		fmt.Printf("  %-15s %10.0f rows  %4.0f and %4.0f\n", name, live, table/live, indexes/live)
	}
	return rows.Err()
}
