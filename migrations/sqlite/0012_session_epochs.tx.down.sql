DROP TABLE session_endings;
--bun:split
-- The former release does not know epochs: a session that ended by its epoch must end by its row.
UPDATE login_sessions SET revoke_reason = 'admin',
    revoked_at = strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), sweep_at = strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')
WHERE revoked_at IS NULL AND epoch <> (SELECT session_epoch FROM users WHERE users.id = login_sessions.user_id);
--bun:split
DELETE FROM login_sessions WHERE user_id NOT IN (SELECT id FROM users);
--bun:split
CREATE TABLE login_sessions_old (
    id            TEXT PRIMARY KEY NOT NULL,
    user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation    INTEGER NOT NULL,
    amr           TEXT NOT NULL,
    created_at    TIMESTAMP NOT NULL,
    created_ip    TEXT NOT NULL,
    created_agent TEXT NOT NULL,
    used_at       TIMESTAMP NOT NULL,
    used_ip       TEXT NOT NULL,
    used_agent    TEXT NOT NULL,
    expires_at    TIMESTAMP NOT NULL,
    deadline_at   TIMESTAMP NOT NULL,
    revoked_at    TIMESTAMP,
    revoke_reason TEXT,
    carrier       TEXT NOT NULL DEFAULT 'body',
    sweep_at      TIMESTAMP NOT NULL DEFAULT '1970-01-01 00:00:00+00:00',
    refresh_due   BIGINT NOT NULL DEFAULT 0
);
--bun:split
INSERT INTO login_sessions_old (
    id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent,
    expires_at, deadline_at, revoked_at, revoke_reason, carrier, sweep_at, refresh_due
) SELECT
    id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent,
    expires_at, deadline_at, revoked_at, revoke_reason, carrier, sweep_at, refresh_due
FROM login_sessions;
--bun:split
DROP TABLE login_sessions;
--bun:split
ALTER TABLE login_sessions_old RENAME TO login_sessions;
--bun:split
CREATE INDEX login_sessions_user_id ON login_sessions (user_id);
--bun:split
CREATE INDEX login_sessions_sweep_at ON login_sessions (sweep_at);
--bun:split
ALTER TABLE users DROP COLUMN session_epoch;
