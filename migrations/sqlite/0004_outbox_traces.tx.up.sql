-- The trace of the request that made the change (W3C Trace Context), or empty.
ALTER TABLE outbox ADD COLUMN traceparent TEXT NOT NULL DEFAULT '';
