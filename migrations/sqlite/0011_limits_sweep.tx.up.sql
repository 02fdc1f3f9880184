-- When clean-up looks at the counter next. Not idle_at itself: that moves with every try, and an
-- index on it has to follow it.
ALTER TABLE limits ADD COLUMN sweep_at BIGINT NOT NULL DEFAULT 0;
--bun:split
DROP INDEX limits_idle_at;
--bun:split
CREATE INDEX limits_sweep_at ON limits (sweep_at);
