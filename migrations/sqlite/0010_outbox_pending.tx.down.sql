ALTER TABLE outbox ADD COLUMN published_at TIMESTAMP;
--bun:split
UPDATE outbox SET published_at = time WHERE seq NOT IN (SELECT seq FROM outbox_pending);
--bun:split
CREATE INDEX outbox_unpublished ON outbox (seq) WHERE published_at IS NULL;
--bun:split
DROP TABLE outbox_pending;
