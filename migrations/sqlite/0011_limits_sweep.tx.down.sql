DROP INDEX limits_sweep_at;
--bun:split
ALTER TABLE limits DROP COLUMN sweep_at;
--bun:split
CREATE INDEX limits_idle_at ON limits (idle_at);
