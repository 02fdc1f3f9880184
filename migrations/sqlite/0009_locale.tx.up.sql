-- The language that mails are written in (BCP 47); empty for the default.
ALTER TABLE users ADD COLUMN locale TEXT NOT NULL DEFAULT '';
--bun:split
ALTER TABLE one_time_tokens ADD COLUMN locale TEXT NOT NULL DEFAULT '';
