-- Events, written with the changes they tell of. Order is that of seq.
CREATE TABLE outbox (
    seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT COLLATE "C" NOT NULL,
    type         TEXT COLLATE "C" NOT NULL,
    subject      TEXT COLLATE "C" NOT NULL,
    time         TIMESTAMPTZ NOT NULL,
    data         TEXT NOT NULL,
    published_at TIMESTAMPTZ
);
--bun:split
CREATE INDEX outbox_unpublished ON outbox (seq) WHERE published_at IS NULL;
--bun:split
CREATE INDEX outbox_time ON outbox (time);
--bun:split
CREATE INDEX outbox_revocations ON outbox (time, seq) WHERE type = 'session.revoked';
