DROP TABLE known_devices;
--bun:split
DROP TABLE one_time_tokens;
--bun:split
ALTER TABLE users DROP COLUMN email_verified_at;
