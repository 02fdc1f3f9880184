ALTER TABLE login_sessions ADD COLUMN carrier TEXT NOT NULL DEFAULT 'body';
--bun:split
-- When clean-up looks at the session next. Not expires_at itself: that moves with every
-- refresh, and an index on it would have to follow.
ALTER TABLE login_sessions ADD COLUMN sweep_at TIMESTAMPTZ NOT NULL DEFAULT 'epoch';
--bun:split
UPDATE login_sessions SET sweep_at = COALESCE(revoked_at, expires_at);
--bun:split
CREATE INDEX login_sessions_sweep_at ON login_sessions (sweep_at);
--bun:split
ALTER TABLE signing_keys ADD COLUMN retired_at TIMESTAMPTZ;
--bun:split
-- Peppers of former master secrets, sealed with the current one.
CREATE TABLE peppers (
    id         TEXT COLLATE "C" PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
