CREATE TABLE users (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    email      TEXT NOT NULL,
    email_key  TEXT NOT NULL UNIQUE,
    password   TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);
--bun:split
CREATE TABLE login_sessions (
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
    revoke_reason TEXT
);
--bun:split
CREATE INDEX login_sessions_user_id ON login_sessions (user_id);
--bun:split
CREATE TABLE signing_keys (
    id          TEXT PRIMARY KEY NOT NULL,
    public_key  BLOB NOT NULL,
    private_key BLOB NOT NULL,
    created_at  TIMESTAMP NOT NULL,
    active_from TIMESTAMP NOT NULL
);
