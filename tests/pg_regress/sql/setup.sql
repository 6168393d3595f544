-- What the other files of this suite need. It shows the SQL surface of the extension as psql shows it, so that no
-- name, type, default or message changes unnoticed; what the extension does is tested in tests/integration.
CREATE EXTENSION ntt_mime;
