-- When an operator disabled the account, which nobody can use since; null while they can.
ALTER TABLE users ADD COLUMN disabled_at TIMESTAMPTZ;
