DROP TABLE signing_keys;
--bun:split
DROP TABLE login_sessions;
--bun:split
DROP TABLE users;
