-- Keyed digest of the secret that the browser of a registration keeps; empty if there is none.
ALTER TABLE one_time_tokens ADD COLUMN registration TEXT COLLATE "C" NOT NULL DEFAULT '';
