-- Events that wait to be published. A table of its own: marks in the outbox would be written to
-- all of its indexes, and an index of what is not marked keeps what was until the whole outbox is
-- vacuumed, which the relay would read past each time.
CREATE TABLE outbox_pending (
    seq INTEGER PRIMARY KEY
);
--bun:split
INSERT INTO outbox_pending (seq) SELECT seq FROM outbox WHERE published_at IS NULL;
--bun:split
DROP INDEX outbox_unpublished;
--bun:split
ALTER TABLE outbox DROP COLUMN published_at;
