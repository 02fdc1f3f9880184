-- Mails are swept long before other events.
CREATE INDEX outbox_mails ON outbox (time) WHERE type = 'mail.requested';
