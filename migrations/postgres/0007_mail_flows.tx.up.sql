-- When the owner proved that mail to the address reaches them; null before that.
ALTER TABLE users ADD COLUMN email_verified_at TIMESTAMPTZ;
--bun:split
-- What a mail lets its reader do, once. Links and codes stand here as keyed digests. Without a
-- user it is about an account that does not exist yet: then password and name are those it gets.
CREATE TABLE one_time_tokens (
    digest          TEXT COLLATE "C" PRIMARY KEY,
    code            TEXT COLLATE "C" UNIQUE,
    purpose         TEXT COLLATE "C" NOT NULL,
    user_id         BIGINT REFERENCES users (id) ON DELETE CASCADE,
    email           TEXT NOT NULL,
    email_key       TEXT COLLATE "C" NOT NULL,
    password        TEXT NOT NULL,
    name            TEXT NOT NULL,
    session_id      TEXT COLLATE "C" NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    expires_at      TIMESTAMPTZ NOT NULL,
    code_expires_at TIMESTAMPTZ
);
--bun:split
CREATE INDEX one_time_tokens_user_id ON one_time_tokens (user_id);
--bun:split
CREATE INDEX one_time_tokens_email_key ON one_time_tokens (email_key);
--bun:split
CREATE INDEX one_time_tokens_expires_at ON one_time_tokens (expires_at);
--bun:split
-- What a user has logged in with before, as in "Firefox on Linux".
CREATE TABLE known_devices (
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device     TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, device)
);
