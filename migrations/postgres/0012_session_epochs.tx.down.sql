DROP TABLE session_endings;
--bun:split
DROP INDEX login_sessions_live;
--bun:split
-- The former release does not know epochs: a session that ended by its epoch must end by its row.
UPDATE login_sessions AS s SET revoked_at = now(), revoke_reason = 'admin', sweep_at = now()
FROM users AS u WHERE u.id = s.user_id AND s.epoch <> u.session_epoch AND s.revoked_at IS NULL;
--bun:split
DELETE FROM login_sessions AS s WHERE NOT EXISTS (SELECT FROM users AS u WHERE u.id = s.user_id);
--bun:split
ALTER TABLE login_sessions ADD CONSTRAINT login_sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
--bun:split
DROP TRIGGER login_sessions_epoch ON login_sessions;
--bun:split
DROP FUNCTION login_sessions_epoch();
--bun:split
ALTER TABLE login_sessions DROP COLUMN epoch;
--bun:split
ALTER TABLE users DROP COLUMN session_epoch;
