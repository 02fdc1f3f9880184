-- The lifetimes of access tokens, in microseconds, that instances have been started with, each until
-- tokens with it have expired. Revocations and withdrawn keys are kept for the longest of them.
CREATE TABLE access_lifetimes (
    lifetime     BIGINT PRIMARY KEY,
    needed_until TIMESTAMPTZ NOT NULL
);
--bun:split
-- The former release noted none. Its tokens lived a day at most.
INSERT INTO access_lifetimes (lifetime, needed_until) SELECT 86400000000, now() + INTERVAL '2 days' WHERE EXISTS (SELECT 1 FROM login_sessions);
