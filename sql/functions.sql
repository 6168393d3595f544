-- Functions that detect and explain. STABLE, since the answer depends on the store and on libmagic's
-- database; the cost is that of reading and judging a file, in units of cpu_operator_cost.

CREATE FUNCTION ntt_detect_mime(blobid text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000
    AS 'MODULE_PATHNAME', 'ntt_detect_mime_blob_wrapper';
COMMENT ON FUNCTION ntt_detect_mime(text) IS
    'MIME type of a blob in the store, as given by file --mime-type; null with a warning if the blob cannot be read';

CREATE FUNCTION ntt_detect_mime(content bytea) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE COST 100000
    AS 'MODULE_PATHNAME', 'ntt_detect_mime_content_wrapper';
COMMENT ON FUNCTION ntt_detect_mime(bytea) IS
    'MIME type of the given bytes, as given by file --mime-type';

CREATE FUNCTION ntt_inspect_blob(
    blobid text,
    OUT path text, OUT status text, OUT mime_type text, OUT size bigint, OUT bytes_read bigint,
    OUT detail text)
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1 COST 100000
    AS 'MODULE_PATHNAME', 'ntt_inspect_blob_wrapper';
COMMENT ON FUNCTION ntt_inspect_blob(text) IS
    'explains the answer of ntt_detect_mime for a blob: path, status, size and bytes read';

CREATE FUNCTION ntt_mime_version(
    OUT extension text, OUT libmagic text, OUT magic_database text, OUT magic_entries int,
    OUT prefilter boolean, OUT warnings text[])
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 1
    AS 'MODULE_PATHNAME', 'ntt_mime_version_wrapper';
COMMENT ON FUNCTION ntt_mime_version() IS
    'releases of the extension and of libmagic, magic database, prefilter, and known problems';

CREATE FUNCTION ntt_cancel_backfill(run_id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ntt_cancel_backfill_wrapper';
COMMENT ON FUNCTION ntt_cancel_backfill(bigint) IS
    'asks a run to stop after its current batches; returns true if it was running';
