-- Nothing for PUBLIC; what the predefined roles of PostgreSQL stand for.

REVOKE ALL ON FUNCTION ntt_detect_mime(text), ntt_detect_mime(bytea), ntt_inspect_blob(text),
    ntt_mime_version(), ntt_cancel_backfill(bigint), ntt_mime_suggest_index(regclass) FROM PUBLIC;
REVOKE ALL ON PROCEDURE ntt_backfill_mime(int, int, bigint, boolean, regclass, boolean, bigint, bigint, bigint, bigint, interval)
    FROM PUBLIC;
REVOKE ALL ON PROCEDURE ntt_backfill_mime_on_node(int, int, bigint, boolean, regclass, boolean, jsonb) FROM PUBLIC;
REVOKE ALL ON PROCEDURE ntt_verify_mime(int, int, bigint, float8, boolean, text[], regclass, bigint, bigint, bigint, bigint, bigint, bigint, interval)
    FROM PUBLIC;
REVOKE ALL ON PROCEDURE ntt_verify_mime_on_node(int, int, bigint, float8, boolean, text[], regclass, jsonb) FROM PUBLIC;
REVOKE ALL ON SCHEMA ntt_mime FROM PUBLIC;
REVOKE ALL ON ntt_mime.run, ntt_mime.failure, ntt_mime.leaf_error, ntt_mime.leaf, ntt_mime.verified_leaf, ntt_mime.difference, ntt_mime.progress, ntt_mime.mime_summary FROM PUBLIC;

GRANT EXECUTE ON FUNCTION ntt_detect_mime(text), ntt_detect_mime(bytea), ntt_inspect_blob(text),
    ntt_mime_version() TO pg_read_server_files;
GRANT USAGE ON SCHEMA ntt_mime TO pg_monitor;
GRANT SELECT ON ntt_mime.run, ntt_mime.difference, ntt_mime.progress, ntt_mime.mime_summary TO pg_monitor;
-- Not detail and context, in which values of rows may stand.
GRANT SELECT (target, leaf, leaf_oid, sqlstate, message, hint, attempts, first_run_id, last_run_id, first_seen, last_seen)
    ON ntt_mime.leaf_error TO pg_monitor;
GRANT EXECUTE ON FUNCTION ntt_mime_suggest_index(regclass) TO pg_monitor;
