-- Ending all sessions of a user raises session_epoch. A session is live only while its epoch is
-- the user's, so all of them end at once, however many there are.
ALTER TABLE users ADD COLUMN session_epoch INTEGER NOT NULL DEFAULT 0;
--bun:split
-- Sessions outlive their user until each has its event, in batches. SQLite drops a foreign key only
-- with its table.
CREATE TABLE login_sessions_new (
    id            TEXT PRIMARY KEY NOT NULL,
    user_id       INTEGER NOT NULL,
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
    refresh_due   BIGINT NOT NULL DEFAULT 0,
    epoch         INTEGER NOT NULL DEFAULT 0
);
--bun:split
INSERT INTO login_sessions_new (
    id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent,
    expires_at, deadline_at, revoked_at, revoke_reason, carrier, sweep_at, refresh_due
) SELECT
    id, user_id, generation, amr, created_at, created_ip, created_agent, used_at, used_ip, used_agent,
    expires_at, deadline_at, revoked_at, revoke_reason, carrier, sweep_at, refresh_due
FROM login_sessions;
--bun:split
DROP TABLE login_sessions;
--bun:split
ALTER TABLE login_sessions_new RENAME TO login_sessions;
--bun:split
CREATE INDEX login_sessions_user_id ON login_sessions (user_id);
--bun:split
CREATE INDEX login_sessions_sweep_at ON login_sessions (sweep_at);
--bun:split
-- The sessions of a user that have not been ended. Refreshing changes none of its columns.
CREATE INDEX login_sessions_live ON login_sessions (user_id, id) WHERE revoked_at IS NULL;
--bun:split
-- Users whose sessions before an epoch still have to be ended one by one.
CREATE TABLE session_endings (
    user_id INTEGER NOT NULL,
    epoch   INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (user_id, epoch)
);
