DROP INDEX outbox_pending_subject;
--bun:split
DROP INDEX outbox_pending_urgent;
--bun:split
ALTER TABLE outbox_pending DROP COLUMN urgent;
--bun:split
ALTER TABLE outbox_pending DROP COLUMN subject;
