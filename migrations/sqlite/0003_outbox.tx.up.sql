-- Events, written with the changes they tell of. Order is that of seq.
CREATE TABLE outbox (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,
    subject      TEXT NOT NULL,
    time         TIMESTAMP NOT NULL,
    data         TEXT NOT NULL,
    published_at TIMESTAMP
);
--bun:split
CREATE INDEX outbox_unpublished ON outbox (seq) WHERE published_at IS NULL;
--bun:split
CREATE INDEX outbox_time ON outbox (time);
--bun:split
CREATE INDEX outbox_revocations ON outbox (time, seq) WHERE type = 'session.revoked';
