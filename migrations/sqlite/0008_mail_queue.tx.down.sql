DROP INDEX outbox_mails;
