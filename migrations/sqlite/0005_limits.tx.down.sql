ALTER TABLE login_sessions DROP COLUMN refresh_due;
--bun:split
DROP TABLE limits;
