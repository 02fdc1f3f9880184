ALTER TABLE one_time_tokens DROP COLUMN locale;
--bun:split
ALTER TABLE users DROP COLUMN locale;
