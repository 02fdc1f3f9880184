-- When the owner proved that mail to the address reaches them; null before that.
ALTER TABLE users ADD COLUMN email_verified_at TIMESTAMP;
--bun:split
-- What a mail lets its reader do, once. Links and codes stand here as keyed digests. Without a
-- user it is about an account that does not exist yet: then password and name are those it gets.
CREATE TABLE one_time_tokens (
    digest          TEXT PRIMARY KEY NOT NULL,
    code            TEXT UNIQUE,
    purpose         TEXT NOT NULL,
    user_id         INTEGER REFERENCES users (id) ON DELETE CASCADE,
    email           TEXT NOT NULL,
    email_key       TEXT NOT NULL,
    password        TEXT NOT NULL,
    name            TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    created_at      TIMESTAMP NOT NULL,
    expires_at      TIMESTAMP NOT NULL,
    code_expires_at TIMESTAMP
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
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device     TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (user_id, device)
);
