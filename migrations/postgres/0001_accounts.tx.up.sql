CREATE TABLE users (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email      TEXT NOT NULL,
    email_key  TEXT COLLATE "C" NOT NULL UNIQUE,
    password   TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
--bun:split
-- Refreshing changes no indexed column and finds room on the page, so it writes no index.
CREATE TABLE login_sessions (
    id            TEXT COLLATE "C" PRIMARY KEY,
    user_id       BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    generation    BIGINT NOT NULL,
    amr           TEXT NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    created_ip    TEXT NOT NULL,
    created_agent TEXT NOT NULL,
    used_at       TIMESTAMPTZ NOT NULL,
    used_ip       TEXT NOT NULL,
    used_agent    TEXT NOT NULL,
    expires_at    TIMESTAMPTZ NOT NULL,
    deadline_at   TIMESTAMPTZ NOT NULL,
    revoked_at    TIMESTAMPTZ,
    revoke_reason TEXT
) WITH (fillfactor = 80);
--bun:split
CREATE INDEX login_sessions_user_id ON login_sessions (user_id);
--bun:split
CREATE TABLE signing_keys (
    id          TEXT COLLATE "C" PRIMARY KEY,
    public_key  BYTEA NOT NULL,
    private_key BYTEA NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    active_from TIMESTAMPTZ NOT NULL
);
