-- Events that other services must hear at once, such as the end of a session, do not wait behind
-- others. Rows of an earlier version have no subject; the relay fills it in.
ALTER TABLE outbox_pending ADD COLUMN subject TEXT COLLATE "C";
--bun:split
ALTER TABLE outbox_pending ADD COLUMN urgent BOOLEAN NOT NULL DEFAULT FALSE;
--bun:split
CREATE INDEX outbox_pending_urgent ON outbox_pending (seq) WHERE urgent;
--bun:split
CREATE INDEX outbox_pending_subject ON outbox_pending (subject, seq);
