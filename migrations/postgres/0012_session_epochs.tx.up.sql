-- Ending all sessions of a user raises session_epoch. A session is live only while its epoch is
-- the user's, so all of them end at once, however many there are.
ALTER TABLE users ADD COLUMN session_epoch BIGINT NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE login_sessions ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
--bun:split
ALTER TABLE login_sessions ALTER COLUMN epoch DROP DEFAULT;
--bun:split
-- A replica of the former release inserts sessions without an epoch. They get the user's. Without
-- a user the epoch stays null, and the insert fails.
CREATE FUNCTION login_sessions_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT session_epoch INTO NEW.epoch FROM users WHERE id = NEW.user_id;
    RETURN NEW;
END
$$;
--bun:split
CREATE TRIGGER login_sessions_epoch BEFORE INSERT ON login_sessions
    FOR EACH ROW WHEN (NEW.epoch IS NULL) EXECUTE FUNCTION login_sessions_epoch();
--bun:split
-- Sessions outlive their user until each has its event, in batches.
ALTER TABLE login_sessions DROP CONSTRAINT login_sessions_user_id_fkey;
--bun:split
-- The sessions of a user that have not been ended. Refreshing changes none of its columns.
CREATE INDEX login_sessions_live ON login_sessions (user_id, id) WHERE revoked_at IS NULL;
--bun:split
-- Users whose sessions before an epoch still have to be ended one by one.
CREATE TABLE session_endings (
    user_id BIGINT NOT NULL,
    epoch   BIGINT NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (user_id, epoch)
);
