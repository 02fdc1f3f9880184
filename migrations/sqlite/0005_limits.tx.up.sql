-- How often something was tried, for as long as that matters. A key is a keyed digest, so
-- that neither addresses of people nor of machines stand here. Times are theoretical arrival
-- times (see internal/gcra), in microseconds since 1970, 0 where there is no second one.
CREATE TABLE limits (
    key     TEXT PRIMARY KEY,
    first   BIGINT NOT NULL,
    second  BIGINT NOT NULL,
    idle_at BIGINT NOT NULL
);
--bun:split
CREATE INDEX limits_idle_at ON limits (idle_at);
--bun:split
-- The same for the refreshes of a session, which are counted where they are made.
ALTER TABLE login_sessions ADD COLUMN refresh_due BIGINT NOT NULL DEFAULT 0;
