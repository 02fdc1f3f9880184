-- The row that an instance updates to find out whether the database takes changes.
CREATE TABLE write_probe (
    id        INTEGER   PRIMARY KEY,
    probed_at TIMESTAMP NOT NULL
);
--bun:split
INSERT INTO write_probe (id, probed_at) VALUES (1, CURRENT_TIMESTAMP);
