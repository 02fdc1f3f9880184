DROP TABLE peppers;
--bun:split
ALTER TABLE signing_keys DROP COLUMN retired_at;
--bun:split
DROP INDEX login_sessions_sweep_at;
--bun:split
ALTER TABLE login_sessions DROP COLUMN sweep_at;
--bun:split
ALTER TABLE login_sessions DROP COLUMN carrier;
